"""The error kinds of the paper's error-analysis figure, found by rules in stored trajectories.

The figure gives the share of trajectories that contain an error, by "rule-based detection" whose rules are not printed;
those of RULES are ours. A trajectory can have several kinds, and can be won in spite of them. `format` and `task_limit`
are no bars of the figure. The FUNCTION_KINDS are asked only of FUNCTION_TASKS, whose actions are calls of tools.
"""

from __future__ import annotations

import re
from collections import Counter

from agenttuning.episodes import status
from agenttuning.episodes.trajectory import FRESH, first_turn
from agenttuning.protocols.messages import declines

SHORT = 3  # replies in a row: the number at which AgentBench.old ends an ALFWorld episode
LONG = 3  # stretches; not stated; we chose the same number

RULES = {
    "invalid_action": "an action that the environment refused, or a reply without one after which it went on; a "
    "refusal and a tool called wrongly have kinds of their own",
    "short_term_repetition": f"the same reply in {SHORT} turns in a row",
    "long_term_repetition": f"the same action met by the same observation in {LONG} stretches of the trajectory, apart",
    "refusal": "a reply that opens with an apology or a refusal and names no action",
    "format": "the episode was ended by any other reply without an action",
    "task_limit": "the turns were used up",
    "function_call_error": "a tool was called in a way that cannot be run",
    "function_repetition": "a call that was made before, spaces aside: the answer of a graph does not change",
}
FUNCTION_KINDS = ("function_call_error", "function_repetition")
FUNCTION_TASKS = ("kg",)
KINDS = tuple(kind for kind in RULES if kind not in FUNCTION_KINDS)  # asked of every task

# The gap is bounded, so that a megabyte of "action" is read in linear time.
_NAMES_ACTION = re.compile(r"\bact(?:ion)?\b[^:\n]{0,20}:", re.IGNORECASE)


def kinds_of(task: str) -> tuple[str, ...]:
    """The kinds that are asked of a task."""
    return (*KINDS, *FUNCTION_KINDS) if task in FUNCTION_TASKS else KINDS


def rates(records: list[dict]) -> dict[str, float]:
    """Share in [0, 1] of trajectories of one task with each of its kinds. Raises ValueError for no records."""
    if not records:
        raise ValueError("no trajectories")
    counts = Counter(kind for record in records for kind in kinds(record))
    return {kind: counts[kind] / len(records) for kind in kinds_of(records[0]["task"])}


def kinds(record: dict) -> set[str]:
    """The error kinds of one episode record."""
    replies = [m["content"] for m in record["messages"] if m["role"] == "assistant" and m["loss"]]
    steps = record["steps"]
    called = record["task"] in FUNCTION_TASKS
    # Where each turn is a question of its own, the same answer twice is no repetition.
    single = record["task"] in FRESH
    found = {
        "invalid_action": any(_invalid(reply, step, called) for reply, step in _went_on(record, replies)),
        "short_term_repetition": not single and _longest_run(replies) >= SHORT,
        "long_term_repetition": not single and _most_stretches(_pairs(record)) >= LONG,
        "refusal": record["status"] == status.REFUSAL or _declined(replies, steps),
        "format": record["status"] == status.INVALID_FORMAT,
        "task_limit": record["status"] == status.TASK_LIMIT,
        "function_call_error": called and any(step.get("error") == "function_call" for step in steps),
        "function_repetition": called and _calls_again(steps),
    }
    return {kind for kind, present in found.items() if present}


def _went_on(record: dict, replies: list[str]) -> list[tuple[str, dict]]:
    """(reply, step) for each step but one without an action that ended the episode: `refusal` or `format`."""
    pairs = list(zip(replies, record["steps"], strict=False))
    return pairs[:-1] if record["status"] in (status.REFUSAL, status.INVALID_FORMAT) else pairs


def _invalid(reply: str, step: dict, called: bool) -> bool:
    # The paper's Llama-2 refuses in 47 % and acts invalidly in 24 %; ALFWorld has no valid action for a refusal.
    if _refuses(reply, step["action"]):
        return False
    return not step["valid"] and not (called and step.get("error") == "function_call")


def _declined(replies: list[str], steps: list[dict]) -> bool:
    """Some reply refuses. That ends an episode of a format which knows replies without an action; AgentBench.old's
    ALFWorld takes such a reply whole for an action, and plays on.
    """
    actions = [step["action"] for step in steps]
    actions += [None] * (len(replies) - len(actions))
    return any(_refuses(reply, action) for reply, action in zip(replies, actions, strict=False))


def _refuses(reply: str, action: str | None) -> bool:
    return declines(reply) and (action is None or not _NAMES_ACTION.search(reply))


def _pairs(record: dict) -> list[tuple[str | None, str | None]]:
    """(action, observation that it led to) for each step."""
    seen = [message["content"] for message in record["messages"][first_turn(record) :] if message["role"] == "user"]
    seen += [record["last"]] * (len(record["steps"]) - len(seen))
    return [(step["action"], observation) for step, observation in zip(record["steps"], seen, strict=False)]


def _longest_run(values: list) -> int:
    longest = run = 0
    for place, value in enumerate(values):
        run = run + 1 if place and value == values[place - 1] else 1
        longest = max(longest, run)
    return longest


def _most_stretches(values: list) -> int:
    starts = Counter(value for place, value in enumerate(values) if not place or value != values[place - 1])
    return max(starts.values(), default=0)


def _calls_again(steps: list[dict]) -> bool:
    """True when a call comes back as text, or as the environment says: names for one thing can differ."""
    calls = ["".join(step["action"].split()) for step in steps if step["action"] is not None]
    return len(set(calls)) < len(calls) or any(step.get("error") == "function_repetition" for step in steps)
