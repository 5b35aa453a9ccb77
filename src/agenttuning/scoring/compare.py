"""Before and after, with n and intervals; for the paper's three sizes also what was published.

Reads `<run directory>/eval/base/scores.json` and `<run directory>/eval/tuned/scores.json`; either may be absent. Beside
the published numbers also what `eval-held-in` left there under paper-text, as far as it bears a benchmark's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.scoring import intervals, published, scores

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

SIDES = ("base", "tuned")
ABSENT = "not measured"
PUBLISHED_SIZE = re.compile(r"agentlm-(7b|13b|70b)/")


def compare(recipe: Recipe) -> str:
    """Print the comparison of a run and return the text.

    Raises UserError when nothing was measured, unless the recipe is one of the paper's, whose published numbers are
    then shown alone; and when the two sides were played by different protocols.
    """
    paths = {side: recipe.run_dir / "eval" / side / scores.FILE for side in SIDES}
    found = {side: scores.read(path) for side, path in paths.items() if path.exists()}
    size = PUBLISHED_SIZE.match(recipe.name)
    if not found and not size:
        raise UserError(
            f"there is no {paths['base']} and no {paths['tuned']}; "
            "there is nothing to compare; evaluate this recipe first"
        )
    if len({entry.get("protocol") for entry in found.values()}) > 1:
        raise UserError(
            f"base was played by {found['base'].get('protocol')}, tuned by {found['tuned'].get('protocol')}; "
            "the difference would mix the rules with the training; evaluate both again"
        )
    if size:
        found = {side: _with_held_in(paths[side], found.get(side, {})) for side in SIDES}
    text = beside_published(recipe.name, size[1], found) if size else before_after(recipe.name, found)
    print(text)
    return text


def before_after(name: str, found: dict[str, dict]) -> str:
    """The table of a run without published numbers: base, tuned, and the difference over the same items."""
    known = next(iter(found.values()))
    lines = [f"{name}, protocol {known['protocol']}, 95 % intervals, scores x 100", ""]
    tasks = dict.fromkeys(task for side in SIDES if side in found for task in found[side]["tasks"])
    rows = [["task", *SIDES, "tuned - base, same items"]]
    for task in tasks:
        sides = [_entry(found, side, task) for side in SIDES]
        metric = next(entry["metric"] for entry in sides if entry)
        rows.append([f"{task} ({metric.replace('_', ' ')})", *map(_measured, sides), _difference(*sides)])
    for group, title in published.GROUPS.items():
        averages = [found.get(side, {}).get("groups", {}).get(group) for side in SIDES]
        if any(average and average["tasks"] for average in averages):
            rows.append([f"{title} mean", *map(_average, averages), ""])
    lines += table(rows)
    errors = _error_rows(found, tasks)
    if len(errors) > 1:
        lines += ["", "share of episodes with an error (scoring/errors.py has the rules), base -> tuned", ""]
        lines += table(errors)
    return "\n".join(lines)


def beside_published(name: str, size: str, found: dict[str, dict]) -> str:
    """The table of one of the paper's recipes: the published pair and ours, every task of the paper, overalls."""
    paper = published.load()
    columns = {"base": f"llama-2-{size}-chat", "tuned": f"agentlm-{size}"}
    lines = [f"{name}, beside the main table of the paper (arXiv 2310.12823), 95 % intervals", ""]
    rows = [["task", "n", "base published", "base ours", "tuned published", "tuned ours"]]
    for group, title in published.GROUPS.items():
        for task in paper.group(group):
            facts = paper.tasks[task]
            cells = [cell for side in SIDES for cell in (_cell(paper, task, columns[side]), _ours(found, side, task))]
            rows.append([facts["title"], str(facts["n"]["value"]), *cells])
        overalls = [
            cell
            for side in SIDES
            for cell in (f"{paper.overalls[group][columns[side]]:.2f}", _overall(paper, group, found.get(side)))
        ]
        rows.append([f"overall {title}", "", *overalls])
    lines += table(rows)
    lines += [
        "",
        "overall = mean of score / divisor over the tasks of a group; the divisors are the published means of the five",
        "models that are not AgentLM, not rounded, and stay fixed. Published intervals are ours (Wilson, from n).",
    ]
    return "\n".join(lines)


