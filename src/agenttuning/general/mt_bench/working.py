"""Many questions at a time to one policy: the part that answering and judging share."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agenttuning.chat.show import escape
from agenttuning.episodes.asking import asker_of
from agenttuning.episodes.runner import complete
from agenttuning.errors import UserError
from agenttuning.policies import Policy

LOST_IN_A_ROW = 16  # as in episodes/runner.py: after as many nothing more is expected
EVERY_S = 30.0  # between two lines of progress


class Worker:
    """Asks, says how far it is, and ends the run where nothing comes back any more."""

    def __init__(self, what: str, policy: Policy, asker: Any, total: int) -> None:
        self._what, self._asker, self._total = what, asker, total
        self.policy = policy
        self._done = self._lost = self._in_a_row = 0
        self._said = time.monotonic()

    async def ask(self, turn: Any, place: int) -> Any:
        """A reply, a ContextLimit or the exception that stayed. Raises UserError after LOST_IN_A_ROW of those."""
        reply = await self._asker.ask(turn, place)
        if not isinstance(reply, Exception):
            self._in_a_row = 0
            return reply
        self._lost += 1
        self._in_a_row += 1
        if self._in_a_row >= LOST_IN_A_ROW:
            raise UserError(
                f"{self._what}: {self._in_a_row} in a row got no answer, the last: {escape(str(reply)[:500])}; the "
                "rest would be lost as well; mend it and type the same command: what has an answer is not asked again"
            ) from reply
        return reply

    def done(self) -> None:
        """One piece of work is finished."""
        self._done += 1
        now = time.monotonic()
        if now - self._said >= EVERY_S:
            self._said = now
            lost = f", {self._lost} lost" if self._lost else ""
            print(f"{self._what}: {self._done} of {self._total}{lost}", file=sys.stderr, flush=True)


def work_through(
    what: str,
    policy: Policy,
    works: Sequence[Any],
    one: Callable[[Worker, int, Any], Awaitable[None]],
    *,
    width: int,
    retries: int,
    wait_s: float,
    counts: Any,
) -> None:
    """Await `one(worker, place, work)` for each work, at most `width` at a time, with `policy` open.

    A policy of this process that raises is asked again `retries` times (episodes/asking.py). The first exception that
    `one` raises cancels the others and is raised.
    """
    pending = deque(enumerate(works))
    live = min(width, len(works))
    asker = asker_of(policy, live, retries, wait_s, counts)
    worker = Worker(what, policy, asker, len(works))

    async def through() -> None:
        try:
            while pending:
                place, work = pending.popleft()
                await one(worker, place, work)
                worker.done()
        finally:
            asker.leave()

    async def all_of_them() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(policy, "__aenter__"):
                await stack.enter_async_context(policy)
            tasks = [asyncio.ensure_future(through()) for _ in range(live)]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    if works:
        complete(all_of_them())
