"""Two processes save, stop and go on together, at the same step and in the same order of rows."""

from __future__ import annotations

import json
import signal

import pytest

from agenttuning.errors import UserError
from agenttuning.training import checkpoints, resume
from helpers.tiny_run import losses, tiny_recipe

# three steps to a pass: what happens at step 5 is in the second one
SHARED = ("launch.accelerate_config=ddp", "per_device_train_batch_size=2", "mixture.draws=12")
GROUPED = (*SHARED, "train_sampling_strategy=group_by_length")
CASES = {
    "whole": ("run", 0, SHARED, 2),
    "step": ("step", 5, SHARED, 2),
    "step again": ("run", 0, SHARED, 2),
    "term": ("term", 5, SHARED, 2),  # the second process is told, the first is not
    "term again": ("run", 0, SHARED, 2),
    "grouped": ("run", 0, GROUPED, 2),
    "grouped-step": ("step", 5, GROUPED, 2),
    "grouped-step again": ("run", 0, GROUPED, 2),
}


@pytest.fixture(scope="module")
def runs(killed):
    folder, statuses, shown = killed(CASES)
    expected = {"step": -signal.SIGKILL, "grouped-step": -signal.SIGKILL, "term": 128 + signal.SIGTERM}
    assert statuses == {name: expected.get(name, 0) for name in CASES}, shown
    return folder, shown


@pytest.mark.parametrize(("name", "start"), [("step", 4), ("term", 5), ("grouped-step", 4)])
def test_they_go_on_as_if_nothing_had_happened(runs, name, start):
    folder, shown = runs
    other = folder / ("grouped" if name.startswith("grouped") else "whole")
    assert f"going on from {folder / name / 'checkpoints' / f'checkpoint-{start}'}\n" in shown
    assert losses(folder / name) == losses(other) and len(losses(other)) == 6
    model = "model/model.safetensors"
    assert (folder / name / model).read_bytes() == (other / model).read_bytes()


def test_they_stop_at_the_same_step_and_one_of_them_says_so(runs):
    folder, shown = runs
    assert shown.count("stopped by SIGTERM at step 5/6") == 1
    manifest = json.loads((folder / "term" / "checkpoints" / "checkpoint-5" / "manifest.json").read_text())
    assert manifest["processes"] == 2 and {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest["files"])


def test_one_process_does_not_go_on_from_two(world, runs):
    run = runs[0] / "whole"
    with pytest.raises(UserError, match="was saved by 2 processes, and this run has 1"):
        resume.find(run, tiny_recipe(world, run, *SHARED), processes=1)


def test_a_process_that_writes_to_another_disk_is_noticed(world, runs, tmp_path):
    import shutil

    folder = shutil.copytree(runs[0] / "whole" / "checkpoints" / "checkpoint-6", tmp_path / "checkpoint-6")
    (folder / "rng_state_1.pth").unlink()
    with pytest.raises(UserError, match="the random state of 1 of 2 processes"):
        checkpoints.seal(folder, 6, tiny_recipe(world, tmp_path), 2, {})
