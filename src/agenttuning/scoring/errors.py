"""The error kinds of the paper's error-analysis figure, found by rules in stored trajectories.

The figure gives the share of trajectories that contain an error, by "rule-based detection" whose rules are not printed;
these are ours. A trajectory can have several kinds, and can be won in spite of them.

    invalid_action         an action that the environment refused
    short_term_repetition  the same reply in three turns in a row
    long_term_repetition   the same action met by the same observation in three stretches of the trajectory, apart
    refusal                a reply without an action that declines the task
    format                 any other reply without an action
    task_limit             the turns were used up

The first four are bars of the figure; its KG bars (function call error, function repetition) need that task's tools.
"""

from __future__ import annotations

from collections import Counter

from agenttuning.episodes import status

SHORT = 3  # replies in a row: the number at which the paper ends an episode
LONG = 3  # stretches; not stated; we chose the same number

KINDS = ("invalid_action", "short_term_repetition", "long_term_repetition", "refusal", "format", "task_limit")


def rates(records: list[dict]) -> dict[str, float]:
    """Share in [0, 1] of trajectories with each kind of KINDS. Raises ValueError for no records."""
    if not records:
        raise ValueError("no trajectories")
    counts = Counter(kind for record in records for kind in kinds(record))
    return {kind: counts[kind] / len(records) for kind in KINDS}


def kinds(record: dict) -> set[str]:
    """The error kinds of one episode record."""
    replies = [m["content"] for m in record["messages"] if m["role"] == "assistant" and m["loss"]]
    found = {
        "invalid_action": any(step["action"] is not None and not step["valid"] for step in record["steps"]),
        "short_term_repetition": _longest_run(replies) >= SHORT,
        "long_term_repetition": _most_stretches(_pairs(record)) >= LONG,
        "refusal": record["status"] == status.REFUSAL,
        "format": record["status"] == status.INVALID_FORMAT,
        "task_limit": record["status"] == status.TASK_LIMIT,
    }
    return {kind for kind, present in found.items() if present}


def _pairs(record: dict) -> list[tuple[str | None, str | None]]:
    """(action, observation that it led to) for each step."""
    start = next((i for i, m in enumerate(record["messages"]) if m["role"] == "assistant" and m["loss"]), None)
    if start is None:
        return []
    seen = [message["content"] for message in record["messages"][start:] if message["role"] == "user"]
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
