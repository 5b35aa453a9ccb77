"""The miniature from nothing to its page, with few steps and items: every stage runs, and the same seed repeats it."""

from __future__ import annotations

import json

import pytest

from agenttuning.miniature.ablation import ARMS, ablation
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


def test_the_ablation_trains_all_arms_from_one_base(first, monkeypatch, capsys):
    monkeypatch.chdir(first)
    result = ablation("recipes/agentlm-tiny", **ITEMS, seeds=(42, 43))
    assert list(result["arms"]) == list(ARMS) and all(len(scores) == 2 for scores in result["arms"].values())
    out = capsys.readouterr().out
    assert "agent-only - mixed" in out and "95 % t intervals over seeds 42, 43" in out
    runs = first / "runs" / "agentlm-tiny" / "ablation"
    sources = [json.loads((runs / arm / "seed-42" / "data" / "mixture.json").read_text())["sources"] for arm in ARMS]
    assert [sorted(found) for found in sources] == [
        ["miniature-agent"],
        ["miniature-general"],
        ["miniature-agent", "miniature-general"],
    ]
