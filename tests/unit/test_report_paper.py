"""The report of the paper's sizes: the comparison's numbers and verdicts and no more, whatever a model wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
from test_report import Page

from agenttuning import recipe
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import ablations, bars, headlines, paper, report, templating
from agenttuning.scoring import compare, comparison
from helpers.episode_records import HOSTILE
from helpers.paper_run import compared, paper_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = paper_run(tmp_path_factory.mktemp("runs") / "run", most=3, text=f"{HOSTILE} | [a](b:c) `")
    made = comparison.read(run.run_dir)
    rows = (replace(made.rows[0], why=f"{HOSTILE} | [a](b:c) in {run.run_dir}", model=HOSTILE), *made.rows[1:])
    comparison.write(replace(made, rows=rows), run.run_dir)
    report(run)
    return run


@pytest.fixture(scope="module")
def page(finished):
    return Page((finished.run_dir / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def markdown(finished):
    return (finished.run_dir / "RESULTS.md").read_text(encoding="utf-8")


def cells(markdown: str, head: str) -> list[list[str]]:
    """The rows of the table whose head begins with `head`; every row has as many cells as the head."""
    lines = markdown[markdown.index(f"| {head} |") :].splitlines()
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[: lines.index("")]]
    assert {len(row) for row in table} == {len(table[0])}
    return [[cell.strip() for cell in row] for row in table[2:]]


def test_every_row_of_the_comparison_is_in_the_table_with_its_numbers(finished, page, markdown) -> None:
    made = comparison.read(finished.run_dir)
    table, title = {}, ""
    for row in cells(markdown, "task | model | published"):
        title = row[0] or title
        table[title, row[1]] = row
    assert len(table) == 48
    for row in made.rows:
        _, _, published, ours, n, difference, detectable, by, verdict = table[row.title, row.side]
        assert published.startswith(headlines.number(row.task, row.published)) and row.verdict in verdict
        if row.ours is None:
            assert (ours, n, difference, detectable, by) == ("–", "–", "–", "–", "–")
            continue
        assert ours == f"{headlines.number(row.task, row.ours)} ({headlines.span(row.task, row.interval)})"
        assert n == f"{row.n:,}" and row.protocol in by and row.backend in by
        assert difference.startswith("–" if row.difference is None else headlines.number(row.task, row.difference, "+"))
        assert ours.split(" (")[0] in page.text
    assert page.text.count("○ not run") == 28 + 1  # 6 of each ran side and all 16 of the third; the chart's key


def test_nothing_a_model_or_a_file_said_is_obeyed(finished, page, markdown) -> None:
    text = (finished.run_dir / "report.html").read_text(encoding="utf-8")
    assert not {"script", "img"} & {tag for tag, _ in page.tags} and "<script>document" in page.text
    assert "<script" not in markdown and not re.search(r"(?<!\\)\[a\]", markdown)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", text + markdown)
    assert "://" not in text and "url(" not in text and "/tmp" not in text + markdown
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "style"} & set(attributes) or "style" in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "a":
            file, _, place = attributes["href"].partition("#")
            assert (finished.run_dir / file).is_file() if file else place in places, attributes


def test_no_claim_without_its_numbers(page, markdown) -> None:
    assert "reproduc" not in (page.text + markdown).lower()
    made = compared()
    tuned = next(side for side in headlines.sentences(made) if side["side"] == "tuned")
    told = dict(tuned["lines"])
    assert sum(int(text.split()[0]) for verdict, text in tuned["lines"] if verdict != "overall") == 16
    row = next(row for row in made.rows if row.side == "tuned" and row.verdict == "differs")
    assert f"n = {row.n}" in told["differs"] and headlines.span(row.task, row.interval) in told["differs"]
    assert re.search(
        r"less than 0\.8 \(MMLU, n = 14,042\) to 8\.3 \(OS, n = 144\) and 1\.12 of 10 \(MT-Bench", told["consistent"]
    )
    general = next(text for verdict, text in tuned["lines"] if verdict == "overall" and "general" in text)
    assert "over 3 of 4 tasks, not the paper's quantity; published over the same 3" in general
    released = headlines.sentences(made)[0]
    assert released["side"] == "released" and "this harness" in released["lines"][0][1]


def test_a_further_result_of_a_task_is_shown_and_gets_no_verdict_of_its_own() -> None:
    made = compared()
    extra = replace(
        made.rows[16], beside=True, verdict="not comparable", protocol="stock@1", ours=12.3, interval=(1.0, 2.0)
    )
    more = replace(made, rows=(*made.rows, extra))
    assert headlines.sentences(more) == headlines.sentences(made) and bars.chart(more) == bars.chart(made)
    shown = [row for group in paper.tables(more)["groups"] for task in group["tasks"] for row in task["rows"]]
    assert [row["ours"] for row in shown if row["beside"]] == ["12.3"]


def test_bars_stay_on_their_axis_and_what_was_not_run_is_no_zero() -> None:
    made = compared(("base", "tuned", "released"))
    tasks = {task.title: task for _, group in bars.chart(made) for task in group}
    assert len(tasks) == 16
    for task in tasks.values():
        for bar in task.bars:
            if bar.at is None:
                assert bar.text == "not run"
            else:
                assert 0 <= bar.at <= 100 and (bar.low is None or 0 <= bar.low <= bar.high <= 100)
    assert [bar.text for bar in tasks["SciWorld"].bars][1::2] == ["not run", "not run"]
    assert tasks["MT-Bench"].end == 10 and tasks["MMLU"].end == 100 and tasks["WebArena"].end == 5
    row = next(row for row in made.rows if (row.task, row.side) == ("mmlu", "tuned"))
    assert tasks["MMLU"].bars[3].at == pytest.approx(row.ours) and len(tasks["MMLU"].bars) == 5
    assert tasks["HumanEval"].bars[1].state == "not comparable" and tasks["HumanEval"].bars[1].text.endswith("*")


def test_a_comparison_older_than_a_score_is_made_anew(finished, tmp_path, monkeypatch) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "run")
    run = replace(finished, run_dir_override=tmp_path / "run")
    path, calls = run.run_dir / comparison.FILE, []

    def made_anew(recipe):
        calls.append(recipe.name)
        comparison.write(replace(compared(), date="anew"), recipe.run_dir)

    monkeypatch.setattr(compare, "compare", made_anew)
    newest = max(file.stat().st_mtime for file in run.run_dir.glob("eval/**/scores.json"))
    os.utime(path, (newest + 1, newest + 1))
    assert paper.current(run).date == "2026-11-30" and calls == []
    os.utime(path, (newest - 1, newest - 1))
    assert paper.current(run).date == "anew" and calls == [run.name]
    path.unlink()
    assert paper.current(run).date == "anew" and len(calls) == 2


def test_ablations_stand_beside_the_papers(tmp_path) -> None:
    (mixture,) = ablations.of_paper(tmp_path, "13b")
    assert [name for name, *_ in mixture.rows] == ["mixed", "general only", "agent only"]
    assert mixture.rows[2][1]["held_in"] == ablations.Cell("1.57", "not verified")
    assert {cell.text for *_, ours in mixture.rows for cell in ours.values()} == {"not run"}
    assert len(ablations.of_paper(tmp_path, "7b")) == 2  # the filter was published for 7B alone
    score = {"score": 1.4, "interval": [1.2, 1.6], "tasks": ["db", "os"], "of": 6}
    change = {"held_in": {"difference": -0.5, "interval": [-0.7, -0.3]}}
    rows = [{"name": "agent-only", "groups": {"held_in": score}, "differences": change}, {"name": "<b>", "groups": {}}]
    content = {"schema": ablations.SCHEMA, "kind": "mixture", "rows": rows, "date": "2026-12-01"}
    (tmp_path / "results").mkdir()
    (tmp_path / "results/ablation-mixture.json").write_text(json.dumps(content))
    (tmp_path / "results/ablation-eta.json").write_text(json.dumps({**content, "schema": "another/1", "kind": "eta"}))
    (mixture,) = ablations.of_paper(tmp_path, "13b")
    ours = {name: cells for name, _, cells in mixture.rows}
    told = "1.20 to 1.60; 2 of 6 tasks; \u22120.50 (\u22120.70 to \u22120.30) from the main mixture"
    assert ours["agent only"]["held_in"] == ablations.Cell("1.40", told) and ours["<b>"]["general"].text == "not run"
    assert ours["mixed"]["held_in"].text == "not run" and mixture.made == "2026-12-01"


def test_the_twins_ablation_stands_alone_in_scores_of_100(tmp_path) -> None:
    row = {
        "name": "mixed",
        "groups": {"held_in": {"score": 99.04, "interval": [98.31, 99.6], "tasks": ["shop"], "of": 3}},
    }
    content = {"schema": ablations.SCHEMA, "kind": "mixture", "rows": [row]}
    (tmp_path / "results").mkdir()
    (tmp_path / "results/ablation-mixture.json").write_text(json.dumps(content))
    (table,) = ablations.of_twin(tmp_path)
    assert table.rows[0][2]["held_in"] == ablations.Cell("99.0", "98.3 to 99.6; 1 of 3 tasks") and not table.beside


def test_a_run_without_any_score_is_a_page_of_what_was_published(tmp_path, capsys) -> None:
    run = recipe.load(REPOSITORY / "recipes/agentlm-70b/sft.yaml", (), tmp_path / "run")
    made = replace(compared(()), recipe=run.name, size="70b")
    comparison.write(made, run.run_dir)
    parsed = Page(report(run).read_text(encoding="utf-8"))
    assert (
        parsed.text.count("None of its 16 tasks was run.") == 3 and "AgentLM-70B of this run" in capsys.readouterr().out
    )
    assert "Ours: not measured." in parsed.text and "No records of items" in parsed.text


def test_ratings_are_shown_by_category_with_judge_and_spread(page, markdown) -> None:
    for text in (page.text, markdown):
        assert "gpt-4-0613" in text and "verdict sd 0.400" in text and "6.57 (6.20 to 6.90, n = 3)" in text
    assert ["coding", "5.00", "n = 20"] in cells(markdown, "category | rating")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_bars_stand_out_from_both_grounds_light_and_dark() -> None:
    """WCAG 2.2: 4.5:1 for text (1.4.3), 3:1 for what a chart draws (1.4.11)."""
    css = templating.render("house.css.jinja", {})
    light, dark = css[: css.index("@media")], css[css.index("@media") :]
    for part in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
        for ground in ("paper", "panel"):
            for text in ("ink", "quiet", "good", "bad"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)
            for drawn in ("before", "after", "other", "whisker", "quiet"):
                assert contrast(colours[drawn], colours[ground]) >= 3.0, (drawn, ground, colours)


def test_the_losses_of_the_ablations_are_drawn_beside_this_runs(finished, tmp_path) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "run")
    run = replace(finished, run_dir_override=tmp_path / "run")
    rows = [{"name": "mixed", "run_dirs": [str(run.run_dir)], "groups": {}}]
    for name, loss in (("agent-only", 0.25), ("general-only", 1.75)):
        (tmp_path / name).mkdir()
        log = [{"step": step, "loss": loss} for step in (10, 1490)]
        (tmp_path / name / "train.json").write_text(json.dumps({"log": log}))
        rows.append({"name": name, "run_dirs": [str(tmp_path / name), "elsewhere"], "groups": {}})
    content = {
        "schema": ablations.SCHEMA,
        "kind": "mixture",
        "rows": [*rows, {"name": "lost", "run_dirs": ["nowhere"]}],
    }
    (run.run_dir / "results/ablation-mixture.json").write_text(json.dumps(content))
    assert {name: log and log[0]["loss"] for name, log in paper.logs(run.run_dir).items()} == {
        "agent-only": 0.25,
        "general-only": 1.75,
        "lost": None,
    }
    parsed = Page(report(run).read_text(encoding="utf-8"))
    assert "Beside the runs of the ablations" in parsed.text and "general-only 1.750" in parsed.text
    assert sum(tag == "polyline" for tag, _ in parsed.tags) == 3 + 3
