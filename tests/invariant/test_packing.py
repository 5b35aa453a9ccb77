"""Packing changes speed and nothing else: the same conversations give the same loss and the same gradient."""

from __future__ import annotations

import json

import pytest

from agenttuning.errors import UserError
from agenttuning.train import train
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights

# One step of plain gradient descent at rate 1: the difference of the weights is the gradient.
ONE_STEP = ("max_steps=1", "optim=sgd", "learning_rate=1.0", "lr_scheduler_type=constant", "warmup_steps=0",
            "weight_decay=0.0", "max_grad_norm=0.0", "save_strategy='no'", "mixture.draws=12")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def one_step(world, run_dir, *overrides):
    """Loss, gradient by parameter name, and the record of one step over all conversations."""
    train(tiny_recipe(world, run_dir, *ONE_STEP, *overrides))
    before, after = weights(world.parents[2] / "base"), weights(run_dir / "model")
    gradient = {name: before[name] - after[name] for name in before}
    return losses(run_dir)[0], gradient, json.loads((run_dir / "train.json").read_text())


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize(
    ("rows", "per_device"), [(7, 7), (7, 1)], ids=["one micro-batch of rows", "seven micro-batches"]
)
def test_packed_equals_unpacked(world, tmp_path, attention, rows, per_device):
    pinned = f"launch.attention={attention}"
    alone = one_step(world, tmp_path / "a", pinned, "launch.global_batch=12", "per_device_train_batch_size=12")
    packing = ("packing=true", f"launch.global_batch={rows}", f"per_device_train_batch_size={per_device}")
    packed = one_step(world, tmp_path / "b", pinned, *packing)
    assert packed[0] == pytest.approx(alone[0], abs=2e-6)
    for name, gradient in alone[1].items():
        # the gradient is a difference of weights up to 1, which float32 holds to 6e-8
        assert (packed[1][name] - gradient).abs().max() <= 2e-6 * gradient.abs().max() + 1.2e-7, name
    assert packed[2]["tokens"] == alone[2]["tokens"]  # seven rows are all of them: nothing was dropped
    assert packed[2]["supervised_tokens"] == alone[2]["supervised_tokens"]


def test_varlen_with_recomputed_layers_trains_the_same_and_is_not_saved(world, tmp_path, capsys):
    packing = ("packing=true", "launch.global_batch=7", "per_device_train_batch_size=7")
    plain = one_step(world, tmp_path / "a", "launch.attention=sdpa", *packing)
    again = one_step(world, tmp_path / "b", "launch.attention=auto", "activation_checkpointing=true", *packing)
    assert again[2]["attention"] == "varlen"
    assert "attention  varlen (auto: on a CPU the fastest for packed rows" in (said := capsys.readouterr().out)
    assert said.index("probe      conversations packed and alone differ by") < said.index("step 1/1")
    assert again[0] == pytest.approx(plain[0], abs=2e-6)
    for name, gradient in plain[1].items():
        assert (again[1][name] - gradient).abs().max() <= 2e-6 * gradient.abs().max() + 1.2e-7, name
    assert "varlen" not in (tmp_path / "b" / "model" / "config.json").read_text()  # nobody else could load it


def test_a_batch_that_would_unpack_the_attention_is_refused(world, tmp_path, monkeypatch):
    from agenttuning.training import collate

    whole = collate.Collator.__call__

    def with_mask(self, rows):
        batch = whole(self, rows)
        return {**batch, "attention_mask": batch["input_ids"].ne(-1).long()}

    monkeypatch.setattr(collate.Collator, "__call__", with_mask)
    with pytest.raises(UserError, match="no attention_mask"):
        train(tiny_recipe(world, tmp_path / "a", "packing=true"))
