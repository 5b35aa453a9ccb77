"""Hidden dropout: at Megatron-LM's places, the share asked for, in training alone, and no trace of it after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import dropout
from agenttuning.training.settings import trainer_settings
from helpers.tiny_families import OWN, tiny_of
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights

ROOT = Path(__file__).resolve().parents[2]
MASKS = ROOT / "tests" / "helpers" / "masks_run.py"
IDS = torch.arange(256).reshape(4, 64) % 500


@pytest.fixture
def calls(monkeypatch):
    """A list that gets what every call of dropout gave back."""
    given, drop = [], dropout.dropout
    monkeypatch.setattr(dropout, "dropout", lambda *arguments: given.append(drop(*arguments)) or given[-1])
    return given


@pytest.mark.parametrize("family", OWN)
def test_every_place_is_hit_once_and_drops_its_share(family, calls):
    model = tiny_of(family).train()
    assert len(dropout.install(model, 0.05)) == 5
    model(IDS)
    assert len(calls) == 2 * model.config.num_hidden_layers + 1
    for given in calls:
        assert given.shape == (4, 64, 32)
        share = (given == 0).float().mean().item()
        assert abs(share - 0.05) < 0.0121, share  # five standard deviations of 8,192 draws


@pytest.mark.parametrize("family", OWN)
def test_the_places_are_all_that_is_added_to_the_residual_stream(family, monkeypatch):
    model = tiny_of(family).train()
    dropout.install(model, 0.5)
    embedded = []

    def all_but_the_first(values, share):
        embedded.append(values)
        return values if len(embedded) == 1 else torch.zeros_like(values)

    monkeypatch.setattr(dropout, "dropout", all_but_the_first)
    decoder = model.get_decoder()
    assert torch.equal(decoder(IDS).last_hidden_state, decoder.norm(embedded[0]))
    assert torch.equal(embedded[0], model.get_input_embeddings().weight[IDS])


def test_the_mean_stays_and_the_variance_is_that_of_inverted_dropout():
    model, share, times = tiny_of("llama"), 0.05, 4000
    mlp = model.get_decoder().layers[0].mlp
    torch.manual_seed(1)
    rows = torch.randn(1, 1, 32).expand(times, 1, 32)
    with torch.no_grad():
        plain = mlp(rows[:1])
        dropout.install(model, share)
        mlp.train()
        dropped = mlp(rows)
    deviation = plain.abs() * (share / (1 - share)) ** 0.5  # of one draw: x^2 p / (1 - p)
    assert ((dropped.mean(0) - plain[0]).abs() < 5 * deviation[0] / times**0.5).all()
    assert torch.allclose(dropped.std(0), deviation[0], rtol=0.2)


def test_it_acts_in_training_mode_alone():
    model = tiny_of("llama").eval()
    before = model(IDS).logits
    dropout.install(model, 0.05)
    assert torch.equal(model(IDS).logits, before)
    model.train()
    assert not torch.equal(model(IDS).logits, model(IDS).logits)
    assert torch.equal(model.eval()(IDS).logits, before)


@pytest.mark.parametrize("name", ["Gemma2", "Olmo2", "Cohere", "GPTNeoX"])
def test_a_model_built_otherwise_is_refused(name):
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(**shape, vocab_size=64, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match=f"{name}ForCausalLM are not of .*write hidden_dropout: 0"):
        dropout.install(model, 0.05)
    assert dropout.install(model, 0.0) == []


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """run(name, *overrides): the folder of a run, made once."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name, *overrides):
        if not (folder / name).exists():
            train(tiny_recipe(world, folder / name, "save_strategy='no'", *overrides))
        return folder / name

    return run


def model_bytes(run_dir):
    return (run_dir / "model" / "model.safetensors").read_bytes()


def test_zero_is_none_and_a_share_is_not(runs):
    none, zero, some = runs("none"), runs("zero", "hidden_dropout=0.0"), runs("some", "hidden_dropout=0.1")
    assert losses(zero) == losses(none) and model_bytes(zero) == model_bytes(none)
    assert all(one != other for one, other in zip(losses(some), losses(none), strict=True))
    assert losses(some)[0] == pytest.approx(losses(none)[0], abs=0.1)
    assert json.loads((some / "train.json").read_text())["hidden_dropout"] == 0.1


def test_recomputed_activations_are_dropped_alike(runs):
    plain, again = runs("some", "hidden_dropout=0.1"), runs("c", "hidden_dropout=0.1", "activation_checkpointing=true")
    assert losses(again) == losses(plain) and model_bytes(again) == model_bytes(plain)


