"""An environment in a process of its own: spawned, spoken to over a pipe, and ended when it does not answer.

What goes in is the room's `make` and the item, pickled as multiprocessing does it (a function of a module, or a
functools.partial of one), then calls as JSON. What comes back is JSON, so that nothing which a broken or taken
environment sends is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import connection
from typing import Any

from agenttuning.environments import Move, Step
from agenttuning.errors import UserError

log = logging.getLogger(__name__)
ANSWER_BYTES = 64 << 20  # an answer of an environment; more than any observation, and less than memory
START_S = 120.0  # seconds for a new Python and the imports that `make` needs
END_S = 5.0  # seconds that a process has to end after it was told to close


class WorldError(Exception):
    """An environment failed where its own exception is out of reach: it crashed, hung, or raised in its process."""


class Remote:
    """The environment's face, each call waited for at most `timeout_s` seconds.

    Raises WorldError when the process dies, does not answer in time (it is then killed) or its environment raises;
    UserError when its environment raises that.
    """

    def __init__(self, make: Callable[[dict], Any], item: dict, timeout_s: float) -> None:
        self._timeout_s, self._dead, self._lock = timeout_s, False, threading.Lock()
        self._made_of, self._pipe, self._process = (make, item), None, None

    def start(self) -> Remote:
        """Start the process and make the environment in it; gives itself."""
        with self._lock:
            if self._dead:
                raise WorldError("the environment was given up before it was made")
            spawn = multiprocessing.get_context("spawn")
            self._pipe, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, *self._made_of), daemon=True)
            process.start()
            theirs.close()
            self._process = process
        self._answer("starting", START_S)
        self._answer("making it", self._timeout_s)
        return self

    def reset(self) -> str:
        """As the environment's."""
        return self._call("reset")

    def step(self, action: str) -> Step:
        """As the environment's."""
        return Step(**self._call("step", action))

    def score(self) -> float:
        """As the environment's."""
        return self._call("score")

    def oracle(self) -> Move:
        """As the environment's."""
        return Move(**self._call("oracle"))

    def actions(self) -> list[str]:
        """As the environment's."""
        return self._call("actions")

    def metrics(self) -> dict:
        """As the environment's; {} where it has none."""
        return self._call("metrics")

    def close(self) -> None:
        """Close the environment and end its process, by force where it does not end by itself."""
        try:
            if not self._dead and self._process is not None:
                self._call("close")
                connection.wait([self._process.sentinel], END_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process and all that it started. Safe to call from another thread and more than once."""
        with self._lock:
            if self._dead or self._process is None:
                self._dead = True
                return
            self._dead = True
            # before the process is waited for: until then its number cannot be another one's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(self._process.pid) == self._process.pid:  # else it has no group of its own yet
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join(END_S)

    def _call(self, name: str, *arguments: str) -> Any:
        if self._dead:
            raise WorldError(f"the environment's process has ended; {name}() cannot be called")
        try:
            self._pipe.send_bytes(json.dumps([name, *arguments]).encode("ascii"))
        except OSError:
            raise self._ended(f"{name}()") from None
        return self._answer(f"{name}()", self._timeout_s)

    def _answer(self, what: str, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self.kill()
                raise WorldError(f"the environment's process did not answer {what} for {seconds:g} s")
            kind, *answer = json.loads(self._pipe.recv_bytes(ANSWER_BYTES))
        except (EOFError, OSError, ValueError) as error:
            raise self._ended(what) from error
        if kind == "user":
            raise UserError(*answer)
        if kind == "error":
            raise WorldError(*answer)
        return answer[0]

    def _ended(self, what: str) -> WorldError:
        connection.wait([self._process.sentinel], END_S)
        self.kill()
        code = self._process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return WorldError(f"the environment's process ended {how} in {what}")


def _serve(pipe: connection.Connection, make: Callable[[dict], Any], item: dict) -> None:
    """The child: one environment, one call after the other, until `close` or the end of the parent."""
    os.setsid()  # what the environment starts is ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _send(pipe, ["ok", None])
    found = _answered(lambda: make(item))
    env = found[1] if found[0] == "ok" else None
    _send(pipe, ["ok", None] if env is not None else found)
    while env is not None:
        try:
            name, *arguments = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        _send(pipe, _answered(lambda: _do(env, name, arguments)))  # noqa: B023 (called at once)
        if name == "close":
            return


def _do(env: Any, name: str, arguments: list[str]) -> Any:
    if name == "metrics" and not hasattr(env, "metrics"):
        return {}
    value = getattr(env, name)(*arguments)
    return asdict(value) if isinstance(value, Step | Move) else None if name == "close" else value


def _answered(work: Callable[[], Any]) -> list:
    try:
        return ["ok", work()]
    except UserError as error:
        return ["user", str(error)]
    except Exception as error:
        return ["error", f"{type(error).__name__}: {error}"]


def _send(pipe: connection.Connection, answer: list) -> None:
    try:
        data = json.dumps(answer)
    except (TypeError, ValueError) as error:
        data = json.dumps(["error", f"the environment's answer is no JSON: {error}"])
    pipe.send_bytes(data.encode("ascii"))


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    connection.wait([parent.sentinel])
    os.killpg(os.getpid(), signal.SIGKILL)  # the group is this process's own: see setsid above
