"""What the runs of an ablation left: scores by group, differences from the main mixture, and the published row.

A run of the paper's sizes is read from its comparison (`compare` made it): the overall scores, over the tasks that ran.
The twin's is read from its scores: means x 100. Nothing is scored here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.ablation.variants import MIXED, Variant, agent_sources
from agenttuning.recipe import Recipe
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring import comparison, intervals, published, scores
from agenttuning.scoring.results import counted, paired, unit

SCHEMA = "agenttuning-ablation/1"
BASE = "nothing (base)"
REFERENCE = {"mixture": MIXED, "filtering": "filtered"}  # what the other rows are compared with
Number = dict  # {"score": 96.1, "interval": [95.0, 97.2] or None, "tasks": [...], "of": 3}


@dataclass(frozen=True)
class Scored:
    """One run's scores. groups: {group: {score, interval, tasks, of}}; entries: {group: {task: its entry in
    scores.json, with `divisor`}}, for the tasks that the group's score is made of.
    """

    groups: dict[str, Number] = field(default_factory=dict)
    entries: dict[str, dict[str, dict]] = field(default_factory=dict)


def of_suite(folder: Path) -> Scored:
    """The twin's: eval/tuned or eval/base of a run. Nothing where it was not judged."""
    if not (folder / scores.FILE).is_file():
        return Scored()
    found = scores.read(folder / scores.FILE)
    groups, entries = {}, {}
    for name in published.GROUPS:
        group = found["groups"].get(name)
        if group and group["score"] is not None:
            groups[name] = {"score": group["score"], "interval": group["interval"], "tasks": group["tasks"]}
            groups[name]["of"] = len(group["tasks"])
            entries[name] = {task: {**found["tasks"][task], "divisor": 1.0} for task in group["tasks"]}
    return Scored(groups, entries)


def of_paper(run_dir: Path, side: str = "tuned") -> Scored:
    """A run of the paper's sizes: its overall scores, and behind them each task's rewards by item."""
    made = comparison.read(run_dir)
    if made is None:
        return Scored()
    divisors = published.load().divisors
    counted = [row for row in made.rows if row.side == side and row.verdict in ("consistent", "differs")]
    files = {row.task: row.scores for row in counted if row.scores}
    groups, entries = {}, {}
    for one in made.overalls:
        if one.side != side or one.ours is None:
            continue
        interval = list(one.interval) if one.interval else None
        groups[one.group] = {"score": one.ours, "interval": interval, "tasks": list(one.tasks), "of": one.of}
        entries[one.group] = {}
        for task in one.tasks:
            content = scores.read(run_dir / files[task])["tasks"] if task in files else {}
            if task in content:
                entries[one.group][task] = {**content[task], "divisor": divisors[task]}
    return Scored(groups, entries)


def difference(one: Scored, other: Scored, group: str) -> Number | None:
    """one - other in a group's score, over the tasks that both have, with a 95 % interval; None where there is none.

    Task by task over the same items where that gives the difference of the two scores (a mean of rewards), else from
    the two intervals by square-and-add; the tasks are put together as intervals.mean_of does.
    """
    here, there = one.entries.get(group, {}), other.entries.get(group, {})
    tasks = [task for task in here if task in there]
    parts = [(_paired(here[task], there[task]) or _apart(here[task], there[task])) for task in tasks]
    if not parts or None in parts:
        return None
    scale = [1 / here[task]["divisor"] for task in tasks]
    values = [part[0] * by for part, by in zip(parts, scale, strict=True)]
    ends = [(part[1] * by, part[2] * by) for part, by in zip(parts, scale, strict=True)]
    low, high = intervals.mean_of(values, ends)
    return {
        "difference": sum(values) / len(values),
        "interval": [low, high],
        "tasks": tasks,
        "paired": [task for task in tasks if _paired(here[task], there[task])],
    }


def _paired(one: dict, other: dict) -> tuple[float, float, float] | None:
    found = paired(other, one)
    if found is None or {len(counted(one)), len(counted(other))} != {len(found[0])}:
        return None  # not over all items of both
    (theirs, ours), scale = found, unit(one)
    value = scale * (sum(ours) - sum(theirs)) / len(ours)
    if not math.isclose(value, one["score"] - other["score"], abs_tol=1e-6):
        return None  # the metric is no mean of rewards (dbbench weighs categories alike): this would be another number
    low, high = intervals.paired_difference(theirs, ours)
    return value, scale * low, scale * high


def _apart(one: dict, other: dict) -> tuple[float, float, float] | None:
    if one.get("interval") is None or other.get("interval") is None:
        return None
    (low, high), (below, above) = one["interval"], other["interval"]
    a, b = one["score"], other["score"]
    return a - b, a - b - math.hypot(a - low, above - b), a - b + math.hypot(high - a, b - below)


