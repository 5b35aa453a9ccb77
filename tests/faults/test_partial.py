"""A checkpoint that lacks a part is gone on from only when asked for, and then with what is there, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import resume
from helpers.tiny_run import losses, tiny_recipe


def log(run: Path, key: str) -> list[float]:
    return [entry[key] for entry in json.loads((run / "train.json").read_text())["log"]]


@pytest.fixture
def run_dir(whole, tmp_path):
    """A run whose newest checkpoint is 4."""
    run = Path(shutil.copytree(whole(), tmp_path / "a"))
    shutil.rmtree(run / "checkpoints" / "checkpoint-6")
    shutil.rmtree(run / "model")
    return run


def go_on(world: Path, run: Path) -> None:
    folder = str(run / "checkpoints" / "checkpoint-4")
    with pytest.raises(UserError, match=f"--resume {folder} --allow-partial"):
        train(tiny_recipe(world, run), resume=folder)
    train(tiny_recipe(world, run), resume=folder, allow_partial=True)


def test_without_the_random_state_only_dropout_differs(world, whole, run_dir, capsys):
    (run_dir / "checkpoints" / "checkpoint-4" / "rng_state.pth").unlink()
    go_on(world, run_dir)
    shown = capsys.readouterr().out
    assert "WARNING" in shown and "goes on without its random state: dropout draws other masks" in shown
    assert "checkpoint-4 WITHOUT random state" in shown
    one, other = losses(run_dir), losses(whole())
    assert one[:4] == other[:4] and one[4] != other[4] and one[4] == pytest.approx(other[4], rel=0.05)
    assert log(run_dir, "learning_rate") == log(whole(), "learning_rate")
    record = json.loads((run_dir / "train.json").read_text())
    assert record["partial"] == [{"step": 4, "lost": ["random state"]}]
    later = json.loads((run_dir / "checkpoints" / "checkpoint-6" / "manifest.json").read_text())
    assert later["partial"] == record["partial"]  # and so does every model that comes from it


@pytest.mark.parametrize("absent", ["optimizer.pt", "scheduler.pt"])
def test_without_the_optimizer_the_rate_is_still_that_of_the_step(world, whole, run_dir, capsys, absent):
    (run_dir / "checkpoints" / "checkpoint-4" / absent).unlink()
    go_on(world, run_dir)
    assert "goes on without its optimizer state: the moments start from zero" in capsys.readouterr().out
    assert log(run_dir, "learning_rate") == log(whole(), "learning_rate")
    one, other = losses(run_dir), losses(whole())
    assert one[:5] == other[:5] and one[5] != other[5]  # the first update without moments shows one step later


def test_a_damaged_part_is_not_read(world, run_dir):
    path = run_dir / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:100])
    go_on(world, run_dir)  # reading it would raise
    assert len(losses(run_dir)) == 6


def test_damaged_weights_are_never_gone_on_from(world, run_dir):
    folder = run_dir / "checkpoints" / "checkpoint-4"
    (folder / "optimizer.pt").unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        train(tiny_recipe(world, run_dir), resume=str(folder), allow_partial=True)


def test_weights_alone_are_enough_when_asked(world, whole, tmp_path):
    run = tmp_path / "a"
    train(tiny_recipe(world, run, "save_only_model=true"))
    with pytest.raises(UserError, match="saved without optimizer state"):
        resume.find(run, tiny_recipe(world, run, "save_only_model=true"))
    shutil.rmtree(run / "model")
    recipe = tiny_recipe(world, run, "save_only_model=true")
    train(recipe, resume=str(run / "checkpoints" / "checkpoint-4"), allow_partial=True)
    record = json.loads((run / "train.json").read_text())
    assert record["partial"] == [{"step": 4, "lost": [resume.OPTIMIZER, resume.SCHEDULE, resume.RANDOM]}]
    assert log(run, "learning_rate") == log(whole(), "learning_rate") and losses(run)[:4] == losses(whole())[:4]


def test_another_number_of_processes_is_refused_unless_asked(world, run_dir, capsys):
    recipe, folder = tiny_recipe(world, run_dir), run_dir / "checkpoints" / "checkpoint-4"
    with pytest.raises(UserError, match="was saved by 1 processes, and this run has 2: it holds the random state of 1"):
        resume.find(run_dir, recipe, processes=2)
    start = resume.find(run_dir, recipe, str(folder), processes=2, allow_partial=True)
    assert start.lost == (resume.RANDOM,) and "without its random state" in capsys.readouterr().out
    spread = tiny_recipe(world, run_dir, "per_device_train_batch_size=2")
    assert resume.find(run_dir, spread, str(folder), processes=2, allow_partial=True)
    with pytest.raises(UserError, match="per_device_train_batch_size: 4 then, 2 now"):
        resume.find(run_dir, spread)
    with pytest.raises(UserError, match="learning_rate"):
        resume.find(run_dir, tiny_recipe(world, run_dir, "learning_rate=1.0"), str(folder), allow_partial=True)


@pytest.mark.parametrize("resume_word", ["auto", "never"])
def test_it_takes_a_path(world, run_dir, resume_word):
    with pytest.raises(UserError, match="names no checkpoint"):
        train(tiny_recipe(world, run_dir), resume=resume_word, allow_partial=True)
