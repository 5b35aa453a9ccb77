"""Trackers: named by the recipe, told when absent, local unless asked, and they hold what the log lines hold."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from agenttuning import preflight, recipe, trackers
from agenttuning.errors import UserError
from agenttuning.machine import Gpu, Machine
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.training.settings import trainer_settings
from helpers.tiny_run import tiny_recipe, tiny_world

SOURCE = REPOSITORY / "src"
FOLDERS = ("TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR", "WANDB_PROJECT")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """As in a process that has trained nothing yet; what a test puts into the environment goes again."""
    monkeypatch.setattr(trackers, "_ours", {})
    for name in FOLDERS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_main_recipes_use_trackio_and_the_miniature_nothing():
    for name in ("agentlm-7b", "agentlm-13b", "agentlm-70b"):
        assert trackers.names(recipe.load(REPOSITORY / "recipes" / name)) == ["trackio"]
    assert trackers.names(recipe.load(REPOSITORY / "recipes/agentlm-tiny")) == []


@pytest.mark.parametrize(
    ("asked", "found"), [("none", []), ("wandb", ["wandb"]), ("[trackio, tensorboard]", ["trackio", "tensorboard"])]
)
def test_by_key(world, tmp_path, asked, found):
    assert trackers.names(tiny_recipe(world, tmp_path, f"report_to={asked}")) == found


@pytest.mark.parametrize("asked", ["all", "trackoi", "[trackio, mlflow]"])
def test_what_is_not_known_is_refused(world, tmp_path, asked):
    with pytest.raises(UserError, match="is not one of trackio, wandb, tensorboard"):
        trackers.names(tiny_recipe(world, tmp_path, f"report_to={asked}"))


def test_what_is_absent_is_told_before_anything_starts(world, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "installed", lambda name: name == "tensorboard")
    one = tiny_recipe(world, tmp_path, "report_to=[wandb, tensorboard]")
    machine = Machine(gpus=(Gpu("NVIDIA H200", 140.0),), cpus=2, memory_gib=24.0, world_size=None)
    with pytest.raises(UserError, match="tracker: report_to is wandb, which is not installed. `pip install wandb`"):
        preflight.check(one, {}, machine)
    with pytest.raises(UserError, match="report_to is wandb"):
        trainer_settings(one)  # without preflight
    preflight.check(tiny_recipe(world, tmp_path, "report_to=tensorboard"), {}, machine)


def test_project_run_and_folders_follow_from_the_recipe(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = trainer_settings(tiny_recipe(world, tmp_path / "a"))
    assert (found.project, found.run_name) == ("tiny", "tiny/sft")
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "runs/trackio") and os.environ["WANDB_PROJECT"] == "tiny"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "a/tensorboard")
    trackers.settings(tiny_recipe(world, tmp_path / "b"))  # the next run of the same process has its own
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "b/tensorboard")


def test_what_the_user_says_holds(world, tmp_path, monkeypatch):
    for name in FOLDERS:
        monkeypatch.setenv(name, "/mine")
    found = trainer_settings(tiny_recipe(world, tmp_path / "a", "project=sweep", "run_name=one"))
    assert (found.project, found.run_name) == ("sweep", "one")
    assert {os.environ[name] for name in FOLDERS} == {"/mine"}


OFFLINE = """
import os, socket, sys
whole = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONTACTED", address, flush=True)
        raise OSError("no network in this test")
    return whole(self, address)
socket.socket.connect = connect
look_up = socket.getaddrinfo
def getaddrinfo(host, *arguments, **named):
    if host not in ("127.0.0.1", "::1", "localhost", None, ""):
        print("CONTACTED", host, flush=True)
        raise socket.gaierror("no network in this test")
    return look_up(host, *arguments, **named)
socket.getaddrinfo = getaddrinfo
from agenttuning.cli import main
main()
"""


@pytest.fixture(scope="module")
def tracked(world, tmp_path_factory):
    """The folder of a run that every tracker installed here followed (trackio into track/), and train.json's log.

    `agenttuning train` in a process of its own that sees no network; trackio reads its folder when it is imported.
    """
    folder = tmp_path_factory.mktemp("tracked")
    asked = [name for name in ("trackio", "tensorboard") if trackers.installed(name)]
    words = [
        "train",
        str(world),
        f"report_to={json.dumps(asked)}",
        "save_strategy='no'",
        "--run-dir",
        str(folder / "a"),
    ]
    surroundings = {key: value for key, value in os.environ.items() if key not in FOLDERS}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words],
        env=surroundings | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE), "TRACKIO_DIR": str(folder / "track")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CONTACTED" not in done.stdout + done.stderr
    return folder, json.loads((folder / "a/train.json").read_text())["log"]


def same(found: dict, entry: dict) -> bool:
    """Whether a tracker's values of a step are those of train.json's line."""
    flat = {**{key: entry[key] for key in ("loss", "grad_norm", "tokens_per_second", "peak_memory_gib")}}
    flat |= {f"loss/{name}": value for name, value in entry["loss_by_source"].items() if value is not None}
    return all(found.get(f"train/{key}") == pytest.approx(value, rel=1e-6) for key, value in flat.items())


@pytest.mark.slow
@pytest.mark.skipif(not trackers.installed("trackio"), reason="trackio is not installed here")
def test_trackio_holds_the_log_lines_in_a_local_file(tracked):
    folder, log = tracked
    with sqlite3.connect(folder / "track" / "tiny.db") as database:
        rows = database.execute("select run_name, metrics from metrics order by step").fetchall()
    assert {name for name, _ in rows} == {"tiny/sft"}
    found = [values for values in map(json.loads, (metrics for _, metrics in rows)) if "train/loss" in values]
    assert [values["train/global_step"] for values in found] == [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert all(same(*pair) for pair in zip(found, log, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not trackers.installed("tensorboard"), reason="tensorboard is not installed here")
def test_tensorboard_holds_the_log_lines(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked[0] / "a" / "tensorboard"))
    events.Reload()
    found: dict[int, dict] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            found.setdefault(event.step, {})[tag] = event.value
    assert all(same(found[entry["step"]], entry) for entry in tracked[1]) and len(tracked[1]) == 6