def _with_held_in(path: Path, side: dict) -> dict:
    held_in = path.parent / "held-in" / "paper-text" / scores.FILE
    if not held_in.is_file():
        return side
    played = scores.read(held_in)["tasks"]
    of_benchmark = {name: entry for name, entry in played.items() if entry.get("not_comparable", "unknown") is None}
    return {**side, "tasks": {**side.get("tasks", {}), **of_benchmark}}


def published_lines(name: str, tasks: Iterable[str]) -> list[str]:
    """For a recipe of the paper's sizes: what was published for some of its tasks, before and after tuning."""
    if not (size := PUBLISHED_SIZE.match(name)):
        return []
    paper, models = published.load(), (f"llama-2-{size[1]}-chat", f"agentlm-{size[1]}")
    return [
        f"published, {task}: " + "; ".join(f"{model} {_cell(paper, task, model)}" for model in models)
        for task in tasks
        if task in paper.tasks
    ]


def table(rows: list[list[str]]) -> list[str]:
    """Rows as aligned lines, the first one underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]


def _entry(found: dict[str, dict], side: str, task: str) -> dict | None:
    return found.get(side, {}).get("tasks", {}).get(task)


def _measured(entry: dict | None) -> str:
    if entry is None:
        return ABSENT
    if entry.get("void"):
        return f"void: {entry['void']}"
    asked = entry.get("asked")
    of = f" of {asked}" if asked not in (None, entry["n"]) else ""
    return f"{entry['score']:.1f} {_range(entry.get('interval'))} n={entry['n']}{of}"


def _average(entry: dict | None) -> str:
    if not entry or entry["score"] is None:
        return ABSENT
    return f"{entry['score']:.1f} {_range(entry['interval'])}"


def _range(interval: list[float] | intervals.Interval | None, digits: int = 1) -> str:
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "[no interval]"


def paired(base: dict | None, tuned: dict | None) -> tuple[float, float, float, int] | None:
    """tuned - base x 100 over the items that both were scored on: mean, low, high, n. None where there are none."""
    if not base or not tuned or base.get("void") or tuned.get("void"):
        return None
    items = sorted(base["rewards"].keys() & tuned["rewards"].keys())
    if not items:
        return None
    before, after = ([_counted(entry, item) for item in items] for entry in (base, tuned))
    low, high = intervals.paired_difference(before, after)
    return 100 * (sum(after) - sum(before)) / len(items), 100 * low, 100 * high, len(items)


def _difference(base: dict | None, tuned: dict | None) -> str:
    if found := paired(base, tuned):
        return f"{found[0]:+.1f} [{found[1]:+.1f}, {found[2]:+.1f}] n={found[3]}"
    both = base and tuned and not base.get("void") and not tuned.get("void")
    return "no item in common" if both else ""


def _counted(entry: dict, item: str) -> float:
    reward = entry["rewards"][item]
    return float(reward >= 1.0) if entry["metric"] == "success_rate" else reward


def _error_rows(found: dict[str, dict], tasks: dict[str, None]) -> list[list[str]]:
    from agenttuning.scoring.errors import KINDS

    rows = [["task", *(kind.replace("_", " ") for kind in KINDS)]]
    for task in tasks:
        rates = [(_entry(found, side, task) or {}).get("errors") for side in SIDES]
        if not any(rates):  # a general task has no episodes, a void one none that count
            continue
        shown = [" -> ".join("-" if rate is None else f"{rate[kind]:.2f}" for rate in rates) for kind in KINDS]
        rows.append([task, *shown])
    return rows


def _cell(paper: published.Published, task: str, model: str) -> str:
    score, interval = paper.scores[task][model], paper.interval(task, model)
    digits = 2 if task in ("webarena", "mt_bench") else 1
    return f"{score:.{digits}f} {_range(interval, digits)}" if interval else f"{score:.{digits}f}"


def _ours(found: dict[str, dict], side: str, task: str) -> str:
    return _measured(_entry(found, side, task))


def _overall(paper: published.Published, group: str, side: dict | None) -> str:
    measured = {
        task: entry["score"] for task, entry in (side or {}).get("tasks", {}).items() if entry.get("score") is not None
    }
    value = published.overall(paper, group, measured)
    if value is not None:
        return f"{value:.2f}"
    members = paper.group(group)
    return f"{ABSENT} ({sum(task in measured for task in members)} of {len(members)} tasks)"
