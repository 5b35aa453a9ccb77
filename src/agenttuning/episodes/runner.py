"""Plays items, many at once, and returns one record each. The rules of a turn are in episode.py.

Every episode is a task of one event loop. Environments and model have limits of their own: at most `width` and
`Room.slots` environments are open, at most the policy's `slots` questions are asked, and an open environment holds no
slot of the model. Where an environment's calls run is hosts.py's matter, how the policy is asked asking.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agenttuning.disk import FULL
from agenttuning.environments import Room
from agenttuning.episodes import status
from agenttuning.episodes.asking import Batch, Single, asker_of
from agenttuning.episodes.episode import Episode, Rules, act, clean, decline, note, opened, settle, text_of
from agenttuning.episodes.hosts import Host, host_of
from agenttuning.episodes.progress import Progress
from agenttuning.episodes.store import EpisodeStore, key_of
from agenttuning.errors import UserError
from agenttuning.policies import Policy, Turn
from agenttuning.protocols import Protocol
from agenttuning.protocols.messages import Prompts, assistant

log = logging.getLogger(__name__)
LOST_IN_A_ROW = 16  # episodes, or all that are live where those are more, after which nothing more is expected


def play(
    room: Room,
    items: list[dict],
    policy: Policy,
    protocol: Protocol,
    prompts: Prompts,
    *,
    model: str,
    seed: int,
    sample: int = 0,
    store: EpisodeStore | None = None,
    width: int = 160,
    retries: int = 2,
    wait_s: float = 0.5,
    env_timeout_s: float = 300.0,
    counts: Counter | None = None,
    progress: bool = True,
    progress_s: float = 30.0,
) -> list[dict]:
    """Play `items` in a room and return one record an item, in their order.

    Items whose key has a result of the model in `store` are not played again. At most `width` episodes are live at a
    time. What fails is tried again `retries` times, after `wait_s`, 2 `wait_s`, ... seconds: a policy that raises is
    asked again (asking.py), then the episode is an agent_error; an episode whose environment raises, crashes or does
    not answer within `env_timeout_s` seconds (rooms of isolation thread and process) is played again from the start,
    then it is an environment_error. `counts` gets what was done again: "asked again" (turns), "played again"
    (episodes). Name the weights in `model` (path and revision): it is the key's part that tells two checkpoints apart.
    `sample` tells apart episodes of the same item by the same model. `progress` False is quiet; without a terminal a
    line is written every `progress_s` seconds.

    A record has task, backend, protocol, item, seed, model, sample (the key), status, reward (0..1, None for
    infrastructure), metrics, turns, prompt (digest), messages, steps [{action, valid, cut, error}], last (closing
    observation) and error. With the same seed and a policy whose replies depend on their turn alone the records are
    equal, byte for byte, at any `width`. UserError and KeyboardInterrupt pass through; live episodes are then recorded
    as cancelled. Raises UserError when the disk of `store` is full, and when as many episodes in a row as are live (at
    least 16) were lost to infrastructure and more are to come.
    """
    rules = Rules.of(protocol, room.task)
    if len({item["id"] for item in items}) < len(items):
        raise ValueError(f"two items of {room.task} have the same id")
    key = {"task": room.task, "backend": room.backend.name, "protocol": protocol.label}
    key |= {"seed": seed, "model": model, "sample": sample}
    done = {} if store is None else {item["id"]: store.result(key_of({**key, "item": item["id"]})) for item in items}
    records = {item: record for item, record in done.items() if record is not None}
    if records and progress:
        print(
            f"{room.task}: {len(records)} of {len(items)} episodes are in {store.folder} already; they are not played "
            "again",
            file=sys.stderr,
            flush=True,
        )
    pending = deque((place, item) for place, item in enumerate(items) if item["id"] not in records)
    live = min(width, room.slots or width, len(pending))
    counts = Counter() if counts is None else counts
    asker = asker_of(policy, live, retries, wait_s, counts)
    shown = Progress(room.task, len(items), rules.task.metric, progress, progress_s)
    shown.add(records.values())
    run = _Run(room, rules, prompts, asker, store, key, pending, retries, wait_s, env_timeout_s, counts, shown, records)
    try:
        if pending:
            complete(run.play(policy, live))
    finally:
        shown.close()
    if counts:
        log.info("%s: %s", room.task, ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    return [run.records[item["id"]] for item in items]


def complete(work: Coroutine) -> None:
    """Run `work` to its end, also where an event loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    # called from within an event loop (a notebook's): that one goes on when this is done
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@dataclass
class _Run:
    room: Room
    rules: Rules
    prompts: Prompts
    asker: Batch | Single
    store: EpisodeStore | None
    key: dict
    pending: deque[tuple[int, dict]]
    retries: int
    wait_s: float
    env_timeout_s: float
    counts: Counter
    progress: Progress
    records: dict[str, dict]
    cause: BaseException | None = None  # what ended the run early
    tasks: list[asyncio.Task] = field(default_factory=list)
    lost_in_a_row: int = 0

    async def play(self, policy: Policy, live: int) -> None:
        """Play what is pending, `live` episodes at once. Raises what ended it early."""
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(policy, "__aenter__"):
                await stack.enter_async_context(policy)
            beat = asyncio.ensure_future(self.progress.beat())
            stack.callback(beat.cancel)
            self.tasks = [asyncio.ensure_future(self._work()) for _ in range(live)]
            try:
                await asyncio.wait(self.tasks)
            except asyncio.CancelledError:  # Ctrl-C, as asyncio.run hands it on
                self._stop(KeyboardInterrupt())
                await asyncio.wait(self.tasks)
                raise
        if self.cause is not None:
            raise self.cause

    def _stop(self, cause: BaseException) -> None:
        if self.cause is None:
            self.cause = cause
            for task in self.tasks:
                if task is not asyncio.current_task():
                    task.cancel()

    async def _work(self) -> None:
        try:
            while self.pending and self.cause is None:
                await self._item(*self.pending.popleft())
        except BaseException as error:  # also KeyboardInterrupt: out of a task it would end the loop with all the rest
            self._stop(error)
        finally:
            self.asker.leave()

    async def _item(self, place: int, item: dict) -> None:
        for attempt in range(self.retries + 1):
            episode = Episode(item)
            host = host_of(self.room, item, self.env_timeout_s)
            try:
                await self._episode(episode, host, place)
                await _close(episode, host)
                if episode.ended != status.ENVIRONMENT_ERROR or attempt == self.retries:
                    break
                self.counts["played again"] += 1
                log.warning(
                    "%s, item %s: the environment failed, attempt %d of %d, it is played again from the start: %s",
                    *(self.room.task, item["id"], attempt + 1, self.retries + 1, episode.error),
                )
                await asyncio.sleep(self.wait_s * 2**attempt)
            except BaseException as error:
                await self._cancel(episode, host, error)
                raise
        await self._finish(episode)

    async def _episode(self, episode: Episode, host: Host, place: int) -> None:
        """Play to the end. Raises UserError and what is no Exception; any other failure is noted in the episode."""
        rules, prompt = self.rules, self.prompts(episode.item)
        try:
            observation, ended = await _in(host, opened)
            episode.begin(prompt, observation)
            episode.ended = ended
            while episode.ended is None:
                turn = Turn(episode.shown(rules), episode.item["id"], episode.turn, host.face, rules.format.write)
                answer = await self.asker.ask(turn, place)
                if not isinstance(answer, str):
                    decline(episode, answer)
                    break
                await _turn(episode, host, clean(answer), rules)
            if status.is_result(episode.ended):
                episode.reward, episode.metrics = await _in(host, lambda env: settle(env, episode, rules))
        except _Broken as error:
            episode.fail(status.ENVIRONMENT_ERROR, error.__cause__)

    async def _cancel(self, episode: Episode, host: Host, error: BaseException) -> None:
        episode.fail(status.CANCELLED, self.cause or error)
        try:
            await host.leave()
        except Exception as failure:
            log.warning("%s, item %s: close: %s", self.room.task, episode.item["id"], text_of(failure))
        try:
            await self._finish(episode)
        except UserError as failure:  # a full disk: the episode is played again without this record, too
            log.warning("%s, item %s: not recorded as cancelled: %s", self.room.task, episode.item["id"], failure)

    async def _finish(self, episode: Episode) -> None:
        record = {**self.key, "item": episode.item["id"], **episode.outcome()}
        if self.store is not None:
            try:
                # where the run is stopped in this wait, the record is written all the same
                await asyncio.wrap_future(self.store.submit(record))
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise self._full(error) from error
        self.records[record["item"]] = record
        self.progress.add([record])
        lost = episode.ended in (status.AGENT_ERROR, status.ENVIRONMENT_ERROR)
        self.lost_in_a_row = self.lost_in_a_row + 1 if lost else 0
        if self.lost_in_a_row >= max(len(self.tasks), LOST_IN_A_ROW) and self.pending:
            raise UserError(
                f"{self.room.task}: the last {self.lost_in_a_row} episodes were all lost to infrastructure, the newest "
                f"to {episode.ended} ({episode.error}); the {len(self.pending)} that are left would most likely be, "
                "too; see to what failed and type the same command: what has a result is not played again"
            )

    def _full(self, error: OSError) -> UserError:
        results = sum(status.is_result(record["status"]) for record in self.records.values())
        return UserError(
            f"the disk of {self.store.folder} is full ({error.strerror}); {results} episodes of {self.room.task} are "
            f"stored whole and the file is valid, the rest would be lost if the run went on; make room and type the "
            "same command: it goes on from there"
        )


class _Broken(Exception):
    """An environment raised, crashed or hung; the cause is what it was."""


async def _in(host: Host, work: Callable[[Any], Any]) -> Any:
    try:
        return await host.do(work)
    except UserError:
        raise
    except Exception as error:
        raise _Broken from error


async def _turn(episode: Episode, host: Host, reply: str, rules: Rules) -> None:
    try:
        parsed, step = await _in(host, lambda env: act(env, reply, rules))
    except _Broken:
        episode.messages.append(assistant(reply))
        raise
    if isinstance(step, UserError):
        raise step
    if isinstance(step, Exception):
        episode.messages.append(assistant(reply if parsed.keep is None else parsed.keep))
        raise _Broken from step
    note(episode, reply, parsed, step, rules)


async def _close(episode: Episode, host: Host) -> None:
    try:
        await host.close()
    except Exception as error:
        # The result stands; what leaked is said.
        episode.error = f"{episode.error or ''} close: {text_of(error)}".strip()
