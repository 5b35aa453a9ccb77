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
from types import ModuleType
from typing import Any

from agenttuning.episodes import status
from agenttuning.episodes.store import EpisodeStore, key_of
from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, Policy, Turn
from agenttuning.protocols import Limits, Protocol, react

log = logging.getLogger(__name__)
ERROR_CHARS = 500  # of an exception's text in a record
ATTEMPTS_ALONE = 3  # turns that fail alone, one after the other, before the policy counts as down for the whole batch


@dataclass
class _Episode:
    item: dict
    env: Any = None
    messages: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    ended: str | None = None
    reward: float | None = None
    last: str | None = None  # the observation after the last action; no reply follows it, so it is no message
    error: str | None = None

    @property
    def turn(self) -> int:
        return sum(message["role"] == "assistant" and message["loss"] for message in self.messages)


def play(
    task: ModuleType,
    items: list[dict],
    policy: Policy,
    protocol: Protocol,
    *,
    model: str,
    seed: int,
    store: EpisodeStore | None = None,
    width: int = 160,
    retries: int = 2,
    wait_s: float = 0.5,
    progress: bool = True,
) -> list[dict]:
    """Play `items` of a task module and return one record an item, in their order.

    Items whose key has a result of the model in `store` are not played again. At most `width` episodes are live at a
    time. A policy that raises is asked again `retries` times, after `wait_s`, 2 `wait_s`, ... seconds, and then turn by
    turn, so that one poisonous prompt does not take its neighbours along; what still fails is an agent_error. Name the
    weights in `model` (path and revision): it is the key's part that tells two checkpoints apart.

    A record has task, protocol, item, seed, model (the key), status, reward (0..1, None for infrastructure), turns,
    messages, steps [{action, valid, cut}], last (closing observation) and error.
    UserError and KeyboardInterrupt pass through; live episodes are then recorded as cancelled.
    """
    rules = protocol.rules(task.NAME)
    if len({item["id"] for item in items}) < len(items):
        raise ValueError(f"two items of {task.NAME} have the same id")
    key = {"task": task.NAME, "protocol": protocol.label, "seed": seed, "model": model}
    done = {} if store is None else {item["id"]: store.result(key_of({**key, "item": item["id"]})) for item in items}
    records: dict[str, dict] = {item: record for item, record in done.items() if record is not None}
    pending = deque(item for item in items if item["id"] not in records)
    if records:
        log.info("%s: %d of %d episodes are in the store already", task.NAME, len(records), len(items))
    live: list[_Episode] = []

    def finish(episode: _Episode) -> None:
        record = {**key, "item": episode.item["id"], **_outcome(episode)}
        records[record["item"]] = record
        if store is not None:
            store.append(record)

    with _bar(task.NAME, len(items), progress) as bar:
        bar.update(len(records))
        try:
            while pending or live:
                while pending and len(live) < width:
                    live.append(_Episode(pending.popleft()))
                    _open(live[-1], task)
                playing = [episode for episode in live if episode.ended is None]
                for episode, reply in zip(playing, _ask(policy, playing, retries, wait_s), strict=True):
                    _answer(episode, reply, protocol, rules.max_turns)
                ended, live = [e for e in live if e.ended], [e for e in live if not e.ended]
                for episode in ended:
                    _close(episode)
                    finish(episode)
                bar.update(len(ended))
                bar.set_postfix_str(_success(records))
        except BaseException as error:
            for episode in live:
                if episode.item["id"] not in records:
                    episode.ended, episode.error = status.CANCELLED, _text(error)
                    _close(episode)
                    finish(episode)
            raise
    return [records[item["id"]] for item in items]


def _open(episode: _Episode, task: ModuleType) -> None:
    try:
        episode.env = task.Environment(episode.item)
        observation = _clean(episode.env.reset())
        episode.messages = react.opening(task.INSTRUCTION, task.ACKNOWLEDGEMENT, observation)
    except Exception as error:
        episode.ended, episode.error = status.ENVIRONMENT_ERROR, _text(error)


def _ask(policy: Policy, episodes: list[_Episode], retries: int, wait_s: float) -> list[str | ContextLimit | Exception]:
    turns = [Turn(episode.messages, episode.item["id"], episode.turn, episode.env) for episode in episodes]
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


def _answer(episode: _Episode, reply: str | ContextLimit | Exception, protocol: Protocol, max_turns: int) -> None:
    if isinstance(reply, Exception):
        episode.ended, episode.error = status.AGENT_ERROR, _text(reply)
        return
    if isinstance(reply, ContextLimit):
        episode.ended = status.CONTEXT_LIMIT
        return
    reply = _clean(reply)
    episode.messages.append(react.assistant(reply))
    parsed = react.parse(reply, protocol.limits.action_chars)
    if parsed.action is None:
        episode.steps.append({"action": None, "valid": False, "cut": False})
        episode.ended = status.REFUSAL if react.is_refusal(reply) else status.INVALID_FORMAT
        return
    try:
        step = episode.env.step(parsed.action)
        observation, over, valid = _clean(step.observation), step.done, step.valid
        if over:
            episode.reward = _reward(episode.env.score())
    except Exception as error:
        episode.ended, episode.error = status.ENVIRONMENT_ERROR, _text(error)
        return
    episode.steps.append({"action": parsed.action, "valid": valid, "cut": parsed.cut})
    episode.ended = status.COMPLETED if over else _stopped(episode, protocol.limits, max_turns)
    if episode.ended:
        episode.last = observation
    else:
        episode.messages.append(react.user(observation))


def _stopped(episode: _Episode, limits: Limits, max_turns: int) -> str | None:
    replies = [message["content"] for message in episode.messages if message["role"] == "assistant" and message["loss"]]
    if len(replies) >= limits.repetition and len(set(replies[-limits.repetition :])) == 1:
        return status.REPETITION
    refused = [not step["valid"] for step in episode.steps[-limits.invalid_in_a_row :]]
    if len(refused) == limits.invalid_in_a_row and all(refused):
        return status.INVALID_ACTION
    return status.TASK_LIMIT if len(replies) >= max_turns else None


def _close(episode: _Episode) -> None:
    if episode.env is None:
        return
    try:
        episode.env.close()
    except Exception as error:
        # The result stands; what leaked is said.
        episode.error = f"{episode.error or ''} close: {_text(error)}".strip()


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
        "reward": (episode.reward or 0.0) if scored else None,
        "turns": episode.turn,
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
