"""benchmarks/train.py: both trainers do the same work, and the table is what was measured."""

from __future__ import annotations

import sys

import pytest

from agenttuning.recipe.schema import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import train as bench  # noqa: E402


def test_ours_and_trl_train_the_same(tmp_path):
    steps = 10
    path = bench.write_world(tmp_path / "a", steps)
    mine = bench.ours(tmp_path / "a", path)
    theirs = bench.peer(tmp_path / "a", path)
    found = bench.compare([mine], [theirs], warmup=5)
    assert len(mine["losses"]) == steps // bench.EVERY == 2 and mine["losses"][1] < mine["losses"][0]
    assert found["losses_apart"] < 1e-4 and found["n"] == 1
    assert found["tokens"] > 0.8 * steps * 6 * 256  # packed rows of the twin's recipe are nearly full
    assert found["ratio"] == pytest.approx(mine["tokens_per_second"][1] / theirs["tokens_per_second"][1])


def run(speeds, losses=(3.0, 2.0), tokens=100):
    return {"tokens_per_second": list(speeds), "losses": list(losses), "tokens": tokens, "threads": 2}


def test_the_ratio_is_of_neighbours_without_the_warm_up():
    mine, theirs = [run([1, 300, 100]), run([1, 500, 500])], [run([9, 100, 100]), run([9, 100, 100])]
    found = bench.compare(mine, theirs, warmup=bench.EVERY)
    assert found["ratios"] == [2.0, 5.0] and found["ratio"] == 3.5


@pytest.mark.parametrize("other", [run([1, 1], losses=(3.0, 2.1)), run([1, 1], tokens=101)])
def test_a_comparison_of_different_work_is_none(other):
    with pytest.raises(SystemExit, match="did not train the same"):
        bench.compare([run([1, 1])], [other], warmup=0)
