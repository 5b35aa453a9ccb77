"""Where the calls of an environment run: here, in a thread of its own, or in a process of its own.

A host has one way in: `await host.do(work)` runs `work(env)` where the environment's calls run and gives what it
gives. `host.face` is the same environment for scripted policies, which call `oracle()` and `actions()` directly.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from agenttuning.environments import Room
from agenttuning.episodes.remote import Remote, WorldError

CLOSE_S = 30.0  # seconds that an environment has for closing


def host_of(room: Room, item: dict, timeout_s: float) -> Host:
    """The host of one episode; `timeout_s` bounds each call. Raises ValueError for an unknown isolation."""
    if room.isolation == "inline":
        return Inline(room.make, item)
    if room.isolation == "thread":
        return Threaded(room.make, item, timeout_s)
    if room.isolation == "process":
        return Processed(room.make, item, timeout_s)
    raise ValueError(f"the room of {room.task} has isolation {room.isolation!r}; it is inline, thread or process")


class Inline:
    """Calls made directly, in the thread of the runner. Nothing can end a call that hangs."""

    def __init__(self, make: Callable[[dict], Any], item: dict) -> None:
        self._make, self._item, self._env = make, item, None

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """What `work(env)` gives; the first call makes the environment. Raises what they raise."""
        if self._env is None:
            self._env = self._make(self._item)
        return work(self._env)

    @property
    def face(self) -> Any:
        """The environment itself."""
        return self._env

    async def close(self) -> None:
        """Close the environment, if it was made. Raises what it raises."""
        if self._env is not None:
            self._env.close()

    async def leave(self) -> None:
        """Give the environment up in the middle of an episode: close it."""
        await self.close()


class Threaded:
    """A thread for each environment: it may wait for something, and keeps what must stay in one thread (SQLite).

    A call that takes longer than `timeout_s` raises WorldError; its thread cannot be ended and is left behind. It
    holds up neither the run nor the end of the process.
    """

    def __init__(self, make: Callable[[dict], Any], item: dict, timeout_s: float) -> None:
        self._make, self._item, self._env, self._timeout_s = make, item, None, timeout_s
        self._lane = _Lane(f"environment {item['id']}")

    async def do(self, work: Callable[[Any], Any]) -> Any:
        """What `work(env)` gives; the first call makes the environment. Raises what they raise, or WorldError."""
        return await self._wait(lambda: work(self._made()), self._timeout_s)

    def _made(self) -> Any:
        if self._env is None:
            self._env = self._make(self._item)
        return self._env

    async def _wait(self, job: Callable[[], Any], seconds: float) -> Any:
        future = asyncio.wrap_future(self._lane.submit(job))
        future.add_done_callback(_heard)
        # not asyncio.wait_for: a TimeoutError that the environment raises must stay its own
        done, _ = await asyncio.wait([future], timeout=seconds)
        if not done:
            self._abandon()
            raise WorldError(f"the environment did not answer for {seconds:g} s; its thread is left behind")
        return future.result()

    @property
    def face(self) -> Any:
        """The environment's calls, each waited for."""
        return _Face(self)

    def call(self, job: Callable[[Any], Any]) -> Any:
        """`job(env)` in the environment's thread, waited for without the event loop. Raises as `do` does."""
        future = self._lane.submit(lambda: job(self._made()))
        try:
            return future.result(self._timeout_s)
        except FutureTimeout:
            if future.done():
                raise
            self._abandon()
            raise WorldError(f"the environment did not answer for {self._timeout_s:g} s") from None

    async def close(self) -> None:
        """Close the environment, if it was made, and end the thread. Raises what closing raises."""
        if self._lane.closed:
            return
        try:
            if self._lane.begun:
                await self._wait(self._close, min(CLOSE_S, self._timeout_s))
        finally:
            self._lane.close()

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()

    async def leave(self) -> None:
        """Give the environment up in the middle of an episode: close it after the call that it is in, which is cut off
        where the environment can do that.
        """
        if self._lane.busy and hasattr(self._env, "abort"):
            self._env.abort()
        await self.close()

    def _abandon(self) -> None:
        # should the call come back after all, the environment is closed
        self._lane.submit(self._close)
        self._lane.close()


class Processed(Threaded):
    """A process for each environment: it may crash, block or leak. See remote.py; a thread waits for its answers."""

    def __init__(self, make: Callable[[dict], Any], item: dict, timeout_s: float) -> None:
        super().__init__(make, item, timeout_s)
        self._remote = Remote(make, item, timeout_s)

    def _made(self) -> Any:
        if self._env is None:
            self._env = self._remote.start()
        return self._env

    def _close(self) -> None:
        self._remote.close()

    async def _wait(self, job: Callable[[], Any], seconds: float) -> Any:
        # Remote ends a process that does not answer in time, so that the thread always comes back
        future = asyncio.wrap_future(self._lane.submit(job))
        future.add_done_callback(_heard)
        return await future

    def call(self, job: Callable[[Any], Any]) -> Any:
        """`job(env)` in the environment's thread, waited for without the event loop. Raises as `do` does."""
        return self._lane.submit(lambda: job(self._made())).result()

    async def leave(self) -> None:
        """Give the environment up in the middle of an episode: close it, or end it where it is in a call."""
        if self._lane.busy:
            self._remote.kill()
        await self.close()


Host = Inline | Threaded | Processed


def _heard(future: asyncio.Future) -> None:
    if not future.cancelled():
        future.exception()  # looked at, so that asyncio does not report what nobody waited for


class _Face:
    """The environment of a scripted policy: the calls that look and change nothing, one after the other."""

    def __init__(self, host: Threaded) -> None:
        self._host = host

    def oracle(self) -> Any:
        return self._host.call(lambda env: env.oracle())

    def actions(self) -> list[str]:
        return self._host.call(lambda env: env.actions())

    def score(self) -> float:
        return self._host.call(lambda env: env.score())


class _Lane:
    """One daemon thread that does its jobs in order. A pool of the standard library would hold up the process's end
    for a job that hangs.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._name, self.begun, self.closed, self.busy = name, False, False, False

    def submit(self, job: Callable[[], Any]) -> Future:
        if self.closed:
            raise WorldError("the environment was given up; it cannot be called")
        future: Future = Future()
        self._jobs.put((future, job))
        if not self.begun:
            self.begun = True
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._jobs.put(None)

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            future, job = entry
            if not future.set_running_or_notify_cancel():
                continue
            self.busy = True
            try:
                result, error = job(), None
            except BaseException as raised:
                result, error = None, raised
            self.busy = False
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, job, entry, result, error  # an idle thread must not hold on to what it did last
