"""The global batch is what counts: 4 at once = 2 x 2 = 1 x 4, although the rows hold different numbers of tokens."""

from __future__ import annotations

import pytest

from agenttuning.train import train
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights


def test_four_at_once_equals_two_by_two_equals_one_by_four(tmp_path, capsys):
    world = tiny_world(tmp_path)
    runs = {}
    for size, accumulated in ((4, 1), (2, 2), (1, 4)):
        run_dir = tmp_path / "runs" / str(size)
        # a rate per step that shows the gradient: AdamW alone would hide its scale
        train(tiny_recipe(world, run_dir, f"per_device_train_batch_size={size}", "optim=sgd", "learning_rate=0.5"))
        assert f"{size} per device x 1 processes x {accumulated} accumulated" in capsys.readouterr().out
        runs[size] = losses(run_dir), weights(run_dir / "model")
    whole = runs.pop(4)
    assert len(whole[0]) == 6 and whole[0][0] - whole[0][-1] > 0.1
    for found in runs.values():
        assert found[0] == pytest.approx(whole[0], abs=3e-6)
        for name, weight in whole[1].items():
            assert (found[1][name] - weight).abs().max() < 3e-6, name
