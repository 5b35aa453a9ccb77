"""What goes wrong in one process ends them all, and is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tiny_run import tiny_world

SOURCE = Path(__file__).resolve().parents[2] / "src"


POISON = """
import math, os, pathlib, sys
from agenttuning.training import watch
whole = watch.Watch.add
def add(self, counts, origin, rows):
    if self.trainer.state.global_step == 2 and self.trainer.args.process_index == 1:
        self.losses = self.losses.clone()
        self.losses[1] = math.nan
        pathlib.Path(os.environ["BAD"]).write_text(str(rows[1][0]))
    return whole(self, counts, origin, rows)
watch.Watch.add = add
from agenttuning.cli import main
sys.exit(main())
"""


@pytest.mark.slow
def test_a_process_with_a_bad_row_stops_all_of_them_and_names_it(tmp_path):
    """The second process has it, in its second row of the third step; the main one tells of it."""
    world = tiny_world(tmp_path)
    (tmp_path / "poison.py").write_text(POISON)
    words = [str(tmp_path / "poison.py"), "train", str(world), "per_device_train_batch_size=2", "max_steps=6"]
    words += ["launch.accelerate_config=ddp", "--cpu-processes", "2"]
    words += ["save_steps=1", "--run-dir", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE), "BAD": str(tmp_path / "bad")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    bad = int((tmp_path / "bad").read_text())
    record = json.loads((tmp_path / "two/diverged.json").read_text())
    assert len({row["row"] for row in record["rows"]}) == 4  # of both processes
    assert record["rows"][0]["row"] == bad and record["rows"][0]["conversations"][0]["ids"]
    assert "the loss of step 3 is nan" in done.stderr and f"The loss is no number in row {bad} (" in done.stderr
    assert record["last_good"].endswith("checkpoint-2")
