"""A run that is killed or told to stop goes on as if nothing had happened: the same losses and weights, bit for bit."""

from __future__ import annotations

import json
import random
import signal

import pytest

from agenttuning.train import train
from agenttuning.training import checkpoints
from helpers.tiny_run import losses, tiny_recipe

MUON = ("optim=muon", "optim_args='adamw_lr=0.005'", "learning_rate=0.02")
PACKED = ("packing=true", "per_device_train_batch_size=1", "mixture.draws=24", "launch.global_batch=2")
# five steps to a pass, log lines that lie across the saves
LONG = ("max_steps=12", "save_steps=3", "logging_steps=2", "mixture.draws=20", "save_total_limit=2")
GROUPED = ("train_sampling_strategy=group_by_length", "mixture.draws=12", "save_total_limit=1")
WORKERS = ("dataloader_num_workers=1", "mixture.draws=16")
# name: (when, step, overrides, the checkpoint that it goes on from)
SEEDED = {f"step-{at}": ("step", at, LONG, (at - 1) // 3 * 3) for at in random.Random(5).sample(range(1, 12), 5)}
CASES = SEEDED | {
    "muon": ("step", 3, MUON, 2),
    "packed": ("step", 5, PACKED, 4),
    "accumulated": ("step", 5, ("per_device_train_batch_size=1", "mixture.draws=12"), 4),
    "workers": ("step", 5, WORKERS, 4),
    "grouped": ("step", 5, GROUPED, 4),  # in its second pass over the rows
    "begin": ("begin", 4, (), 2),
    "files": ("files", 4, (), 2),
    "manifest": ("manifest", 4, (), 2),
    "rename": ("rename", 4, (), 2),
    "rotate": ("rotate", 4, ("save_total_limit=1",), 4),
    "swap": ("swap", 0, ("mixture.draws=16",), 6),
    "term": ("term", 5, LONG, 5),
    "group": ("group", 3, WORKERS, 3),
    "interrupt": ("interrupt", 2, LONG, 2),
}
STATUS = {"term": 128 + signal.SIGTERM, "group": 128 + signal.SIGTERM, "interrupt": 128 + signal.SIGINT}


@pytest.fixture(scope="module")
def runs(killed):
    """The folder with all runs of CASES, each ended as it should be."""
    folder, statuses, shown = killed({name: (*case[:3], 1) for name, case in CASES.items()})
    assert statuses == {name: STATUS.get(case[0], -signal.SIGKILL) for name, case in CASES.items()}, shown
    assert f"stopped by SIGTERM at step 5/12; the same command goes on from {folder / 'term'}" in shown
    return folder


@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_as_if_nothing_had_happened(world, whole, runs, capsys, name):
    when, _, overrides, start = CASES[name]
    uninterrupted, run = whole(*overrides), runs / name
    capsys.readouterr()
    train(tiny_recipe(world, run, *overrides))
    shown = capsys.readouterr().out
    begins = f"going on from {run / 'checkpoints' / f'checkpoint-{start}'}\n" if start else "starting at step 0"
    assert begins in shown
    assert losses(run) == losses(uninterrupted) and len(losses(uninterrupted)) == 6
    one, other = (json.loads((folder / "train.json").read_text()) for folder in (run, uninterrupted))
    assert [entry["grad_norm"] for entry in one["log"]] == [entry["grad_norm"] for entry in other["log"]]
    assert one["tokens"] == other["tokens"] and one["supervised_tokens"] == other["supervised_tokens"]
    assert one["partial"] == []
    for file in ("model.safetensors", "tokenizer.json"):
        assert (run / "model" / file).read_bytes() == (uninterrupted / "model" / file).read_bytes()
    left = {path.name for path in (run / "checkpoints").iterdir()}
    between = {f"checkpoint-{start}"} if when == "group" else set()  # its recipe sets no limit
    # nothing half, nothing too many
    assert left == {path.name for path in (uninterrupted / "checkpoints").iterdir()} | between
    if when in ("files", "manifest", "rename"):
        assert "left by a stopped run: checkpoint-4," in shown
    if when == "rotate":
        assert "left by a stopped run: old-checkpoint-2," in shown


def test_old_checkpoints_go_only_after_the_next_is_sealed(whole):
    run = whole("save_total_limit=1")
    assert [path.name for path in checkpoints.in_order(run)] == ["checkpoint-6"]
    (run / "checkpoints" / "checkpoint-8").mkdir()  # one that was never sealed counts for nothing
    checkpoints.rotate(run, 1, False)
    assert (run / "checkpoints" / "checkpoint-6").is_dir()
    (run / "checkpoints" / "checkpoint-8").rmdir()
