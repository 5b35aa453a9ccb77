"""Two of our own results over the same items by one protocol: sides in the same backend, and backends of a side."""

from __future__ import annotations

from itertools import combinations

from agenttuning.scoring import intervals, significance
from agenttuning.scoring.comparison import Pair
from agenttuning.scoring.results import Result, counted, paired, unit

SIDES = (("base", "tuned"), ("base", "released"), ("released", "tuned"))  # first, second


def make(results: list[Result]) -> list[Pair]:
    """All pairs, sides first. Void results have none, nor have results over other items, prompts or judges."""
    good = [one for one in results if not one.void and counted(one.entry)]
    found = []
    for first_side, second_side in SIDES:
        for second in (one for one in good if one.side == second_side):
            for first in (one for one in good if one.side == first_side):
                if _place(first) == _place(second) and first.backend == second.backend:
                    several = len({one.backend for one in good if _place(one) == _place(second)}) > 1
                    what = f"{second_side} - {first_side}{f', {second.backend}' * several}"
                    found.append(_pair(what, first_side, second_side, first, second))
    for first, second in combinations(good, 2):
        if first.side == second.side and _place(first) == _place(second) and first.backend != second.backend:
            what = f"{first.side}: {second.backend} - {first.backend}"
            found.append(_pair(what, f"{first.side} {first.backend}", f"{second.side} {second.backend}", first, second))
    return [pair for pair in found if pair]


def _place(one: Result) -> tuple[str, str, str]:
    return one.kind, one.name, one.protocol


def _pair(what: str, name: str, other: str, first: Result, second: Result) -> Pair | None:
    if (found := paired(first.entry, second.entry)) is None:
        return None
    low, high = intervals.paired_difference(*found)
    scale, (one, two) = unit(first.entry), found
    difference = (sum(two) - sum(one)) / len(one)
    return Pair(
        what, first.name, first.protocol, name, other, len(one), scale * difference, (scale * low, scale * high),
        significance.paired_p(one, two),
    )  # fmt: skip
