"""A run killed without warning goes on as if nothing had happened, and never from a checkpoint that lies."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints
from helpers.tiny_run import losses, tiny_recipe, tiny_world

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
MUON = ("optim=muon", "optim_args='adamw_lr=0.005'", "learning_rate=0.02")
PACKED = ("packing=true", "per_device_train_batch_size=1", "mixture.draws=24", "launch.global_batch=2")
LORA = ("use_peft=true", "lora_r=4", "lora_target_modules=[all-linear]", "dtype=bfloat16", "hidden_dropout=0.1")
CASES = {
    "adamw": ("step", random.Random(1).choice([3, 5]), ()),
    "muon": ("step", random.Random(2).choice([3, 5]), MUON),
    "grouped-in-a-save": (
        "save",
        4,
        ("train_sampling_strategy=group_by_length", "mixture.draws=12", "save_total_limit=1"),
    ),
    "packed": ("step", 5, PACKED),
    "dropped": ("step", 5, ("hidden_dropout=0.1", "activation_checkpointing=true")),
    "lora": ("step", 5, LORA),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A repository whose model has attention dropout, so that lost random state would show."""
    folder = tmp_path_factory.mktemp("world")
    return tiny_world(folder, dropout=0.3)


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """The folder with all runs of CASES, killed."""
    folder = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, str(TESTS / "helpers" / "killed_run.py"), str(world), str(folder), json.dumps(CASES)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1]).values()) == {-signal.SIGKILL}, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_equals_uninterrupted(world, killed, tmp_path, capsys, name):
    when, step, overrides = CASES[name]
    train(tiny_recipe(world, tmp_path / "whole", *overrides))
    capsys.readouterr()
    train(tiny_recipe(world, killed / name, *overrides))
    shown = capsys.readouterr().out
    start = 2 if when == "save" else step - step % 2
    assert f"going on from {killed / name / 'checkpoints' / f'checkpoint-{start}'}" in shown
    assert f"step {start + 1}/6" in shown and f"step {start}/6" not in shown
    assert losses(killed / name) == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 6
    one, other = (json.loads((run / "train.json").read_text()) for run in (killed / name, tmp_path / "whole"))
    assert [entry["grad_norm"] for entry in one["log"]] == [entry["grad_norm"] for entry in other["log"]]
    assert one["tokens"] == other["tokens"] and one["supervised_tokens"] == other["supervised_tokens"]
    for name_of_file in ("model.safetensors", "tokenizer.json"):
        both = [(run / "model" / name_of_file).read_bytes() for run in (killed / name, tmp_path / "whole")]
        assert both[0] == both[1]
    if when == "save":
        assert "checkpoint-4 is not used: it has no manifest.json" in shown


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A run with checkpoints 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("runs") / "a"
    train(tiny_recipe(world, run_dir))
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "a"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


FAULTS = {
    "no optimizer": ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
    "no random state": ("rng_state.pth", Path.unlink, "rng_state.pth is missing"),
    "truncated weights": ("model.safetensors", truncate, "model.safetensors has"),
    "one bit of the weights": ("model.safetensors", flip, "the content of model.safetensors has changed"),
    "no manifest": ("manifest.json", Path.unlink, "it has no manifest.json"),
    "manifest cut short": ("manifest.json", truncate, "it has no manifest.json"),
    "empty folder": ("manifest.json", empty, "it is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_skipped_with_its_reason(world, run_dir, capsys, fault):
    name, break_it, reason = FAULTS[fault]
    break_it(run_dir / "checkpoints" / "checkpoint-6" / name)
    recipe = tiny_recipe(world, run_dir)
    assert checkpoints.find(run_dir, recipe).name == "checkpoint-4"
    assert f"checkpoint-6 is not used: {reason}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        checkpoints.find(run_dir, recipe, str(run_dir / "checkpoints" / "checkpoint-6"))


def test_only_folders_in_the_way_are_deleted(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    for step in (2, 6):
        (run_dir / "checkpoints" / f"checkpoint-{step}" / "manifest.json").unlink()
    checkpoints.find(run_dir, recipe)
    assert len(checkpoints.in_order(run_dir)) == 3
    checkpoints.clear(run_dir, run_dir / "checkpoints" / "checkpoint-4", "auto")
    assert [path.name for path in checkpoints.in_order(run_dir)] == ["checkpoint-4", "checkpoint-2"]


def test_when_every_checkpoint_is_damaged_the_run_stops(world, run_dir):
    for folder in checkpoints.in_order(run_dir):
        (folder / "scheduler.pt").unlink()
    with pytest.raises(UserError, match="checkpoint-2: scheduler.pt is missing.*--resume never"):
        checkpoints.find(run_dir, tiny_recipe(world, run_dir))


def test_a_run_killed_in_its_first_save_starts_again(world, run_dir, capsys):
    for folder in checkpoints.in_order(run_dir):
        (folder / "manifest.json").unlink()
    assert checkpoints.find(run_dir, tiny_recipe(world, run_dir)) is None
    assert capsys.readouterr().out.count("is not used") == 3


def test_another_recipe_is_refused_and_named(world, run_dir):
    recipe = tiny_recipe(world, run_dir, "learning_rate=0.004", "mixture.seed=4")
    with pytest.raises(UserError, match=r"learning_rate: 0.005 then, 0.004 now; mixture.seed: 3 then, 4 now"):
        checkpoints.find(run_dir, recipe)
    assert checkpoints.find(run_dir, recipe, "never") is None


def test_other_rows_are_refused(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    key = json.loads((run_dir / "data" / "mixture.json").read_text())["key"]
    assert checkpoints.find(run_dir, recipe, "auto", key).name == "checkpoint-6"
    with pytest.raises(UserError, match="trained on other rows"):
        checkpoints.find(run_dir, recipe, "auto", "0" * 64)


def test_never_keeps_the_old_checkpoints_aside(world, run_dir, finished, capsys):
    train(tiny_recipe(world, run_dir), resume="never")
    assert "starting at step 0" in capsys.readouterr().out
    assert losses(run_dir) == losses(finished)
    assert (run_dir / "checkpoints.before-1" / "checkpoint-6" / "manifest.json").is_file()


def test_a_finished_run_is_not_trained_twice(world, run_dir, capsys):
    before = (run_dir / "train.json").read_bytes()
    assert train(tiny_recipe(world, run_dir)) == run_dir / "model"
    assert "is finished" in capsys.readouterr().out and (run_dir / "train.json").read_bytes() == before


def test_the_last_whole_checkpoint_goes_only_after_the_next_is_sealed(world, tmp_path):
    train(tiny_recipe(world, tmp_path / "a", "save_total_limit=1"))
    assert [path.name for path in checkpoints.in_order(tmp_path / "a")] == ["checkpoint-6"]
    (tmp_path / "a" / "checkpoints" / "checkpoint-8").mkdir()  # a save that was never sealed counts for nothing
    checkpoints.rotate(tmp_path / "a", 1)
    assert (tmp_path / "a" / "checkpoints" / "checkpoint-6").is_dir()


def test_a_checkpoint_without_optimizer_is_not_resumed(world, tmp_path):
    recipe = tiny_recipe(world, tmp_path / "a", "save_only_model=true")
    train(recipe)
    with pytest.raises(UserError, match="saved without optimizer state"):
        checkpoints.find(tmp_path / "a", recipe)
