"""The results of a run as one plain-text table: before, after, difference, and what went wrong."""

from __future__ import annotations

from agenttuning.chat.show import escape
from agenttuning.report import figures
from agenttuning.report.figures import Row, Value
from agenttuning.scoring.compare import table


def text(name: str, found: dict[str, dict]) -> str:
    """The whole table. Scores x 100 with 95 % intervals; the difference is over the items both were scored on."""
    known = next(iter(found.values()))
    suite = known.get("notes", {}).get("suite", known["protocol"])
    lines = [f"{name}, judged by {suite}; scores x 100, 95 % intervals", ""]
    head = ["task", "metric", "base", "n", "tuned", "n", "tuned - base, same items"]
    lines += table([head, *map(_cells, figures.rows(found))])
    tasks = figures.agent_tasks(found)
    if tasks:
        lines += ["", "share of agent episodes with an error, base -> tuned", ""]
        lines += table([["error", "all tasks", *map(escape, tasks)], *_error_rows(found, tasks)])
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    difference = f"{row.difference.score:+.1f} {_range(row.difference, '+')}" if row.difference else ""
    return [escape(row.name), row.metric, *_side(row.base), *_side(row.tuned), difference]


def _side(value: Value | str | None) -> list[str]:
    if not isinstance(value, Value):
        return [value or "not measured", ""]
    return [f"{value.score:5.1f} {_range(value)}", "" if value.n is None else str(value.n)]


def _range(value: Value, sign: str = "") -> str:
    return f"[{value.low:{sign}.1f}, {value.high:{sign}.1f}]"


def _error_rows(found: dict[str, dict], tasks: list[str]) -> list[list[str]]:
    columns = [figures.error_kinds(found), *(figures.error_kinds(found, task) for task in tasks)]
    return [
        [kind.replace("_", " "), *(" -> ".join(map(_share, column[kind].values())) for column in columns)]
        for kind in columns[0]
    ]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"
