"""Turns to a policy: in lock-step for a policy in this process, each by itself for one that is waited for.

`await asker.ask(turn, place)` gives a reply, a ContextLimit, or the exception that ends the episode as an agent_error.
UserError and what is no Exception are raised: they end the run. What was asked again is counted in `counts`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from agenttuning.episodes.episode import text_of
from agenttuning.episodes.remote import WorldError
from agenttuning.errors import UserError
from agenttuning.policies import AsyncPolicy, BatchPolicy, ContextLimit, GaveUp, Policy, Turn

log = logging.getLogger(__name__)
ATTEMPTS_ALONE = 3  # turns that fail alone, one after the other, before the policy counts as down for the whole batch

Answer = str | ContextLimit | Exception


def asker_of(policy: Policy, live: int, retries: int, wait_s: float, counts: Counter) -> Batch | Single:
    """The asker of a policy, by its face, for at most `live` episodes at once."""
    if hasattr(policy, "ask"):
        return Single(policy, min(live, getattr(policy, "slots", None) or live), retries, wait_s, counts)
    return Batch(policy, live, retries, wait_s, counts)


class Batch:
    """Asks when every live episode waits, in the order of their `place`: with environments that run inline this is
    lock-step, whatever the number of episodes and the time their other work takes.

    A policy that raises is asked again `retries` times, after `wait_s`, 2 `wait_s`, ... seconds, and then turn by turn,
    so that one poisonous prompt does not take its neighbours along.
    """

    def __init__(self, policy: BatchPolicy, live: int, retries: int, wait_s: float, counts: Counter) -> None:
        self._policy, self._live, self._retries, self._wait_s, self._counts = policy, live, retries, wait_s, counts
        self._waiting: list[tuple[int, Turn, asyncio.Future]] = []
        self._asking: asyncio.Task | None = None

    async def ask(self, turn: Turn, place: int) -> Answer:
        """One reply; see the module."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((place, turn, future))
        self._look()
        return await future

    def leave(self) -> None:
        """One episode fewer is live, for good: the others are not to wait for it."""
        self._live -= 1
        self._look()

    def _look(self) -> None:
        if self._waiting and len(self._waiting) >= self._live:
            waiting, self._waiting = sorted(self._waiting, key=lambda entry: entry[0]), []
            self._asking = asyncio.ensure_future(self._answer(waiting))

    async def _answer(self, waiting: list[tuple[int, Turn, asyncio.Future]]) -> None:
        futures = [future for _, _, future in waiting]
        try:
            answers = await self._ask([turn for _, turn, _ in waiting])
        except BaseException as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, answer in zip(futures, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _ask(self, turns: list[Turn]) -> list[Answer]:
        failure: Exception = RuntimeError("never asked")
        for attempt in range(self._retries + 1):
            try:
                return _checked(self._policy(turns), turns)
            except UserError:
                raise
            except Exception as error:
                failure = error
                await _failed(error, len(turns), attempt, self._retries, self._wait_s, self._counts)
        if len(turns) == 1:
            return [failure]
        answers: list[Answer] = []
        for turn in turns:
            if len(answers) >= ATTEMPTS_ALONE and all(isinstance(answer, Exception) for answer in answers):
                answers.append(failure)
                continue
            try:
                answers += _checked(self._policy([turn]), [turn])
            except UserError:
                raise
            except Exception as error:
                answers.append(error)
        return answers


class Single:
    """Asks for each turn by itself, at most `slots` at a time; who came first is asked first."""

    def __init__(self, policy: AsyncPolicy, slots: int, retries: int, wait_s: float, counts: Counter) -> None:
        self._policy, self._retries, self._wait_s, self._counts = policy, retries, wait_s, counts
        self._slots = asyncio.Semaphore(slots)

    async def ask(self, turn: Turn, place: int) -> Answer:
        """One reply; see the module."""
        async with self._slots:
            for attempt in range(self._retries + 1):
                try:
                    return _checked([await self._policy.ask(turn)], [turn])[0]
                except UserError:
                    raise
                except (GaveUp, WorldError) as error:
                    return error
                except Exception as error:
                    failure = error
                    await _failed(error, 1, attempt, self._retries, self._wait_s, self._counts)
            return failure

    def leave(self) -> None:
        """Nothing: nobody waits for another episode."""


async def _failed(error: Exception, turns: int, attempt: int, retries: int, wait_s: float, counts: Counter) -> None:
    log.warning("the policy failed on %d turns, attempt %d of %d: %s", turns, attempt + 1, retries + 1, text_of(error))
    if attempt < retries:
        counts["asked again"] += turns
        await asyncio.sleep(wait_s * 2**attempt)


def _checked(replies: Any, turns: list[Turn]) -> list[str | ContextLimit]:
    if len(replies) != len(turns):
        raise TypeError(f"the policy gave {len(replies)} replies to {len(turns)} turns")
    for reply in replies:
        if not isinstance(reply, str | ContextLimit):
            raise TypeError(f"the policy gave a {type(reply).__name__} for a reply")
    return replies
