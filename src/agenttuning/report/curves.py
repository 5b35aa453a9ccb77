"""Loss curves as coordinates for the page: of a run and its sources, or of several runs in one frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WIDTH, HEIGHT = 640, 200  # of the chart's own coordinates
MOST_LINES = 3  # beside the main one, that can still be told apart without colour: each has a dash of its own
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

Line = list[tuple[int, float]]  # (step, loss)


def curve(log: Any, others: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The loss of a run's log in coordinates of WIDTH x HEIGHT, with ticks; None when there is nothing to draw.

    Beside it, with a last loss each, a line for every source where the log tells them apart, or, where `others` are
    given, one for each of these logs (of other runs). No more than MOST_LINES; `left_out` counts the rest.
    """
    points = _points(log)
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    beside = {name: _points(one) for name, one in others.items()} if others is not None else _by_source(log)
    beside = {name: line for name, line in beside.items() if line}
    shown = dict(list(beside.items())[:MOST_LINES])
    lines = [points, *shown.values()]
    first, last = min(line[0][0] for line in lines), max(line[-1][0] for line in lines)
    top = max(loss for line in lines for _, loss in line) or 1.0
    tick = next((tick for tick in TICKS if top / tick <= 5), top / 4)
    ceiling = tick * (int(top / tick) + 1)

    def placed(line: Line) -> str:
        at = [(WIDTH * (step - first) / (last - first), HEIGHT * (1 - max(0.0, loss) / ceiling)) for step, loss in line]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in at)

    return {
        "points": placed(points),
        "sources": [{"name": name, "points": placed(line), "last": line[-1][1]} for name, line in shown.items()],
        "left_out": len(beside) - len(shown),
        "ticks": [
            {"at": 100 * (1 - number * tick / ceiling), "label": f"{number * tick:g}"}
            for number in range(int(ceiling / tick + 1e-9) + 1)
        ],
        "first_step": first,
        "last_step": last,
        "first_loss": points[0][1],
        "last_loss": points[-1][1],
    }


def _entries(log: Any) -> list[dict]:
    return [
        entry
        for entry in (log if isinstance(log, list) else [])
        if isinstance(entry, dict) and _number(entry.get("step")) and _number(entry.get("loss"))
    ]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _points(log: Any) -> Line:
    return [(entry["step"], entry["loss"]) for entry in _entries(log)]


def _by_source(log: Any) -> dict[str, Line]:
    """(step, loss) by source; none where the run has a single source, whose curve it is."""
    found: dict[str, Line] = {}
    for entry in _entries(log):
        losses = entry.get("loss_by_source")
        for name, loss in (losses if isinstance(losses, dict) else {}).items():
            if _number(loss):
                found.setdefault(name, []).append((entry["step"], loss))
    return found if len(found) > 1 else {}
