"""What every item of a run's tasks became, read one at a time: episodes of the stores, samples of the general tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.episodes import index as indexed
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.store import FILE
from agenttuning.report import talks
from agenttuning.report.episodes_page import short, turns

SAMPLES = ".samples.jsonl"
STATES = ("lost", "not won", "won", "rated")  # in the order of the pages: what went wrong is read first
# keys of a sample, in the order they are shown
ASKED = ("question", "prompt", "choices", "wanted", "got", "extracted", "ended", "passed")
NAMES = {"got": "reply", "wanted": "wanted answer", "extracted": "read as", "ended": "its program ended as"}
NAMES |= {"passed": "samples that passed"}
RATINGS = ("score", "rating")


@dataclass(frozen=True)
class Task:
    """One task as one model took it under one set of rules. `path` holds its records; `names`: which of them."""

    label: str
    rules: str
    name: str
    path: Path


def find(run_dir: Path) -> list[Task]:
    """The tasks whose records an evaluation left in eval/: of `eval`, `eval-held-in` and `eval-general`."""
    found: list[Task] = []
    for place in sorted(run_dir.glob("eval/*"), key=_side):
        label = place.name
        if (place / FILE).is_file():
            names = dict.fromkeys(entry.task for entry in indexed.read(place).entries)
            found += [Task(label, "", name, place / FILE) for name in names]
        found += [Task(label, "", _stem(path), path) for path in sorted(place.glob(f"docs/*{SAMPLES}"))]
        for path in sorted(place.glob(f"held-in/*/*/{FILE}")):
            found.append(Task(label, path.parent.parent.name, path.parent.name, path))
        for folder in sorted(place.glob("general/*/*")):
            rules = f"{folder.parent.name}, {folder.name}"
            found += [Task(label, rules, _stem(path), path) for path in sorted(folder.glob(f"docs/*{SAMPLES}"))]
            if (folder / talks.FOLDER / talks.ANSWERS).is_file():
                found.append(Task(label, rules, talks.FOLDER, folder / talks.FOLDER / talks.ANSWERS))
    return found


def _side(place: Path) -> tuple:
    first = ("tuned", "base", "released")
    return (first.index(place.name) if place.name in first else len(first), place.name)


def _stem(path: Path) -> str:
    return path.name.removesuffix(SAMPLES)


def read(task: Task) -> tuple[dict[str, Iterator[dict[str, Any]]], dict[str, int], str]:
    """Its items by state, an iterator each so that no file is held whole; how many there are; what was left out."""
    readers = {FILE: _episodes, talks.ANSWERS: _talks}
    return readers.get(task.path.name, _samples)(task)


def _talks(task: Task) -> tuple[dict[str, Iterator[dict]], dict[str, int], str]:
    found, unreadable = talks.read(task.path.parent)
    by_state = {state: [one for one in found if one["state"] == state] for state in STATES}
    return {k: iter(v) for k, v in by_state.items()}, {k: len(v) for k, v in by_state.items()}, _torn(unreadable)


def _torn(lines: int) -> str:
    return f"{lines:,} lines that cannot be read" if lines else ""


def _episodes(task: Task) -> tuple[dict[str, Iterator[dict]], dict[str, int], str]:
    index = indexed.read(task.path)
    held_in = bool(task.rules)
    entries = [entry for entry in index.entries if held_in or entry.task == task.name]
    if not entries:
        return {}, {}, ""
    newest = max(entries, key=lambda entry: (not entry.lost, entry.line))
    same = [entry for entry in entries if (entry.model, entry.protocol) == (newest.model, newest.protocol)]
    same.sort(key=lambda entry: natural(entry.item))
    by_state = {state: [entry for entry in same if _state(entry) == state] for state in STATES}
    others = len(entries) - len(same)
    left_out = f"{others:,} episodes of another model or protocol in the same file" if others else ""
    counts = {state: len(members) for state, members in by_state.items()}
    return {state: _shown(index, members) for state, members in by_state.items()}, counts, left_out


def _state(entry: Entry) -> str:
    return "lost" if entry.lost else "won" if entry.won else "not won"


def natural(name: str) -> list[tuple[int, str]]:
    """A key that puts item 9 before item 10."""
    parts = re.split(r"([0-9]{1,15})", name)
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]


def _shown(index: Index, entries: list[Entry]) -> Iterator[dict[str, Any]]:
    for entry, record in index.records(entries):
        told = turns(record)
        model = [turn["text"] for turn in told if turn["who"] == "model"]
        asked = next((turn["text"] for turn in told if turn["who"] == "environment"), "")
        metrics = record.get("metrics") or {}
        yield {
            "item": short(entry.item, 120),
            "begins": _line(asked),
            "status": entry.status.replace("_", " "),
            "state": _state(entry),
            "reward": entry.reward,
            "turns_taken": entry.turns,
            "kinds": [kind.replace("_", " ") for kind in entry.kinds],
            "facts": {
                "metrics": short(", ".join(f"{name} {value}" for name, value in metrics.items()), 1000),
                "written": f"{sum(map(len, model)):,} characters in {len(model)} replies",
                "model": short(entry.model, 300),
                "played": f"{entry.backend}, {entry.protocol}, seed {entry.seed}, sample {entry.sample}",
            },
            "turns": told,
        }


def _samples(task: Task) -> tuple[dict[str, Iterator[dict]], dict[str, int], str]:
    places: dict[str, list[int]] = {state: [] for state in STATES}
    unreadable = 0
    with task.path.open("rb") as file:
        for offset, line in _lines(file):
            record = _record(line)
            if record is None:
                unreadable += 1
            else:
                places[_sample_state(record)].append(offset)
    counts = {state: len(members) for state, members in places.items()}
    return {state: _read_samples(task.path, members) for state, members in places.items()}, counts, _torn(unreadable)


def _lines(file) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in file:
        yield offset, line
        offset += len(line)


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _score(record: dict) -> float | None:
    found = [record[key] for key in RATINGS if isinstance(record.get(key), int | float)]
    return float(found[0]) if found else None


def _sample_state(record: dict) -> str:
    score = _score(record)
    if score is None:
        return "lost"
    return "rated" if score > 1.0 else "won" if score == 1.0 else "not won"


def _read_samples(path: Path, offsets: list[int]) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            yield _sample(_record(file.readline()) or {})


def _sample(record: dict) -> dict[str, Any]:
    name = next((record[key] for key in ("id", "question_id", "item") if key in record), "(no id)")
    state = _sample_state(record)
    hidden = ("id", "question_id", "item", *RATINGS)
    keys = [*(key for key in ASKED if key in record), *(key for key in record if key not in (*ASKED, *hidden))]
    shown = [{"who": _who(key), "said": _said(key), "bad": False, "text": _text(record[key])} for key in keys]
    return {
        "item": short(str(name), 120),
        "begins": _line(_text(record.get("question", ""))),
        "status": {"won": "right", "not won": "wrong", "lost": "no score"}.get(state, ""),
        "state": state,
        "reward": _score(record),
        "turns_taken": None,
        "kinds": [],
        "facts": {},
        "turns": shown,
    }


def _who(key: str) -> str:
    return {"got": "model", "question": "prompt", "prompt": "prompt", "choices": "prompt"}.get(key, "also")


def _said(key: str) -> str:
    return NAMES.get(key, short(key, 60))


def _text(value: Any) -> str:
    while isinstance(value, list) and len(value) == 1:  # lm-eval keeps a list of replies for each request
        value = value[0]
    if isinstance(value, dict) and not any(isinstance(one, dict | list) for one in value.values()):
        value = "\n".join(f"{name}: {one}" for name, one in value.items())  # choices; a program and what became of it
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _line(text: str, most: int = 90) -> str:
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else f"{line[:most]} …"
