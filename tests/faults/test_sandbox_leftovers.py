"""Whatever foreign code does, and however this process ends, no folder, file, or process of the sandbox stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agenttuning.sandbox import Limits, dialogue
from agenttuning.sandbox.dialogue import Program, run_programs

DOUBLE = "def check(candidate):\n    assert candidate(1) == 2\n"
# Waits for a lock that it holds itself: no CPU second is ever used up.
DEADLOCK = "import _thread\ndef f(x):\n  lock = _thread.allocate_lock()\n  lock.acquire()\n  lock.acquire()"


def program(code: str) -> Program:
    return Program(code, "def f(x):\n    pass\n", DOUBLE, "f")


def test_nothing_is_left_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dialogue.tempfile, "tempdir", str(tmp_path))
    before, started = _open_files(), []
    start = dialogue.start
    monkeypatch.setattr(dialogue, "start", lambda *a: started.append(start(*a)) or started[-1])
    waits = "import os\ndef f(x):\n  while True: os.read(0, 9)"
    run_programs([program(waits), program("def f(x): return 3"), program("\0")], 2, Limits(wall_s=1.0))
    assert not list(tmp_path.iterdir())
    assert _open_files() == before
    assert len(started) == 6 and all(process.returncode is not None for process in started)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_foreign_code_that_waits_for_ever_ends_with_a_parent_that_is_killed() -> None:
    """Its limits are on CPU, of which it uses none, and it never looks at the pipe that was closed."""
    parent = subprocess.Popen([sys.executable, __file__], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        children = _until(psutil.Process(parent.pid).children, 2)
        assert len(children) == 2
        before = None
        while before != (before := [sum(one.cpu_times()[:2]) for one in children]):  # until both wait
            time.sleep(0.5)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert not _until(lambda: [one for one in children if _alive(one)], 0)


def _until(found: Callable[[], list], many: int) -> list:
    """What `found` gives as soon as it is so many; what it gives after ten seconds."""
    for _ in range(200):
        if len(now := found()) == many:
            break
        time.sleep(0.05)
    return now


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


if __name__ == "__main__":
    run_programs([program(DEADLOCK)], 1)
