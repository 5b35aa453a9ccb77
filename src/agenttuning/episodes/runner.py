"""Plays items in lock-step: one call of the policy a turn for all live episodes.

The order of the rules of a turn, as AgentBench plays: a reply without an action ends the episode (refusal or
invalid_format); an action that the environment refuses is reported by it and the episode goes on, until
`invalid_in_a_row` of them (invalid_action); `repetition` identical replies in a row end it, after the last was played;
the turns of the task end it (task_limit). Only an episode that the environment calls over has a reward: not done is 0,
as for AgentBench's ALFWorld (not won), WebShop (nothing bought) and OS (no answer).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from agenttuning.environments import Room
from agenttuning.episodes import status
from agenttuning.episodes.store import EpisodeStore, key_of
from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, Policy, Turn
from agenttuning.protocols import Limits, Protocol, TaskRules, format_of
from agenttuning.protocols.history import newest
from agenttuning.protocols.messages import Format, Prompts, assistant, declines, user

log = logging.getLogger(__name__)
ERROR_CHARS = 500  # of an exception's text in a record
ATTEMPTS_ALONE = 3  # turns that fail alone, one after the other, before the policy counts as down for the whole batch


@dataclass
class _Episode:
    item: dict
    env: Any = None
    prompt: str | None = None  # digest of what stood before the first observation
    opening: int = 0  # messages before the model's first turn
    messages: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    ended: str | None = None
    reward: float | None = None
    metrics: dict = field(default_factory=dict)
    last: str | None = None  # the observation after the last action; no reply follows it, so it is no message
    error: str | None = None

    @property
    def turn(self) -> int:
        return sum(message["role"] == "assistant" and message["loss"] for message in self.messages)


@dataclass(frozen=True)
class _Rules:
    """What is asked of the protocol turn by turn."""

    protocol: Protocol
    task: TaskRules
    limits: Limits
    format: Format

    def shown(self, episode: _Episode) -> list[dict]:
        messages = episode.messages
        if self.format.fresh:
            messages = [*messages[: episode.opening - 1], messages[-1]]
        limit = self.protocol.history_segments
        return messages if limit is None else newest(messages, limit)


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
    progress: bool = True,
) -> list[dict]:
    """Play `items` in a room and return one record an item, in their order.

    Items whose key has a result of the model in `store` are not played again. At most `width` episodes are live at a
    time. A policy that raises is asked again `retries` times, after `wait_s`, 2 `wait_s`, ... seconds, and then turn by
    turn, so that one poisonous prompt does not take its neighbours along; what still fails is an agent_error. Name the
    weights in `model` (path and revision): it is the key's part that tells two checkpoints apart. `sample` tells apart
    episodes of the same item by the same model.

    A record has task, backend, protocol, item, seed, model, sample (the key), status, reward (0..1, None for
    infrastructure), metrics, turns, prompt (digest), messages, steps [{action, valid, cut, error}], last (closing
    observation) and error. UserError and KeyboardInterrupt pass through; live episodes are then recorded as cancelled.
    """
    told = protocol.rules(room.task)
    rules = _Rules(protocol, told, protocol.limits_of(room.task), format_of(told.format))
    if len({item["id"] for item in items}) < len(items):
        raise ValueError(f"two items of {room.task} have the same id")
    key = {"task": room.task, "backend": room.backend.name, "protocol": protocol.label}
    key |= {"seed": seed, "model": model, "sample": sample}
    done = {} if store is None else {item["id"]: store.result(key_of({**key, "item": item["id"]})) for item in items}
    records: dict[str, dict] = {item: record for item, record in done.items() if record is not None}
    pending = deque(item for item in items if item["id"] not in records)
    if records:
        log.info("%s: %d of %d episodes are in the store already", room.task, len(records), len(items))
    live: list[_Episode] = []

    def finish(episode: _Episode) -> None:
        record = {**key, "item": episode.item["id"], **_outcome(episode)}
        records[record["item"]] = record
        if store is not None:
            store.append(record)

    with _bar(room.task, len(items), progress) as bar:
        bar.update(len(records))
        try:
            while pending or live:
                while pending and len(live) < width:
                    live.append(_Episode(pending.popleft()))
                    _open(live[-1], room, prompts)
                playing = [episode for episode in live if episode.ended is None]
                for episode, reply in zip(playing, _ask(policy, playing, rules, retries, wait_s), strict=True):
                    _answer(episode, reply, rules)
                ended, live = [e for e in live if e.ended], [e for e in live if not e.ended]
                for episode in ended:
                    _close(episode, rules)
                    finish(episode)
                bar.update(len(ended))
                bar.set_postfix_str(_success(records))
        except BaseException as error:
            for episode in live:
                if episode.item["id"] not in records:
                    episode.ended, episode.error = status.CANCELLED, _text(error)
                    _close(episode, rules)
                    finish(episode)
            raise
    return [records[item["id"]] for item in items]


def _open(episode: _Episode, room: Room, prompts: Prompts) -> None:
    prompt = prompts(episode.item)
    try:
        episode.env = room.make(episode.item)
        observation = _clean(episode.env.reset())
        episode.prompt, episode.messages = prompt.digest, prompt.opening(observation)
        episode.opening = len(episode.messages)
    except Exception as error:
        episode.ended, episode.error = status.ENVIRONMENT_ERROR, _text(error)


def _ask(
    policy: Policy, episodes: list[_Episode], rules: _Rules, retries: int, wait_s: float
) -> list[str | ContextLimit | Exception]:
    turns = [Turn(rules.shown(e), e.item["id"], e.turn, e.env, rules.format.write) for e in episodes]
    if not turns:
        return []
    failure: Exception = RuntimeError("never asked")
    for attempt in range(retries + 1):
        try:
            return _checked(policy(turns), turns)
        except UserError:
            raise
        except Exception as error:
            failure = error
            log.warning(
                "the policy failed on %d turns, attempt %d of %d: %s",
                len(turns),
                attempt + 1,
                retries + 1,
                _text(error),
            )
            if attempt < retries:
                time.sleep(wait_s * 2**attempt)
    if len(turns) == 1:
        return [failure]
    answers: list[str | ContextLimit | Exception] = []
    for turn in turns:
        if len(answers) >= ATTEMPTS_ALONE and all(isinstance(answer, Exception) for answer in answers):
            answers.append(failure)
            continue
        try:
            answers += _checked(policy([turn]), [turn])
        except UserError:
            raise
        except Exception as error:
            answers.append(error)
    return answers


def _checked(replies: Any, turns: list[Turn]) -> list[str | ContextLimit]:
    if len(replies) != len(turns):
        raise TypeError(f"the policy gave {len(replies)} replies to {len(turns)} turns")
    for reply in replies:
        if not isinstance(reply, str | ContextLimit):
            raise TypeError(f"the policy gave a {type(reply).__name__} for a reply")
    return replies


def _answer(episode: _Episode, reply: str | ContextLimit | Exception, rules: _Rules) -> None:
    if isinstance(reply, Exception):
        episode.ended, episode.error = status.AGENT_ERROR, _text(reply)
        return
    if isinstance(reply, ContextLimit):
        episode.ended = status.CONTEXT_LIMIT
        return
    reply = _clean(reply)
    parsed = rules.format.read(reply, rules.limits.action_chars, episode.env.actions)
    episode.messages.append(assistant(reply if parsed.keep is None else parsed.keep))
    if parsed.action is None:
        episode.steps.append({"action": None, "valid": False, "cut": False, "error": None})
        if parsed.tell is None:
            episode.ended = status.REFUSAL if declines(reply) else status.INVALID_FORMAT
            return
        observation, over = parsed.tell, False
    else:
        try:
            step = episode.env.step(parsed.action)
            observation, over = _clean(step.observation), step.done
        except Exception as error:
            episode.ended, episode.error = status.ENVIRONMENT_ERROR, _text(error)
            return
        made = {"action": parsed.action, "valid": step.valid, "cut": parsed.cut, "error": step.error}
        episode.steps.append(made)
    episode.ended = status.COMPLETED if over else _stopped(episode, rules)
    if episode.ended:
        episode.last = observation
    else:
        episode.messages.append(user(rules.format.show(observation)))


def _stopped(episode: _Episode, rules: _Rules) -> str | None:
    limits = rules.limits
    replies = [message["content"] for message in episode.messages if message["role"] == "assistant" and message["loss"]]
    tail = replies[-limits.repetition :] if limits.repetition else []
    if tail and len(replies) >= max(limits.repetition, limits.repetition_from) and len(set(tail)) == 1:
        return status.REPETITION
    tail = episode.steps[-limits.invalid_in_a_row :] if limits.invalid_in_a_row else []
    if tail and len(tail) == limits.invalid_in_a_row and not any(step["valid"] for step in tail):
        return status.INVALID_ACTION
    return status.TASK_LIMIT if len(replies) >= rules.task.max_turns else None


def _close(episode: _Episode, rules: _Rules) -> None:
    if episode.env is None:
        return
    try:
        _score(episode, rules)
    except Exception as error:
        episode.ended, episode.error = status.ENVIRONMENT_ERROR, _text(error)
    try:
        episode.env.close()
    except Exception as error:
        # The result stands; what leaked is said.
        episode.error = f"{episode.error or ''} close: {_text(error)}".strip()


def _score(episode: _Episode, rules: _Rules) -> None:
    if not status.is_result(episode.ended):
        return
    finished = episode.ended == status.COMPLETED or rules.task.unfinished == "score"
    episode.reward = _reward(episode.env.score()) if finished else 0.0
    metrics = getattr(episode.env, "metrics", None)
    episode.metrics = metrics() if metrics else {}


def _clean(text: str) -> str:
    # A lone surrogate, which JSON can carry, is not text: the tokenizer would refuse the whole conversation.
    return text.encode("utf-8", "replace").decode("utf-8")


def _reward(score: float) -> float:
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score() gave {score!r}; a reward lies in [0, 1]")
    return float(score)


def _outcome(episode: _Episode) -> dict:
    scored = status.is_result(episode.ended)
    return {
        "status": episode.ended,
        "reward": episode.reward if scored else None,
        "metrics": episode.metrics if scored else {},
        "turns": episode.turn,
        "prompt": episode.prompt,
        "messages": episode.messages,
        "steps": episode.steps,
        "last": episode.last,
        "error": episode.error,
    }


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS]


def _success(records: dict[str, dict]) -> str:
    scored = [record["reward"] for record in records.values() if status.is_result(record["status"])]
    return f"success {100 * sum(reward >= 1.0 for reward in scored) / len(scored):.1f} %" if scored else "no result yet"


def _bar(name: str, total: int, progress: bool):
    from tqdm import tqdm

    # disable=None: silent when stderr is not a terminal.
    return tqdm(total=total, desc=name, unit="episode", disable=None if progress else True)