def rows(runs: list[tuple[Variant, Scored]], kind: str, main: Recipe, base: Scored) -> list[dict]:
    """What results/ablation-KIND.json holds: the base where it was scored, then a row a name, over its seeds."""
    by_name: dict[str, list[tuple[Variant, Scored]]] = {}
    for variant, scored in runs:
        by_name.setdefault(variant.name, []).append((variant, scored))
    reference = {variant.seed: scored for variant, scored in by_name.get(REFERENCE.get(kind, ""), [])}
    made = [_base_row(main, base)] if base.groups else []
    for name, members in by_name.items():
        pairs = [(scored, reference[variant.seed]) for variant, scored in members if variant.seed in reference]
        made.append(_row(name, members, [] if name == REFERENCE.get(kind) else pairs, kind, main))
    return made


def _row(
    name: str, members: list[tuple[Variant, Scored]], pairs: list[tuple[Scored, Scored]], kind: str, main: Recipe
) -> dict:
    first, found = members[0][0], [scored for _, scored in members]
    return {
        "name": name,
        "recipe": main.name,
        "eta": first.eta,
        "realised_eta": _mean_of([realised_eta(variant.recipe) for variant, _ in members]),
        "sources": {source: one.share for source, one in first.recipe.mixture.sources.items()},
        "seeds": [variant.seed for variant, _ in members],
        "run_dirs": [str(variant.recipe.run_dir) for variant, _ in members],
        "lacks": first.lacks,
        "groups": {group: one for group in published.GROUPS if (one := over_seeds(found, group))},
        "differences": {group: one for group in published.GROUPS if (one := _differences(pairs, group))},
        "published": published_row(main, kind, name, first.eta),
    }


def _base_row(main: Recipe, base: Scored) -> dict:
    told, size = {}, size_of(main)
    if size:
        overalls = published.load().overalls
        told = {g: {"value": overalls[g][f"llama-2-{size}-chat"], "verified": True} for g in published.GROUPS}
    row = {"name": BASE, "recipe": main.name, "eta": None, "realised_eta": None, "sources": {}, "seeds": []}
    row |= {"run_dirs": [str(main.run_dir)], "lacks": "", "groups": base.groups, "differences": {}}
    return row | {"published": told}


def over_seeds(scored: list[Scored], group: str) -> Number | None:
    """A group's score: of one seed with its own interval, of several their mean with a t interval over them. Only over
    seeds that were scored on the same tasks.
    """
    found = [one.groups[group] for one in scored if group in one.groups]
    if not found or len(found) < len(scored) or any(one["tasks"] != found[0]["tasks"] for one in found):
        return None
    if len(found) == 1:
        return dict(found[0])
    values = [one["score"] for one in found]
    mean = {"score": sum(values) / len(values), "interval": list(intervals.over_seeds(values)), "by_seed": values}
    return {**mean, "tasks": found[0]["tasks"], "of": found[0]["of"]}


def _differences(pairs: list[tuple[Scored, Scored]], group: str) -> Number | None:
    found = [difference(one, other, group) for one, other in pairs]
    if not found or None in found or any(one["tasks"] != found[0]["tasks"] for one in found):
        return None
    if len(found) == 1:
        return found[0]
    values = [one["difference"] for one in found]
    return {"difference": sum(values) / len(values), "interval": list(intervals.over_seeds(values)),
            "tasks": found[0]["tasks"], "by_seed": values}  # fmt: skip


def realised_eta(recipe: Recipe) -> float | None:
    """The share of the drawn conversations that are trajectories, from data/mixture.json; None before it is built."""
    try:
        content = json.loads((recipe.run_dir / "data" / "mixture.json").read_text(encoding="utf-8"))["sources"]
        return sum(content[name]["share_realised"] for name in agent_sources(recipe))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mean_of(values: list[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)


def size_of(main: Recipe) -> str | None:
    """7b, 13b or 70b where the recipe is one that the paper's numbers are of: the whole model, fine-tuned."""
    size = main.name.removeprefix("agentlm-").removesuffix("/sft")
    return size if main.name == f"agentlm-{size}/sft" and size in ("7b", "13b", "70b") else None


def published_row(main: Recipe, kind: str, name: str, eta: float) -> dict[str, dict]:
    """{group: {value, verified, evidence}} of the paper's Tables 2 and 5 for this size; empty where it has none.

    Scores of single etas are not published; 0, 0.2 and 1 are Table 5's rows.
    """
    size, content = size_of(main), read_mapping(published.PUBLISHED)
    if kind == "filtering":
        return content["filtering_ablation"].get(name, {}) if size == "7b" else {}
    row = {0.0: "general_only", 0.2: "mixed", 1.0: "agent_only"}.get(eta)
    return content["mixture_ablation"].get(size, {}).get(row, {})


def write(folder: Path, kind: str, content: Mapping[str, object]) -> Path:
    """Write results/ablation-KIND.json below the run's folder, whole or not at all, and return its path."""
    path = folder / "results" / f"ablation-{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps({"schema": SCHEMA, "kind": kind, **content}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path
