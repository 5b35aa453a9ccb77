"""evaluation/RESULTS.md is what the generator makes of evaluation/results, and says of nothing more that it was run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import figures, read, summary
from agenttuning.scoring import comparison, published
from helpers.finished_run import finished_run
from helpers.paper_run import compared, paper_run


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert summary.PAGE.read_text(encoding="utf-8") == summary.text(), "run `make results`"


def test_what_was_not_run_says_so_beside_what_was_published(tmp_path) -> None:
    text = summary.text(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("|") and "not run" in line]
    assert len(rows) == 48 and all(row.count("not run") == 3 for row in rows)
    told = published.load()
    assert f"| MMLU | general | 14042 | {told.scores['mmlu']['llama-2-70b-chat']} | not run |" in text


def test_a_runs_results_are_taken_in_with_their_intervals_and_without_items(tmp_path) -> None:
    run = finished_run(tmp_path / "run")
    path = summary.take(run, tmp_path / "results")
    assert path.name == "agentlm-tiny-sft.json" and "household_test_0" not in path.read_text()
    text = summary.text(tmp_path / "results")
    for row in figures.rows(read(run)):
        told = f"{row.tuned.score:.1f} ({row.tuned.low:.1f} to {row.tuned.high:.1f})"
        assert any(row.name in line and told in line for line in text.splitlines()), row


def test_a_comparison_is_taken_in_with_verdicts_and_no_path_of_this_machine(tmp_path) -> None:
    run = paper_run(tmp_path / "run", most=1)
    made = compared()
    comparison.write(
        replace(
            made,
            rows=(
                replace(made.rows[0], scores=f"{tmp_path}/x/scores.json", why=f"make x ARGS='--run-dir {run.run_dir}'"),
                *made.rows[1:],
            ),
        ),
        run.run_dir,
    )
    path = summary.take(run, tmp_path / "results")
    assert str(tmp_path) not in path.read_text() and json.loads(path.read_text())["rows"][0]["scores"] == "scores.json"
    text = summary.text(tmp_path / "results")
    (line,) = [line for line in text.splitlines() if line.startswith("| ALFWorld") and "n = 50" in line]
    assert "76.0 | 51.0 (38.5 to 65.2, n = 50): differs | not run |" in line
    assert text.count("No run of this size") == 2


def test_nothing_run_is_nothing_to_take(tmp_path, capsys, monkeypatch) -> None:
    run = paper_run(tmp_path / "run", sides=())
    with pytest.raises(summary.UserError, match="no result to take"):
        summary.take(run, tmp_path / "results")
    monkeypatch.setattr(summary, "PAGE", tmp_path / "RESULTS.md")
    assert summary.main(["nowhere.yaml"]) == 2 and "nowhere.yaml" in capsys.readouterr().err
    assert summary.main([]) == 0 and (tmp_path / "RESULTS.md").read_text() == summary.PAGE.read_text()


def test_the_ablations_numbers_are_those_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    text = summary.PAGE.read_text(encoding="utf-8")
    for name in ("agent only", "general only", "mixed, 20 % agent"):
        (here,) = re.findall(rf"^\| {name} \|(.*)\|$", readme, re.M)
        (there,) = re.findall(rf"^\| {name} \|(.*)\|$", text, re.M)
        assert [re.findall(r"[\d.]+", cell) for cell in here.split("|")] == [
            re.findall(r"[\d.]+", cell.partition(";")[0]) for cell in there.split("|")
        ]
