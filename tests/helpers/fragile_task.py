"""The toy task in an environment that breaks as its item says: `how` (exit, segfault, kill, hang, tell, raise, leave),
and `at` (make, reset, or the number of a step); with `once` (a path) only the first time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agenttuning.environments import Step
from helpers import toy_task


class Environment(toy_task.Environment):
    """See the module."""

    def __init__(self, item: dict) -> None:
        super().__init__(item)
        self.steps = 0
        self._fail("make")

    def _fail(self, at: object) -> None:
        once = self.item.get("once")
        if self.item.get("at") != at or (once and Path(once).exists()):
            return
        if once:
            Path(once).write_text("broken once")
        how = self.item["how"]
        if how == "exit":
            os._exit(3)
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "hang":
            time.sleep(60)
        elif how == "leave":  # a helper of the environment that outlives it, unless it is ended with it
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(self.item["pid"]).write_text(str(child.pid))
            os._exit(4)
        elif how == "tell":
            Path(self.item["pid"]).write_text(str(os.getpid()))
            time.sleep(60)
        else:
            raise OSError("the world broke")

    def reset(self) -> str:
        self._fail("reset")
        return super().reset()

    def step(self, action: str) -> Step:
        self.steps += 1
        self._fail(self.steps)
        return super().step(action)

    def metrics(self) -> dict:
        return {"steps": self.steps, "pid": os.getpid()} if self.item.get("tell") else {"steps": self.steps}
