"""A page of trajectories: one self-contained file without scripts; its filters are radio buttons and style rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agenttuning.episodes.filters import Filters, worst_first
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.trajectory import FRESH, first_turn, own_turn
from agenttuning.episodes.view import counted
from agenttuning.report import templating

MOST_EPISODES = 200
MOST_CHARACTERS = 6000  # of a message: ten times the mean of AgentInstruct's
MOST_PAGE = 10_000_000  # characters of trajectories on a page, so that a phone opens it


def write(index: Index, chosen: list[Entry], filters: Filters, out: str | Path, limit: int | None) -> Path:
    """Write the page of the chosen episodes, at most `limit` of them (None: all), failures first and the newest first
    among them. Less than asked when their text is more than MOST_PAGE; the page says what it leaves out.
    """
    ordered = worst_first(chosen)
    wanted = ordered if limit is None else ordered[:limit]
    shown, size = [], 0
    for entry, record in index.records(wanted):
        one = _episode(entry, record)
        size += sum(len(turn["text"]) for turn in one["turns"])
        if shown and size > MOST_PAGE:
            break
        shown.append(one)
    values = {
        "name": (index.path.parent if index.path.is_file() else index.path).absolute().name,
        "counted": counted(index, chosen),
        "filters": str(filters),
        "episodes": shown,
        "left_out": len(chosen) - len(shown),
        "groups": _groups(shown),
        "most_characters": MOST_CHARACTERS,
    }
    return templating.write(Path(out), templating.render("episodes.html.jinja", values))


def _episode(entry: Entry, record: dict) -> dict[str, Any]:
    return {
        "task": entry.task,
        "item": short(entry.item, 120),
        "status": entry.status.replace("_", " "),
        "state": "lost" if entry.lost else "won" if entry.won else "not won",
        "reward": entry.reward,
        "turns_taken": entry.turns,
        "kinds": [kind.replace("_", " ") for kind in entry.kinds],
        "facts": {
            "model": short(entry.model, 300),
            "played": f"{entry.backend}, {entry.protocol}, seed {entry.seed}, sample {entry.sample}",
            "metrics": ", ".join(f"{name} {value}" for name, value in (record.get("metrics") or {}).items()),
            "note": "each question was asked alone, behind the prompt" if entry.task in FRESH else "",
            "stands in": f"{entry.path.parent.name}/{entry.path.name}, line {entry.line}",
        },
        "turns": turns(record),
    }


def turns(record: dict) -> list[dict[str, Any]]:
    """The messages of an episode as the pages show them: who, what is said of it, whether it went wrong, the text."""
    first, number, steps, shown = first_turn(record), 0, record["steps"], []
    for place, message in enumerate(record["messages"]):
        who, said, bad = "environment", "", False
        if own_turn(message):
            step = steps[number] if number < len(steps) else None
            number += 1
            who, said, bad = "model", f"turn {number}{_verdict(step)}", step is not None and not step["valid"]
        elif place < first - 1 or message["role"] == "assistant":
            who, said = "prompt", message["role"]
        shown.append({"who": who, "said": said, "bad": bad, "text": short(message["content"])})
    if record.get("last") is not None:
        said = "after the last action"
        shown.append({"who": "environment", "said": said, "bad": False, "text": short(record["last"])})
    if record.get("error"):
        shown.append({"who": "error", "said": "", "bad": True, "text": short(record["error"])})
    return shown


def _verdict(step: dict | None) -> str:
    if step is None:
        return ""
    if step["action"] is None:
        return ", no action"
    error = f", {step['error']}" if step.get("error") else ""
    return f"{'' if step['valid'] else ', refused'}{', cut' if step.get('cut') else ''}{error}"


def short(text: str, most: int = MOST_CHARACTERS) -> str:
    """The first characters of a text; of a longer one it says how many are left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} of {len(text):,} characters cut)"


def _groups(shown: list[dict]) -> list[dict[str, Any]]:
    """The rows of radio buttons: title and choices, each a name with its episodes; the episodes get the classes.

    Classes are numbers, so that no name from a file becomes a part of a style rule.
    """
    groups = []
    for title, of in (
        ("task", lambda one: [one["task"]]),
        ("result", lambda one: [one["state"]]),
        ("status", lambda one: [one["status"]]),
        ("error", lambda one: one["kinds"] or ["none found"]),
    ):
        names = sorted({name for one in shown for name in of(one)})
        numbers = {name: f"g{len(groups)}-{number}" for number, name in enumerate(names)}
        for one in shown:
            one.setdefault("classes", []).extend(numbers[name] for name in of(one))
        choices = [{"name": name, "id": numbers[name], "n": sum(name in of(one) for one in shown)} for name in names]
        groups.append({"title": title, "id": f"g{len(groups)}", "choices": choices})
    return [group for group in groups if len(group["choices"]) > 1]
