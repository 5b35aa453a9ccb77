"""One tiny repository for all faults, and the uninterrupted runs that the others are compared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.train import train
from helpers.tiny_run import tiny_recipe, tiny_world

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A repository whose model has attention dropout, so that lost random state would show."""
    return tiny_world(tmp_path_factory.mktemp("world"), dropout=0.3)


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory):
    """The folder of the uninterrupted run with given overrides, trained once."""
    folders: dict[tuple[str, ...], Path] = {}

    def trained(*overrides: str) -> Path:
        if overrides not in folders:
            folders[overrides] = tmp_path_factory.mktemp("whole") / "run"
            train(tiny_recipe(world, folders[overrides], *overrides))
        return folders[overrides]

    return trained


@pytest.fixture(scope="session")
def killed(world, tmp_path_factory):
    """A function of cases (helpers/killed_run.py): the folder of their runs, their exit statuses, what they printed."""

    def run(cases: dict, timeout: int = 250) -> tuple[Path, dict[str, int], str]:
        folder = tmp_path_factory.mktemp("killed")
        path = os.pathsep.join([str(ROOT / "src"), str(TESTS)])
        done = subprocess.run(
            [sys.executable, str(TESTS / "helpers" / "killed_run.py"), str(world), str(folder), json.dumps(cases)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return folder, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr

    return run
