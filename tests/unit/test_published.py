"""evaluation/published.yaml is complete, holds what was published, and its overall scores come out of its cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring import published

FACTS = Path(__file__).resolve().parents[2].parent / "shared/facts/published.json"
facts = pytest.mark.skipif(not FACTS.is_file(), reason="the facts that published.yaml was written from are not here")


@pytest.fixture(scope="module")
def content() -> dict:
    return read_mapping(published.PUBLISHED)


def test_all_128_cells_have_value_n_metric_source_and_flag() -> None:
    paper = published.load()
    cells = [paper.cell(task, model) for task, row in paper.scores.items() for model in row]
    assert len(cells) == 128 and len({(cell.task, cell.model) for cell in cells}) == 128
    for cell in cells:
        assert cell.value >= 0 and cell.n > 0 and cell.metric and cell.source and cell.verified is True
    assert {cell.task for cell in cells if not cell.n_verified} == {"mind2web", "sciworld", "mmlu", "humaneval"}
    assert [len(paper.group(group)) for group in published.GROUPS] == [6, 6, 4]


def test_the_24_published_overalls_come_out_to_two_decimals() -> None:
    paper = published.load()
    models = list(paper.scores["alfworld"])
    checked = 0
    for group in published.GROUPS:
        for model in models:
            own = {task: paper.scores[task][model] for task in paper.group(group)}
            assert round(published.overall(paper, group, own), 2) == paper.overalls[group][model]
            checked += 1
    assert checked == 24
    assert published.overall(paper, "held_in", {"alfworld": 1.0}) is None
    part = {"alfworld": 76.0, "os": 18.1}
    assert published.overall_over(paper, part) == pytest.approx((76.0 / 20.4 + 18.1 / 19.14) / 2)


def test_the_integers_that_the_paper_prints_do_not_give_its_held_out_overalls() -> None:
    paper = published.load()
    missed = []
    for group in published.GROUPS:
        for model in paper.overalls[group]:
            parts = [paper.scores[task][model] / paper.tasks[task]["divisor_printed"] for task in paper.group(group)]
            if round(sum(parts) / len(parts), 2) != paper.overalls[group][model]:
                missed.append((group, model))
    assert sum(group == "held_out" for group, _ in missed) >= 6
    assert ("held_out", "gpt-3.5-turbo-0613") in missed  # 1.46, and 1.49 was published


def test_a_model_set_beside_the_table_leaves_the_divisors_as_they_are() -> None:
    paper = published.load()
    assert paper.divisors["alfworld"] == pytest.approx(20.4) and paper.divisors["webarena"] == pytest.approx(2.76)
    for group in published.GROUPS:
        assert sum(paper.overalls[group][m] for m in list(paper.overalls[group])[:5]) / 5 == pytest.approx(1, abs=0.005)


def test_published_gains_are_the_ratios_of_overalls(content) -> None:
    paper = published.load()
    for group in ("held_out", "general"):
        for size, gain in zip(("7b", "13b", "70b"), content["gain_percent"][group], strict=True):
            new, old = (
                published.overall(paper, group, {task: row[model] for task, row in paper.scores.items()})
                for model in (f"agentlm-{size}", f"llama-2-{size}-chat")
            )
            assert round(100 * (new / old - 1)) == gain


def test_every_published_number_has_a_flag_and_evidence(content) -> None:
    def flagged(node, above):
        if isinstance(node, dict):
            here = above or {"verified", "evidence"} <= set(node)
            for value in node.values():
                flagged(value, here)
        elif isinstance(node, list):
            for value in node:
                flagged(value, above)
        elif isinstance(node, int | float) and not isinstance(node, bool):
            assert above, node

    for name, block in content.items():
        if name == "tasks":
            for told in block.values():
                flagged(told["n"], False)
        elif name != "schema":
            flagged(block, False)
    numbers = {"scores", "overalls", "gain_percent", "mixture_ablation", "filtering_ablation", "contamination",
               "error_analysis"}  # fmt: skip
    assert set(content["measures"]) == numbers <= set(content)
    assert all(set(one) == {"metric", "n"} for one in content["measures"].values())


def test_table_1_adds_up(content) -> None:
    table = dict(content["agentinstruct"]["table"])
    total = table.pop("total")
    assert [sum(row[column] for row in table.values()) for column in (0, 1)] == total[:2] == [35341, 1866]
    assert round(sum(row[1] * row[2] for row in table.values()) / total[1], 2) == total[2]
    assert all(100 * row[1] / row[0] == pytest.approx(row[3], abs=0.06) for row in table.values())


def test_published_intervals_are_there_where_n_gives_one() -> None:
    paper = published.load()
    assert paper.interval("alfworld", "agentlm-7b") == pytest.approx((71.5, 91.7), abs=0.05)
    none = {"webshop", "kg", "sciworld", "hotpotqa", "humaneval", "mt_bench"}
    assert {task for task in paper.tasks if paper.interval(task, "agentlm-13b") is None} == none


@facts
def test_scores_overalls_and_tasks_are_those_of_the_facts(content) -> None:
    told, paper = json.loads(FACTS.read_text()), published.load()
    assert content["models"] == list(told["scores"]) == list(told["overall"])
    for model, row in told["scores"].items():
        assert {task: paper.scores[task][model] for task in row} == {task: one["value"] for task, one in row.items()}
        assert all(one["verified"] is paper.cell(task, model).verified for task, one in row.items())
        assert {g: paper.overalls[g][model] for g in paper.overalls} == {
            g: one["value"] for g, one in told["overall"][model].items()
        }
    for name, one in told["tasks"].items():
        mine = content["tasks"][name]
        assert [mine["group"], mine["metric"]] == [one["group"], one["metric"]]
        assert [mine["n"][key] for key in ("value", "verified")] == [one["n"][key] for key in ("value", "verified")]
        assert mine["divisor_printed"] == one["weight_divisor_printed_in_paper"]["value"]
        assert paper.divisors[name] == pytest.approx(one["weight_divisor"]["value"])


@facts
def test_ablations_contamination_and_the_error_figure_are_those_of_the_facts(content) -> None:
    told = json.loads(FACTS.read_text())

    def plain(node) -> dict:
        if {"value", "verified"} <= set(node):
            return {"value": node["value"], "verified": node["verified"]}
        return {key: plain(value) for key, value in node.items()}

    pairs = {"mixture_ablation": "ablation_data_mixture", "filtering_ablation": "ablation_filtering_7b",
             "contamination": "contamination", "mixture": "mixture", "hyperparameters": "hyperparameters"}  # fmt: skip
    for mine, theirs in pairs.items():
        assert plain(content[mine]) == plain(told[theirs]), mine
    for group, gains in ((group, content["gain_percent"][group]) for group in ("held_out", "general")):
        sizes = zip(("7b", "13b", "70b"), gains, strict=True)
        assert all(told["relative_gain_percent"][f"{group}_{size}"]["value"] == gain for size, gain in sizes)
    figure, bars = published.error_analysis(), told["error_analysis_bar_heights"]["value"]
    for panel, one in bars.items():
        for index, kind in enumerate(one["categories"]):
            assert figure.shares[panel][kind] == [one[model][index] for model in figure.models]
    assert content["agentbench_overall"]["table"] == told["agentbench_overall_head_figure"]["value"]
    for name, row in content["agentinstruct"]["table"].items():
        keys = ("instructions", "filtered_trajectories", "avg_turns", "ratio_percent")
        assert row == [told["agentinstruct_table1"][name][key] for key in keys]
    rows = {name: [one["rows"], one["bytes"]] for name, one in told["agentinstruct_hub"]["splits"].items()}
    assert content["agentinstruct_hub"]["splits"] == rows
