"""The sides of benchmarks/episodes.py play the same episodes to their end; what they measure is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agenttuning.recipe.schema import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "episodes.py"


def output(*words: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), "--episodes", "6", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("side", ["ours", "ours_async", "loop"])
def test_a_side(side) -> None:
    assert json.loads(output("--side", side))["wall_ms"] > 0


@pytest.mark.slow
def test_all_sides(tmp_path) -> None:
    pytest.importorskip("inspect_ai")
    output("--repetitions", "1", "--live", "4", "--out", str(tmp_path / "record.json"))
    record = json.loads((tmp_path / "record.json").read_text())
    assert set(record["milliseconds_a_turn"]) == {"ours", "ours_async", "loop", "inspect", "ours_server", "loop_server"}
    assert record["turns"] == 33 and record["n"] == 1
