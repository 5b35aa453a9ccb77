"""A damaged checkpoint is skipped with its reason, one of another run is refused; nothing less is ever gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints, resume
from helpers.tiny_run import losses, tiny_recipe, weights

@pytest.fixture(scope="module")
def finished(whole):
    """A run with checkpoints 2, 4 and 6."""
    return whole()


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
    assert resume.find(run_dir, recipe).folder.name == "checkpoint-4"
    assert f"checkpoint-6 is not used: {reason}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        resume.find(run_dir, recipe, str(run_dir / "checkpoints" / "checkpoint-6"))


def test_only_folders_in_the_way_are_deleted(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    for step in (2, 6):
        (run_dir / "checkpoints" / f"checkpoint-{step}" / "manifest.json").unlink()
    resume.find(run_dir, recipe)
    assert len(checkpoints.in_order(run_dir)) == 3
    resume.clear(run_dir, resume.Start(run_dir / "checkpoints" / "checkpoint-4", 4), "auto")
    assert [path.name for path in checkpoints.in_order(run_dir)] == ["checkpoint-4", "checkpoint-2"]


def test_when_every_checkpoint_is_damaged_the_run_stops(world, run_dir):
    for folder in checkpoints.in_order(run_dir):
        (folder / "scheduler.pt").unlink()
    with pytest.raises(UserError, match="checkpoint-2: scheduler.pt is missing.*--resume never"):
        resume.find(run_dir, tiny_recipe(world, run_dir))


def test_a_run_killed_in_its_first_save_starts_again(world, run_dir, capsys):
    for folder in checkpoints.in_order(run_dir):
        (folder / "manifest.json").unlink()
    assert resume.find(run_dir, tiny_recipe(world, run_dir)) is None
    assert capsys.readouterr().out.count("is not used") == 3


def test_another_recipe_is_refused_and_named(world, run_dir):
    recipe = tiny_recipe(world, run_dir, "learning_rate=0.004", "mixture.seed=4")
    with pytest.raises(UserError, match=r"learning_rate: 0.005 then, 0.004 now; mixture.seed: 3 then, 4 now"):
        resume.find(run_dir, recipe)
    assert resume.find(run_dir, recipe, "never") is None


def test_other_rows_are_refused(world, run_dir):
    recipe = tiny_recipe(world, run_dir)
    key = json.loads((run_dir / "data" / "mixture.json").read_text())["key"]
    assert resume.find(run_dir, recipe, "auto", {"data": key}).folder.name == "checkpoint-6"
    with pytest.raises(UserError, match="trained on other rows"):
        resume.find(run_dir, recipe, "auto", {"data": "0" * 64})


def test_never_keeps_the_old_checkpoints_aside(world, run_dir, finished, capsys):
    train(tiny_recipe(world, run_dir), resume="never")
    assert "starting at step 0" in capsys.readouterr().out
    assert losses(run_dir) == losses(finished)
    assert (run_dir / "checkpoints.before-1" / "checkpoint-6" / "manifest.json").is_file()


def test_a_finished_run_is_not_trained_twice(world, run_dir, capsys):
    before = (run_dir / "train.json").read_bytes()
    assert train(tiny_recipe(world, run_dir)) == run_dir / "model"
    assert "is finished" in capsys.readouterr().out and (run_dir / "train.json").read_bytes() == before


def test_a_checkpoint_without_optimizer_is_not_resumed(world, tmp_path):
    recipe = tiny_recipe(world, tmp_path / "a", "save_only_model=true")
    train(recipe)
    with pytest.raises(UserError, match="saved without optimizer state"):
        resume.find(tmp_path / "a", recipe)
