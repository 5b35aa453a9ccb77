"""What cannot be said of a row alone: conversations that are there twice, and those that hold test examples.

The sources are walked in the order of their names, and of equal conversations the first one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy

from agenttuning.data import duplicates
from agenttuning.data.contamination import KINDS, judge

if TYPE_CHECKING:
    from agenttuning.data.contamination import Check
    from agenttuning.data.pool import Pool, Read

Refusals = dict[str, dict[int, dict]]  # {source: {number of the raw row: its reason, and what else is to be told}}


def of_duplicates(
    sources: Mapping[str, Read], pools: Mapping[str, Pool], rule: str, threshold: float
) -> tuple[Refusals, list[dict]]:
    """The duplicates among the conversations that could be drawn, and their counts by source and source of the one
    kept. rule: `exact`, or `near` for MinHash similarity of `threshold` or more too.
    """
    places = [(name, number) for name in sorted(pools) for number in pools[name].numbers]
    columns = {name: sources[name].records for name in sorted(pools)}
    digests = [one for name in columns for one in _taken(columns[name]["digest"], pools[name].numbers)]
    ids = [one for name in columns for one in _taken(columns[name]["id"], pools[name].numbers)]
    signatures = None
    if rule == "near":
        sketches = [one for name in columns for one in _taken(columns[name]["signature"], pools[name].numbers)]
        width = duplicates.VIEWS * duplicates.NUM_PERM
        signatures = numpy.frombuffer(b"".join(sketches), dtype=numpy.uint32).reshape(-1, width)
    found = duplicates.find(digests, signatures, threshold)
    refused: Refusals = {name: {} for name in pools}
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for (name, number), digest, kept in zip(places, digests, found, strict=True):
        if kept is not None:
            kind, of = "exact" if digest == digests[kept] else "near", places[kept][0]
            refused[name][number] = {"reason": f"{kind} duplicate", "of": [of, ids[kept]]}
            counts.setdefault((name, of), {"exact": 0, "near": 0})[kind] += 1
    return refused, [{"source": source, "of": of, **count} for (source, of), count in sorted(counts.items())]


def of_contaminated(
    sources: Mapping[str, Read], pools: Mapping[str, Pool], check: Check, drop: bool
) -> tuple[Refusals, dict[str, dict]]:
    """The conversations that hold a part of a dirty example (none unless `drop`), and for each suite how many of its
    examples are of which kind before anything is dropped.
    """
    places = [(name, number) for name in sorted(pools) for number in pools[name].numbers]
    flat = [one for name in sorted(pools) for one in _taken(sources[name].records["spans"], pools[name].numbers)]
    verdict = judge(check, [list(zip(one[::2], one[1::2], strict=True)) for one in flat])
    refused: Refusals = {name: {} for name in pools}
    for (name, number), examples in zip(places, verdict.rows, strict=True):
        if examples and drop:
            held = [f"{check.examples[one].suite} {check.examples[one].id}" for one in examples]
            refused[name][number] = {"reason": "part of a dirty example", "examples": held}
    counts: dict[str, dict] = {}
    for example, kind in zip(check.examples, verdict.kinds, strict=True):
        counts.setdefault(example.suite, {"examples": 0, **dict.fromkeys(KINDS, 0)})
        counts[example.suite]["examples"] += 1
        counts[example.suite][kind] += 1
    return refused, counts


def _taken(column, numbers: list[int]) -> list:
    return column.take(numpy.asarray(numbers, dtype=numpy.int64)).to_pylist()
