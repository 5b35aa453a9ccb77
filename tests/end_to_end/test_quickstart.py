"""The miniature from nothing to its page, with few steps and items: every stage runs, and the same seed repeats it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.cli import main
from agenttuning.miniature.quickstart import quickstart
from helpers.small_quickstart import small_repository

ITEMS = {"agent_items": 4, "general_items": 6}
TASKS = ["household", "database", "shop", "files", "knowledge", "arithmetic", "functions"]


def judged(run):
    """What was scored, without the date and the place."""
    found = {}
    for side in ("base", "tuned"):
        scores = json.loads((run / "eval" / side / "scores.json").read_text())
        found[side] = {name: [entry["score"], entry["n"], entry["statuses"]] for name, entry in scores["tasks"].items()}
        found[side]["weights"] = scores["notes"]["model_sha256"]
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    root = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        quickstart(small_repository(root), **ITEMS)
    return root


def test_every_stage_leaves_its_result(first):
    run = first / "runs" / "agentlm-tiny" / "sft"
    found = judged(run)
    assert list(found["base"]) == list(found["tuned"]) == [*TASKS, "weights"]
    assert found["base"]["weights"] != found["tuned"]["weights"]
    assert [entry[1] for entry in list(found["tuned"].values())[:7]] == [4] * 4 + [6] * 3
    page = (run / "report.html").read_text()
    assert all(name in page for name in TASKS) and "miniature" in page.lower()
    realised = json.loads((run / "data" / "mixture.json").read_text())["sources"]
    assert realised["miniature-agent"]["share_realised"] == pytest.approx(0.2, abs=0.1)  # 48 draws
    record = json.loads((run / "quickstart.json").read_text())
    assert sum(record["seconds"].values()) <= record["total_seconds"] and record["peak_rss_gib"] > 0.1


def test_the_same_seed_gives_the_same_weights_and_scores(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quickstart(small_repository(tmp_path), **ITEMS)
    runs = [root / "runs" / "agentlm-tiny" / "sft" for root in (first, tmp_path)]
    assert judged(runs[0]) == judged(runs[1])


def test_a_second_call_makes_nothing_again(first, monkeypatch, capsys):
    monkeypatch.chdir(first)
    model = first / "runs" / "agentlm-tiny" / "sft" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    quickstart("recipes/agentlm-tiny", **ITEMS)
    assert model.stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("is finished; to train it again: --resume never") == 3


def test_the_ablation_trains_its_variants_from_one_base_and_the_scan_shares_them(first, monkeypatch, capsys):
    monkeypatch.chdir(first)
    words = ["--seeds", "42,43", "--only", "agent-only", "--only", "mixed", "--eval=--items 4"]
    assert main(["ablation", "recipes/agentlm-tiny", *words]) == 0
    out = capsys.readouterr().out
    assert "agent-only - mixed" in out and "95 % t intervals over seeds 42, 43" in out
    assert out.index("in all: 4 runs") < out.index("agenttuning train")  # the cost comes first
    content = json.loads((first / "runs/agentlm-tiny/sft/results/ablation-mixture.json").read_text())
    assert [content["schema"], content["kind"]] == ["agenttuning-ablation/1", "mixture"]
    rows = {row["name"]: row for row in content["rows"]}
    assert [len(row["seeds"]) for row in rows.values()] == [0, 2, 2]
    assert list(rows) == ["nothing (base)", "agent-only", "mixed"]
    assert all(row["groups"]["held_in"]["of"] == 3 for row in rows.values())
    assert rows["agent-only"]["realised_eta"] == 1.0 and rows["mixed"]["eta"] == 0.2
    assert 0.1 < rows["mixed"]["realised_eta"] < 0.3
    folders = [Path(folder) for row in content["rows"][1:] for folder in row["run_dirs"]]
    assert len(set(folders)) == 4 and all((folder / "resolved.yaml").is_file() for folder in folders)
    assert Path("runs/agentlm-tiny/sft") in folders  # mixed with the recipe's own seed is the main run
    judged = [json.loads((folder / "eval/tuned/scores.json").read_text()) for folder in folders]
    assert [entry["n"] for found in judged for entry in found["tasks"].values()] == [4] * 28
    means = [found["groups"]["general"]["score"] for found in judged[:2]]
    assert rows["agent-only"]["groups"]["general"]["score"] == pytest.approx(sum(means) / 2)

    # eta 1 is the ablation's agent-only, and 0.2 the main run: nothing is trained again
    def trained():
        return {path: path.stat().st_mtime_ns for path in first.glob("runs/**/model/model.safetensors")}

    before = trained()
    assert main(["eta-scan", "recipes/agentlm-tiny", "--etas", "0.2,1", "--eval=--items 4"]) == 0
    assert trained() == before and len(before) == 2 + 4
    out = capsys.readouterr().out
    assert "left to train: 0 runs" in out and "best eta by held-out score" in out and "held-in by eta" in out
    scan = json.loads((first / "runs/agentlm-tiny/sft/results/ablation-eta.json").read_text())["rows"]
    assert [row["eta"] for row in scan] == [None, 0.2, 1.0]
