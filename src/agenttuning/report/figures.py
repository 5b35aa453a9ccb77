"""The numbers of a report, once, for the table, the page and the summary. Scores are x 100, as in scores.json."""

from __future__ import annotations

from dataclasses import dataclass

from agenttuning.scoring import intervals
from agenttuning.scoring.compare import paired
from agenttuning.scoring.errors import KINDS
from agenttuning.scoring.published import GROUPS
from agenttuning.scoring.scores import metric_words

SIDES = ("base", "tuned")


@dataclass(frozen=True)
class Value:
    """A score or a difference with its 95 % interval; `n` items (None for a mean over tasks)."""

    score: float
    low: float
    high: float
    n: int | None = None


@dataclass(frozen=True)
class Row:
    """One task, or the mean of a group. A side is a Value, a text (why there is none), or None: not measured."""

    name: str
    group: str
    metric: str
    base: Value | str | None
    tuned: Value | str | None
    difference: Value | None
    mean: bool = False


def rows(found: dict[str, dict]) -> list[Row]:
    """Tasks by group, each group closed by its mean where it has more than one task."""
    names = list(dict.fromkeys(task for side in SIDES for task in found.get(side, {}).get("tasks", {})))
    tasks = [_task_row(found, name) for name in names]
    result: list[Row] = []
    for group, title in GROUPS.items():
        members = [row for row in tasks if row.group == group]
        result += members
        if len(members) > 1:
            result.append(_mean_row(found, group, title, members))
    return result


def _task_row(found: dict[str, dict], name: str) -> Row:
    entries = [found.get(side, {}).get("tasks", {}).get(name) for side in SIDES]
    known = next(entry for entry in entries if entry)
    base, tuned = map(_value, entries)
    found = paired(*entries)
    return Row(name, known["group"], metric_words(known["metric"]), base, tuned, Value(*found) if found else None)


def _value(entry: dict | None) -> Value | str | None:
    if entry is None:
        return None
    if entry["void"]:
        return f"void: {entry['void']}"
    return Value(entry["score"], *entry["interval"], entry["n"])


def _mean_row(found: dict[str, dict], group: str, title: str, members: list[Row]) -> Row:
    sides: dict[str, Value | None] = {}
    for side in SIDES:
        average = found.get(side, {}).get("groups", {}).get(group) or {"tasks": [], "score": None}
        # a mean over other tasks than the rows above would not be theirs
        whole = average["score"] is not None and len(average["tasks"]) == len(members)
        sides[side] = Value(average["score"], *average["interval"]) if whole else None
    parts = [row.difference for row in members]
    difference = None
    if all(parts):
        mean = sum(part.score for part in parts) / len(parts)
        ends = intervals.mean_of([part.score for part in parts], [(part.low, part.high) for part in parts])
        difference = Value(mean, *ends)
    return Row(f"{title} mean", group, f"of {len(members)} tasks", sides["base"], sides["tuned"], difference, mean=True)


def error_kinds(found: dict[str, dict], task: str | None = None) -> dict[str, dict[str, float | None]]:
    """Share in [0, 1] of agent episodes with an error, by kind and side: of one task, or of all tasks together."""
    table: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        for side in SIDES:
            entries = [
                (entry["n"], entry["errors"][kind])
                for name, entry in found.get(side, {}).get("tasks", {}).items()
                if entry.get("errors") and task in (None, name)
            ]
            total = sum(n for n, _ in entries)
            share = sum(n * rate for n, rate in entries) / total if total else None
            table.setdefault(kind, {})[side] = share
    return table


def agent_tasks(found: dict[str, dict]) -> list[str]:
    """Names of the tasks whose episodes were searched for errors."""
    entries = [item for side in SIDES for item in found.get(side, {}).get("tasks", {}).items()]
    return list(dict.fromkeys(name for name, entry in entries if entry.get("errors")))
