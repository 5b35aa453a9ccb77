"""The sentences at the head of the paper-size report: what is consistent with the published scores, what differs, what
was not run; each with n and intervals, so that none says more than its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from agenttuning.scoring.comparison import VERDICTS, Comparison, Overall, Row
from agenttuning.scoring.published import GROUPS, decimals

ORDER = ("released", "tuned", "base")  # the released weights first: a miss there is the harness's
RATED = "mt_bench"  # from 1 to 10, where all others are of 100


def names(size: str) -> dict[str, str]:
    """What a side is called, for "7b", "13b" or "70b"."""
    return {
        "base": f"Llama-2-{size}-chat, the base",
        "tuned": f"AgentLM-{size.upper()} of this run",
        "released": f"the authors' released AgentLM-{size.upper()}",
    }


def number(task: str, value: float, sign: str = "") -> str:
    """A score as the paper's table prints it."""
    return f"{value:{sign}z.{decimals(task)}f}".replace("-", "\u2212")


def span(task: str, interval: tuple[float, float] | None, sign: str = "") -> str:
    """An interval, or that there is none."""
    return f"{number(task, interval[0], sign)} to {number(task, interval[1], sign)}" if interval else "no interval"


def overall_span(one: Overall) -> str:
    """The interval of an overall score."""
    return f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else "no interval"


def sentences(made: Comparison) -> list[dict]:
    """{"side", "who", "lines": [(verdict or "overall", sentence), ...]} for each side, the released weights first."""
    called = names(made.size)
    sides = []
    for side in ORDER:
        rows = [row for row in judged(made) if row.side == side]
        if rows:
            lines = [*_overalls(made, side), *_verdicts(rows, side)]
            sides.append({"side": side, "who": called[side][0].upper() + called[side][1:], "lines": lines})
    return sides


def judged(made: Comparison) -> list[Row]:
    """One row a task and side, that with the verdict; further results of a task (`beside`) are not counted."""
    return [row for row in made.rows if not row.beside]


def _overalls(made: Comparison, side: str) -> list[tuple[str, str]]:
    ran = [one for one in made.overalls if one.side == side and one.ours is not None]
    return [("overall", f"Overall score, {GROUPS.get(one.group, one.group)}: {overall(one)}.") for one in ran]


def _verdicts(rows: list[Row], side: str) -> list[tuple[str, str]]:
    by = {verdict: [row for row in rows if row.verdict == verdict] for verdict in VERDICTS}
    same, other, odd, left = (by[verdict] for verdict in VERDICTS)
    of, lines = f"of {len(rows)} tasks", []
    if len(left) == len(rows):
        return [("not run", f"None of its {len(rows)} tasks was run.{_so_what(side)}")]
    if same:
        told = f"{len(same)} {of} {'is' if len(same) == 1 else 'are'} consistent with the published scores"
        lines.append((VERDICTS[0], f"{told}: {_titles(same)}. {_blind(same)}"))
    if other:
        told = "; ".join(f"{row.title} {_with_n(row)}, published {_published(row)}" for row in other)
        lines.append((VERDICTS[1], f"{len(other)} {of} differ{'s' * (len(other) == 1)}: {told}."))
    if odd:
        told = "may not be set beside the published scores, and the table says why"
        lines.append((VERDICTS[2], f"{len(odd)} {of} {told}: {_titles(odd)}."))
    if left:
        lines.append((VERDICTS[3], f"{len(left)} {of} not run: {_titles(left)}."))
    return lines


def overall(one: Overall) -> str:
    """Ours beside the published overall, which it can be compared with only over the same tasks."""
    text = f"{one.ours:.2f} ({overall_span(one)}) over {len(one.tasks)} of {one.of} tasks"
    if len(one.tasks) == one.of:
        return f"{text}; published {one.published:.2f}"
    same = "" if one.published_same is None else f"; published over the same {len(one.tasks)}: {one.published_same:.2f}"
    return f"{text}, not the paper's quantity{same}"


def _so_what(side: str) -> str:
    return " Until they are, a difference can as well be this harness's." if side == "released" else ""


def _titles(rows: Iterable[Row]) -> str:
    return ", ".join(row.title for row in rows)


def _with_n(row: Row) -> str:
    return f"{number(row.task, row.ours)} ({span(row.task, row.interval)}, n = {row.n:,})"


def _published(row: Row) -> str:
    return f"{number(row.task, row.published)} ({span(row.task, row.published_interval)}, n = {row.published_n:,})"


def _blind(rows: list[Row]) -> str:
    """What `consistent` does not say: how large a difference it could have missed; ratings of 10 apart."""
    known = sorted((row for row in rows if row.detectable is not None), key=lambda row: row.detectable)
    told = [f"{number(one.task, one.detectable)} ({one.title}, n = {one.n:,})" for one in known if one.task != RATED]
    rated = [
        f"{number(one.task, one.detectable)} of 10 ({one.title}, n = {one.n:,})" for one in known if one.task == RATED
    ]
    parts = [" to ".join(dict.fromkeys((told[0], told[-1])))] if told else []
    if not (parts := [*parts, *rated]):
        return "How large a difference that could have missed is not known."
    return f"That could have missed a true difference of less than {' and '.join(parts)}."
