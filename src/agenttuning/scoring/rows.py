"""A verdict for each task of the paper and each side. What is set beside a published score is one result: one protocol,
one backend, all items. Whatever else was scored for the task stands behind it and is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from agenttuning.scoring import intervals, power
from agenttuning.scoring.comparison import Row
from agenttuning.scoring.published import Cell, Published, decimals
from agenttuning.scoring.results import GENERAL, HELD_IN, Result

# The first protocol that gave a score gives the verdict. paper-code is the paper's, too: what its code most likely did.
PROTOCOLS = {HELD_IN: ("paper-text", "paper-code"), GENERAL: ("paper",)}
# lm-eval: "we treat Huggingface as the reference implementation" (its README); held-in results have one backend a task.
BACKENDS = ("transformers", "vllm", "server")

NO_SPREAD = "the paper gives no spread for this mean: ours is taken for both"
UNKNOWN_SAMPLES = "the published cells are no multiples of 1/164, so several samples of unknown number were drawn: " + (
    "our spread is taken for both"
)


def columns(size: str) -> dict[str, str]:
    """The model of the published table that each side is set beside."""
    return {"base": f"llama-2-{size}-chat", "tuned": f"agentlm-{size}", "released": f"agentlm-{size}"}


def of_side(paper: Published, size: str, side: str, results: list[Result], not_run: Callable[[str], str]) -> list[Row]:
    """Rows of one side, tasks in the paper's order: the verdict's row, then the task's other results.

    not_run(task): the command with hours and cost, or why there is none.
    """
    rows = []
    for task in paper.tasks:
        mine = [one for one in results if (one.side, one.task) == (side, task)]
        best = _chosen(task, mine)
        others = [one for one in mine if one is not best]
        cell = paper.cell(task, columns(size)[side])
        known = _known(paper, side, cell)
        if best is None:
            rows.append(Row(**known, verdict="not run", why=not_run(task)))
        else:
            rows.append(_judged(paper, size, side, cell, best))
        rows += [_beside(known, one, _why_beside(one, best)) for one in others]
    return rows


def _chosen(task: str, results: list[Result]) -> Result | None:
    """The result that the verdict is about: one by the paper's protocol under the benchmark's name, if there is one
    with a score to set beside the paper's, in the first of several backends.
    """
    fit = [one for one in results if _other_rules(task, one) is None]
    return min(fit, key=_rank, default=None)


def _rank(one: Result) -> tuple[bool, int, int]:
    known = BACKENDS.index(one.backend) if one.backend in BACKENDS else len(BACKENDS)
    unfit = one.void or one.entry.get("not_comparable")
    return bool(unfit), PROTOCOLS[one.kind].index(one.rules), known


def _other_rules(task: str, one: Result) -> str | None:
    """Why a result is none by the paper's protocol under this task's name; None where it is one."""
    if one.rules not in PROTOCOLS.get(one.kind, ()):
        return f"protocol {one.protocol} is not the paper's"
    return None if one.name == task else f"reported as {one.name}"


def _why_beside(one: Result, best: Result | None) -> str:
    reasons = [f"void: {one.void}"] if one.void else []
    if other := one.entry.get("not_comparable") or _other_rules(one.task, one):
        reasons.append(other)
    elif best and one.protocol != best.protocol:
        reasons.append(f"the verdict is given for {best.protocol}")
    elif best and not one.void:
        reasons.append(f"the verdict is given for backend {best.backend}")
    return "; ".join(reasons)


def _known(paper: Published, side: str, cell: Cell) -> dict:
    return {
        "task": cell.task,
        "title": paper.tasks[cell.task]["title"],
        "group": paper.tasks[cell.task]["group"],
        "metric": cell.metric,
        "side": side,
        "published_model": cell.model,
        "published": cell.value,
        "published_n": cell.n,
        "published_interval": paper.interval(cell.task, cell.model),
        "verified": cell.verified,
    }


def _ours(one: Result) -> dict:
    entry = one.entry
    interval = entry.get("interval")
    return {
        "ours": None if one.void else entry["score"],
        "interval": tuple(interval) if interval and not one.void else None,
        "n": entry["n"],
        "protocol": one.protocol,
        "backend": one.backend,
        "model": one.model,
        "scores": one.path,
    }


def _beside(known: dict, one: Result, why: str) -> Row:
    return Row(**known, **_ours(one), verdict="not comparable", why=why, beside=True)


def _judged(paper: Published, size: str, side: str, cell: Cell, one: Result) -> Row:
    known, ours = _known(paper, side, cell), _ours(one)
    if why := _no_score(cell, one):
        return Row(**known, **ours, verdict="not comparable", why=why)
    score, interval = ours["ours"], ours["interval"]
    theirs = known["published_interval"]
    if theirs:
        detectable = power.detectable_proportion(cell.value / 100, cell.n, one.entry["n"])
        detectable = None if detectable is None else 100 * detectable
    else:
        theirs = _same_spread(cell, score, interval, one.entry["n"])
        detectable = power.detectable_mean(interval, cell.n, one.entry["n"])
    difference = intervals.difference(cell.value, theirs, score, interval)
    verdict = "consistent" if difference[0] <= 0 <= difference[1] else "differs"
    notes = _notes(known["published_interval"], cell, one)
    if verdict == "consistent":
        notes += _too_small(paper, size, side, cell, detectable)
    return Row(
        **known, **ours, verdict=verdict, why="; ".join(notes), difference=score - cell.value,
        difference_interval=difference, detectable=detectable,
    )  # fmt: skip


def _same_spread(cell: Cell, score: float, interval: intervals.Interval, n: int) -> intervals.Interval:
    """The interval that the published mean would have with our spread. That is what it has if nothing differs, which
    is what the verdict tests.
    """
    scale = math.sqrt(n / cell.n)
    return cell.value - scale * (score - interval[0]), cell.value + scale * (interval[1] - score)


def _no_score(cell: Cell, one: Result) -> str | None:
    """Why what was played by the paper's rules is still nothing to set beside the published score."""
    if one.void:
        return f"void: {one.void}"
    if reason := one.entry.get("not_comparable"):
        return reason
    played = one.entry["n"] + one.entry.get("lost", 0)
    if played != cell.n:
        return f"{played} items, and the published score is over {cell.n}"
    return None if one.entry.get("interval") else "its file holds no interval"


def _notes(theirs: intervals.Interval | None, cell: Cell, one: Result) -> list[str]:
    notes = []
    if lost := one.entry.get("lost"):
        notes.append(f"{lost} of {lost + one.entry['n']} items lost to infrastructure, not in n")
    if one.rules != PROTOCOLS[one.kind][0]:
        notes.append(f"by {one.protocol}: there is no score by {PROTOCOLS[one.kind][0]}")
    if theirs is None:
        notes.append(UNKNOWN_SAMPLES if cell.task == "humaneval" else NO_SPREAD)
    if not cell.n_verified:
        notes.append("that the published score is over so many items is not verified")
    judge = one.entry.get("judge") or {}
    if judge.get("model"):
        notes.append(f"judged by {judge['model']}")
    if judge.get("remark"):
        notes.append(judge["remark"].replace("; ", ", "))  # one note
    return notes


def _too_small(paper: Published, size: str, side: str, cell: Cell, detectable: float | None) -> list[str]:
    other = columns(size)["tuned" if side == "base" else "base"]
    gap = abs(cell.value - paper.scores[cell.task][other])
    if gap == 0 or (detectable is not None and detectable <= gap):
        return []
    digits = decimals(cell.task)
    return [f"n is too small to tell it reliably from {other}'s {paper.scores[cell.task][other]:.{digits}f}"]
