"""The bar chart beside the paper's: for each task the published scores and ours, with whiskers, on one axis a task."""

from __future__ import annotations

from dataclasses import dataclass

from agenttuning.report.headlines import judged, number
from agenttuning.report.headlines import span as words
from agenttuning.scoring.comparison import Comparison, Row
from agenttuning.scoring.published import GROUPS

ENDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # of an axis
FULL = 100.0


@dataclass(frozen=True)
class Bar:
    """One bar. `at`, `low`, `high` are percent of the axis; None: nothing to draw, and `text` says why.

    kind: paper, base, tuned or released. state: measured, "not comparable" or "not run".
    """

    who: str
    kind: str
    state: str
    at: float | None
    low: float | None
    high: float | None
    text: str
    small: str


@dataclass(frozen=True)
class Task:
    """The bars of one task; the axis ends at `end`, in the task's unit."""

    title: str
    end: float
    bars: list[Bar]


def chart(made: Comparison) -> list[tuple[str, list[Task]]]:
    """Tasks by group, in the order of the comparison."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in judged(made):
        groups.setdefault(row.group, {}).setdefault(row.task, []).append(row)
    return [(GROUPS.get(group, group), [_task(rows) for rows in tasks.values()]) for group, tasks in groups.items()]


def _task(rows: list[Row]) -> Task:
    spans = [span for row in rows for span in (row.interval, row.published_interval) if span]
    scores = [score for row in rows for score in (row.published, row.ours) if score is not None]
    top = max([*scores, *(end for one in spans for end in one)])
    end = float(next((tick for tick in ENDS if tick >= top), top))
    end = FULL if 20 < end < FULL else end  # shares of 100 share an axis, but for those too small to be seen on it
    by_side = {row.side: row for row in rows}
    bars: list[Bar] = []
    for side in ("base", "tuned", "released"):
        if (row := by_side.get(side)) is None or (side == "released" and row.verdict == "not run"):
            continue
        if side != "released":  # its published score is that of `tuned`
            whose = "Llama-2" if side == "base" else "AgentLM"
            bars.append(_bar(f"{whose}, paper", "paper", "measured", row, row.published, row.published_interval, end))
        state = row.verdict if row.verdict in ("not run", "not comparable") else "measured"
        bars.append(_bar(f"{side}, ours", side, state, row, row.ours, row.interval, end))
    return Task(rows[0].title, end, bars)


def _bar(who: str, kind: str, state: str, row: Row, value: float | None, interval, end: float) -> Bar:
    if value is None:
        return Bar(who, kind, state, None, None, None, "not run" if state == "not run" else "no score", "")
    low, high = (_percent(one, end) for one in interval) if interval else (None, None)
    text = f"{number(row.task, value)}{' *' * (state == 'not comparable')}"
    return Bar(who, kind, state, _percent(value, end), low, high, text, words(row.task, interval) if interval else "")


def _percent(value: float, end: float) -> float:
    return max(0.0, min(100.0, 100 * value / end))
