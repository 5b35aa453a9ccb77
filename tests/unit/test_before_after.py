"""Base beside tuned, for runs without published numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from agenttuning import protocols
from agenttuning.environments import TASKS, room
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.protocols.messages import own
from agenttuning.scoring import before_after, compare, scores
from helpers import paper_scores
from helpers.paper_scores import won


def played(policy, model) -> list[dict]:
    protocol, settings = protocols.load(), {"model": model, "seed": 0, "wait_s": 0, "progress": False}
    modules = TASKS.values()
    return [r for m in modules for r in play(room(m), m.items("test", 12, 0), policy, protocol, own(m), **settings)]


def mute(turns):
    return [""] * len(turns)


def recipe(tmp_path: Path, name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, run_dir=tmp_path)


def write_side(tmp_path, side, policy, **notes) -> dict:
    found = scores.score_records(played(policy, side), protocols.load(), notes or None)
    scores.write(found, tmp_path / "eval" / side)
    return found


def test_before_and_after(tmp_path, capsys) -> None:
    write_side(tmp_path, "base", mute)
    write_side(tmp_path, "tuned", expert)
    text = compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))
    assert capsys.readouterr().out == text + "\n"
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "0.0 [0.0, 24.2] n=12 of 150" in lines["household (success rate)"]
    assert "100.0 [75.8, 100.0] n=12 of 150" in lines["household (success rate)"]
    assert "+100.0 [" in lines["household (success rate)"]
    assert "100.0 [" in lines["held-in mean"]
    assert "held-out mean" in lines
    assert "1.00 -> 0.00" in text


def test_errors_are_told_of_tasks_that_have_episodes(tmp_path) -> None:
    general = {"score": 50.0, "interval": [20.0, 80.0], "n": 10, "void": None, "metric": "accuracy", "rewards": {}}
    sides = {side: write_side(tmp_path, side, policy) for side, policy in (("base", mute), ("tuned", expert))}
    for side, found in sides.items():
        found["tasks"]["knowledge"] = general
        if side == "tuned":
            found["tasks"]["shop"] |= {"errors": None, "void": "5 of 12 episodes lost to infrastructure"}
        scores.write(found, tmp_path / "eval" / side)
    above, below = compare.compare(recipe(tmp_path, "agentlm-tiny/sft")).split("share of episodes with an error")
    assert "knowledge (accuracy)" in above and "knowledge" not in below
    assert "shop" in below and "1.00 -> -" in below, "one side is worth its row"
    for side, found in sides.items():
        scores.write({**found, "tasks": {"knowledge": general}}, tmp_path / "eval" / side)
    assert "share of episodes" not in compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))


def test_one_side_only(tmp_path) -> None:
    write_side(tmp_path, "tuned", expert)
    text = compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))
    assert before_after.ABSENT in text
    assert "+" not in text.split("share of episodes")[0].replace("tuned - base", "")


def test_nothing_measured_is_an_error(tmp_path) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))
    with pytest.raises(UserError, match="there are none for modern/qwen3-8b/sft"):
        compare.compare(recipe(tmp_path, "modern/qwen3-8b/sft"), as_json=True)
    assert not (tmp_path / "results").exists()


def test_general_results_are_rows_of_their_own_each_protocol_and_backend(tmp_path) -> None:
    tiny = {"task": "mmlu", "not_comparable": "practice items of our own"}
    rated = {"task": "mt_bench", "not_comparable": "practice items of our own"}
    for side, k in (("base", 10), ("tuned", 30)):
        paper_scores.write(tmp_path, side, "general/paper/transformers", "paper@1", {"tiny-mmlu": (won(k, 40), tiny)})
    paper_scores.write(tmp_path, "tuned", "general/corrected/vllm", "corrected@1", {"tiny-mmlu": (won(20, 40), tiny)})
    for side, first in (("base", 3.0), ("tuned", 4.0)):
        ratings = {"tiny-mt_bench": ([first, 6.0] * 4, rated)}
        paper_scores.write(tmp_path, side, "general/paper/server", "paper@1", ratings)
    lines = compare.compare(recipe(tmp_path, "agentlm-tiny/sft")).splitlines()
    [paper] = [line for line in lines if line.startswith("tiny-mmlu (acc, paper@1, transformers)")]
    assert "25.0 [" in paper and "75.0 [" in paper and "+50.0 [" in paper and paper.endswith("n=40")
    [corrected] = [line for line in lines if line.startswith("tiny-mmlu (acc, corrected@1, vllm)")]
    assert before_after.ABSENT in corrected and "50.0 [" in corrected
    [rating] = [line for line in lines if line.startswith("tiny-mt_bench (rating, paper@1, server)")]
    assert "5.0 [" in rating and "+0.5 [" in rating, "a rating is no share of 100"


def test_the_same_ids_of_other_items_are_no_pair(tmp_path) -> None:
    for side, digest in (("base", "a"), ("tuned", "b")):
        scored = {"gsm8k": (won(3, 9), {"data": {"sha256": digest}})}
        paper_scores.write(tmp_path, side, "general/stock/transformers", "stock@1", scored)
    assert "no item asked of both alike" in compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))


def test_sides_of_different_protocols_are_refused(tmp_path) -> None:
    found = write_side(tmp_path, "base", mute)
    scores.write({**found, "protocol": "miniature@2"}, tmp_path / "eval" / "tuned")
    with pytest.raises(UserError, match="mix the rules"):
        compare.compare(recipe(tmp_path, "agentlm-tiny/sft"))
