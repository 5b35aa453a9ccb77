"""Base and tuned side by side, for a run without published numbers, and the difference over the same items."""

from __future__ import annotations

from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.scoring import intervals, published, scores
from agenttuning.scoring.results import SUITE, Result, unit
from agenttuning.scoring.results import paired as over_the_same_items
from agenttuning.scoring.text_table import table

SIDES = ("base", "tuned")
ABSENT = "not measured"


def read(run_dir: Path) -> dict[str, dict]:
    """eval/base/scores.json and eval/tuned/scores.json, those that there are. Raises UserError when they were played by
    different protocols.
    """
    paths = {side: run_dir / "eval" / side / scores.FILE for side in SIDES}
    found = {side: scores.read(path) for side, path in paths.items() if path.exists()}
    if len({entry.get("protocol") for entry in found.values()}) > 1:
        raise UserError(
            f"base was played by {found['base'].get('protocol')}, tuned by {found['tuned'].get('protocol')}; "
            "the difference would mix the rules with the training; evaluate both again"
        )
    return found


def text(name: str, found: dict[str, dict], results: list[Result]) -> str:
    """The table: of `found` every task, group mean and error kind; then what else `results` hold for the two sides,
    each row one protocol in one backend.
    """
    protocol = next((f", protocol {known['protocol']}" for known in found.values()), "")
    lines = [f"{name}{protocol}, 95 % intervals, scores x 100 (ratings as they are)", ""]
    tasks = dict.fromkeys(task for side in SIDES if side in found for task in found[side]["tasks"])
    rows = [["task", *SIDES, "tuned - base, same items"]]
    for task in tasks:
        sides = [found.get(side, {}).get("tasks", {}).get(task) for side in SIDES]
        metric = next(entry["metric"] for entry in sides if entry)
        rows.append([f"{task} ({scores.metric_words(metric)})", *map(measured, sides), _difference(*sides)])
    for group, title in published.GROUPS.items():
        averages = [found.get(side, {}).get("groups", {}).get(group) for side in SIDES]
        if any(average and average["tasks"] for average in averages):
            rows.append([f"{title} mean", *map(_average, averages), ""])
    rows += _further(results)
    lines += table(rows)
    errors = _error_rows(found, tasks)
    if len(errors) > 1:
        lines += ["", "share of episodes with an error (scoring/errors.py has the rules), base -> tuned", ""]
        lines += table(errors)
    return "\n".join(lines)


def _further(results: list[Result]) -> list[list[str]]:
    by_row: dict[tuple, dict[str, dict]] = {}
    for one in results:
        if one.kind != SUITE and one.side in SIDES:
            by_row.setdefault((one.name, one.protocol, one.backend), {})[one.side] = one.entry
    rows = []
    for (name, protocol, backend), entries in by_row.items():
        sides = [entries.get(side) for side in SIDES]
        metric = next(entry["metric"] for entry in sides if entry)
        what = ", ".join(part for part in (scores.metric_words(metric), protocol, backend) if part)
        rows.append([f"{name} ({what})", *map(measured, sides), _difference(*sides)])
    return rows


def measured(entry: dict | None) -> str:
    """A score with its interval and n, or why there is none."""
    if entry is None:
        return ABSENT
    if entry.get("void"):
        return f"void: {entry['void']}"
    asked = entry.get("asked")
    of = f" of {asked}" if asked not in (None, entry["n"]) else ""
    return f"{entry['score']:.1f} {in_brackets(entry.get('interval'))} n={entry['n']}{of}"


def in_brackets(interval: list[float] | intervals.Interval | None, digits: int = 1) -> str:
    """An interval as text."""
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "[no interval]"


def paired(base: dict | None, tuned: dict | None) -> tuple[float, float, float, int] | None:
    """tuned - base in the score's unit over the items that both were scored on: mean, low, high, n; None for none, and
    where the same ids stand for other items, prompts or judges.
    """
    found = over_the_same_items(base, tuned) if base and tuned else None
    if found is None:
        return None
    (one, two), scale = found, unit(base)
    low, high = intervals.paired_difference(one, two)
    return scale * (sum(two) - sum(one)) / len(one), scale * low, scale * high, len(one)


def _average(entry: dict | None) -> str:
    if not entry or entry["score"] is None:
        return ABSENT
    return f"{entry['score']:.1f} {in_brackets(entry['interval'])}"


def _difference(base: dict | None, tuned: dict | None) -> str:
    if found := paired(base, tuned):
        return f"{found[0]:+z.1f} [{found[1]:+z.1f}, {found[2]:+z.1f}] n={found[3]}"
    both = base and tuned and not base.get("void") and not tuned.get("void")
    return "no item asked of both alike" if both else ""


def _error_rows(found: dict[str, dict], tasks: dict[str, None]) -> list[list[str]]:
    from agenttuning.scoring.errors import KINDS

    rows = [["task", *(kind.replace("_", " ") for kind in KINDS)]]
    for task in tasks:
        rates = [(found.get(side, {}).get("tasks", {}).get(task) or {}).get("errors") for side in SIDES]
        if not any(rates):  # a general task has no episodes, a void one none that count
            continue
        shown = [" -> ".join("-" if rate is None else f"{rate[kind]:.2f}" for rate in rates) for kind in KINDS]
        rows.append([task, *shown])
    return rows