def test_nothing_of_it_is_saved(runs):
    none, some = runs("none"), runs("some", "hidden_dropout=0.1")
    for name in ("config.json", "generation_config.json"):
        assert (some / "model" / name).read_bytes() == (none / "model" / name).read_bytes()
    assert weights(some / "model").keys() == weights(none / "model").keys()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(some / "model").train()
    assert torch.equal(model(IDS % 100).logits, model(IDS % 100).logits)


def test_packed_rows_are_dropped_from_too(runs, calls):
    run = runs("packed", "hidden_dropout=0.1", "packing=true", "per_device_train_batch_size=2", "mixture.draws=40")
    assert len(calls) == 6 * 2 * 5 and len(losses(run)) == 6  # steps, accumulated micro-batches, places


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hidden_dropout=1.0",), r"in \[0, 1\)"),
        (("hidden_dropout=-0.1",), r"in \[0, 1\)"),
        (("hidden_dropout=0.1", "activation_checkpointing_kwargs={preserve_rng_state: false}"), "of another loss"),
    ],
)
def test_values_that_would_train_something_else_are_refused(world, tmp_path, overrides, said):
    with pytest.raises(UserError, match=said):
        trainer_settings(tiny_recipe(world, tmp_path / "a", *overrides))


def test_checkpointing_that_loses_the_mask_is_refused(world, tmp_path):
    """FSDP's own, as accelerate calls it. Its source is read, so that a mended accelerate is noticed."""
    import inspect

    from accelerate.utils import fsdp_utils

    assert "preserve_rng_state=False" in inspect.getsource(fsdp_utils.fsdp2_apply_ac)
    name = world.parents[2] / "accelerate_configs" / "fsdp2.yaml"
    own = (ROOT / "accelerate_configs" / "fsdp2.yaml").read_text()
    recipe = tiny_recipe(world, tmp_path / "a", "hidden_dropout=0.1", "launch.accelerate_config=fsdp2")
    name.write_text(own)
    assert dropout.probability(recipe) == 0.1
    name.write_text(own.replace("fsdp_activation_checkpointing: false", "fsdp_activation_checkpointing: true"))
    with pytest.raises(UserError, match="would be of another mask"):
        dropout.probability(recipe)


@pytest.mark.parametrize("value", ["true", "'0.1'", "[0.1]"])
def test_a_value_that_is_no_number_is_refused(world, tmp_path, value):
    with pytest.raises(UserError, match="`hidden_dropout`"):
        tiny_recipe(world, tmp_path / "a", f"hidden_dropout={value}")


def stand_in(sampling="random", tp=1, processes=2, rank=1):
    """What dropout.prepare looks at in a trainer."""
    given = SimpleNamespace(
        world_size=processes, process_index=rank, seed=5, device=torch.device("cpu"), train_sampling_strategy=sampling
    )
    parallel = SimpleNamespace(parallelism_config=SimpleNamespace(tp_size=tp))
    callbacks = []
    return SimpleNamespace(
        args=given, accelerator=parallel, model=tiny_of("llama"), callbacks=callbacks, add_callback=callbacks.append
    )


@pytest.mark.parametrize(
    ("options", "said"), [({"sampling": "group_by_length"}, "rows would be lost"), ({"tp": 2}, "tensor parallelism")]
)
def test_ways_to_spread_that_cannot_have_masks_of_their_own_are_refused(world, tmp_path, options, said):
    for asked in (("hidden_dropout=0.1",), ("use_peft=true",)):  # lora_dropout is 0.05 unless it is written
        with pytest.raises(UserError, match=said):
            dropout.prepare(stand_in(**options), tiny_recipe(world, tmp_path / "a", *asked))
    for asked in ((), ("use_peft=true", "lora_dropout=0.0")):
        trainer = stand_in(**options)
        dropout.prepare(trainer, tiny_recipe(world, tmp_path / "a", *asked))
        assert not trainer.callbacks


def test_one_process_keeps_its_seed_and_several_get_their_own(world, tmp_path):
    for processes, seed in ((1, 77), (2, 6)):
        trainer = stand_in(processes=processes)
        dropout.prepare(trainer, tiny_recipe(world, tmp_path / "a", "hidden_dropout=0.1"))
        torch.manual_seed(77)
        trainer.callbacks[0].on_train_begin(trainer.args, None, None)
        assert torch.initial_seed() == seed


@pytest.mark.slow
def test_two_processes_drop_different_places(world, tmp_path):
    """Each process says which places its first mask drops; the batch is as before split over the two."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(MASKS), str(world), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    masks = [torch.load(tmp_path / f"mask-{rank}.pt", weights_only=True) for rank in (0, 1)]
    size = min(mask.numel() for mask in masks)
    one, two = (mask.flatten()[:size] for mask in masks)
    both = (one & two).float().mean().item()
    assert one.float().mean() == pytest.approx(0.5, abs=0.05) and both == pytest.approx(0.25, abs=0.05)
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    assert record["processes"] == 2 and len(record["log"]) == 2
