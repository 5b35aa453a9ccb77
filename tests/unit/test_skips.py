"""A test that wants a system package skips on a laptop and fails in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILE = """
import pytest
@pytest.mark.skipif(True, reason="MariaDB's server is not installed")
def test_one(): pass
@pytest.mark.skipif(True, reason="no GPU")
def test_two(): pass
"""


@pytest.mark.parametrize(("ci", "status", "said"), [("", 0, "2 skipped"), ("true", 1, "1 skipped, 1 error")])
def test_system_packages_may_not_be_missing_in_ci(tmp_path, ci, status, said) -> None:
    (tmp_path / "test_x.py").write_text(FILE)
    words = ["-c", os.devnull, "--rootdir", str(tmp_path), "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "CI": ci}
    command = [sys.executable, "-m", "pytest", "-q", *words]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == status and said in run.stdout, run.stdout + run.stderr
