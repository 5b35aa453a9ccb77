"""Collecting on the paper's six kinds of tasks: the teacher scripted or behind a server, the card, and the overlap."""

from __future__ import annotations

import json
import logging
from itertools import cycle

import pytest
import yaml

from agenttuning import cli
from agenttuning.collect import STATS, collect, episodes_of
from agenttuning.collect.plan import read_plan
from agenttuning.data.convert import convert
from agenttuning.data.defects import find
from agenttuning.environments import HELD_IN, webshop
from agenttuning.errors import UserError
from agenttuning.policies.serve import serve
from agenttuning.recipe.schema import REPOSITORY

PLAN = {
    "teacher": {"slip": 0.3, "give_up": 0.0, "seed": 0},
    "protocol": "practice",
    "tasks": {"kg": {"items": 12, "threshold": 1.0}, "mind2web": {"items": 12, "threshold": 0.6667}},
    "out": "unused",
}


def write(tmp_path, **changes):
    path = tmp_path / "collect.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "out": str(tmp_path / "out"), **changes}))
    return path


def rows(folder, task):
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_file_plays_all_six_with_the_paper_s_thresholds() -> None:
    plan = read_plan(REPOSITORY / "recipes/collect/tiny.yaml")
    assert set(plan.tasks) == set(HELD_IN)
    for name, task in plan.tasks.items():
        assert task.threshold == (0.6667 if name == "mind2web" else 1.0)


def test_rows_card_and_table_of_a_scripted_teacher(tmp_path, capsys) -> None:
    assert cli.main(["collect", str(write(tmp_path))]) == 0
    out = tmp_path / "out"
    stats = json.loads((out / STATS).read_text())
    for name, one in stats["tasks"].items():
        found = rows(out, name)
        assert 0 < one["kept"] < one["instructions"] == 12 and one["rows"] == len(found)
        for row in found:
            assert convert(row, "agentinstruct", name)["messages"][-1]["loss"] is True
    single = rows(out, "mind2web")
    assert all(sum(turn["loss"] is True for turn in row["conversations"]) == 1 for row in single), "one question a row"
    assert all(one["same"] == 0 and one["items"] == 200 for one in stats["overlap"].values())
    readme = (out / "README.md").read_text()
    head = yaml.safe_load(readme.split("---")[1])
    assert head["license"] == "apache-2.0" and "No licence" not in readme
    assert "| kg | practice items | embedded: small graphs made for the items" in readme
    assert "The instructions were generated" in readme and "slips with probability 0.3" in readme
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"by practice@1; into {out}") and said[1].startswith("kg           12 practice items in ")
    assert "evaluation items that stand whole in a row: none of 400" in said and said[-1] == f"written: {out}"


def test_the_experts_thought_about_a_page_names_what_is_on_it(tmp_path) -> None:
    """`data` would else list half of these rows as answers to another page's question."""
    plan = {"teacher": {"slip": 0.0, "give_up": 0.0, "seed": 0}, "tasks": {"mind2web": PLAN["tasks"]["mind2web"]}}
    found = rows(collect(write(tmp_path, **plan), progress=False), "mind2web")
    assert len(found) > 12
    assert [find(convert(row, "agentinstruct", "mind2web")["messages"]) for row in found] == [[]] * len(found)


def test_evaluation_items_in_the_rows_are_said_loudly(tmp_path, capsys, monkeypatch) -> None:
    """The training items themselves as `against`: every kept one is found, by the row that it became."""
    monkeypatch.setattr(webshop, "load", lambda path: webshop.items("train", 6, 0))
    tasks = {"webshop": {"items": 6, "threshold": 1.0, "against": "the same"}}
    plan = write(tmp_path, tasks=tasks, teacher={"slip": 0.0, "give_up": 0.0, "seed": 0})
    assert cli.main(["collect", str(plan)]) == 0
    assert "in a row: webshop 6 of 6; do not score a model that learned them" in capsys.readouterr().out
    assert "**Evaluation items are in the rows: webshop 6 of 6**" in (tmp_path / "out/README.md").read_text()
    assert len(json.loads((tmp_path / "out" / STATS).read_text())["overlap"]["webshop"]["same_ids"]) == 6


def test_a_served_teacher_is_not_asked_twice_and_its_licence_is_its_owner_s(tmp_path, capsys) -> None:
    asked, replies = [], cycle(["Action: get_relations(nothing)\n", "Final Answer: #0"])

    def teacher(turns):
        asked.extend(turns)
        return [next(replies) for _ in turns]

    tasks = {"kg": {"items": 4, "threshold": 1.0}}
    with serve(teacher, "a-teacher") as url:
        plan = write(tmp_path, teacher={"server": url, "model": "a-teacher", "seed": 0}, tasks=tasks)
        assert cli.main(["collect", str(plan)]) == 0
        first = len(asked)
        assert first and cli.main(["collect", str(plan)]) == 0
    assert len(asked) == first, "played episodes are kept"
    said = capsys.readouterr().out
    assert "nothing was kept of kg" in said and f"agenttuning episodes {episodes_of(tmp_path / 'out')}" in said
    readme = (tmp_path / "out/README.md").read_text()
    head = yaml.safe_load(readme.split("---")[1])
    assert "license" not in head and "No licence is stated" in readme
    assert "configs" not in head, "an empty file is no split: the Hub cannot read one"
    assert "The teacher is a-teacher, asked at temperature 1 for at most 512 tokens a turn" in readme
    assert cli.main(["episodes", str(episodes_of(tmp_path / "out")), "--task", "kg"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "practise"}, "did you mean `practice`"),
        ({"prompts": "folder"}, "prompts of its own"),
        ({"teacher": {"server": "http://127.0.0.1:1/v1", "model": "m", "seed": 0, "concurrency": 0}}, "concurrency"),
        ({"teacher": {"server": "http://127.0.0.1:1/v1", "model": "m", "seed": 0}}, "no server listens"),
        ({"tasks": {"kg": {"items": 2, "threshold": 1.0, "env": {"uri": "x"}}}}, "'uri'"),
        ({"tasks": {"kg": {"items": 2, "threshold": 1.0, "data": "nowhere.json"}}}, "nowhere.json"),
    ],
)
def test_a_mistake_is_said_before_anything_is_played(tmp_path, change, message, caplog) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=message):
        collect(write(tmp_path, **change))
    assert not (tmp_path / "out").exists() and not caplog.records
