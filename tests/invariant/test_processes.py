"""Two processes train what one trains: the same losses, token counts and weights, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.train import train
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    world = tiny_world(tmp_path)
    train(tiny_recipe(world, tmp_path / "one"))
    words = ["-m", "agenttuning", "train", str(world), "per_device_train_batch_size=2", "--run-dir"]
    done = subprocess.run(
        # accelerate starts one process for MULTI_CPU and says nothing, so torchrun it is
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *words, str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "2 per device x 2 processes x 1 accumulated" in done.stdout
    assert done.stdout.count("step 1/6") == 1  # one process speaks
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-6)
    one, two = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("one", "two"))
    assert two["processes"] == 2 and two["tokens"] == one["tokens"]
    assert two["supervised_tokens"] == one["supervised_tokens"]
    alone, together = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    for name, weight in alone.items():
        assert (together[name] - weight).abs().max() < 1e-4, name  # AdamW magnifies rounding where gradients are ~0
    assert (tmp_path / "two" / "checkpoints" / "checkpoint-6" / "rng_state_1.pth").is_file()
