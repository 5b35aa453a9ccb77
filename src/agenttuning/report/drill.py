"""Pages of every item beside the report: <run directory>/report/, which the report's tables link to.

They are files, not a part of the report, so that it stays small: a run of the full size has some 35,000 items. A page
holds no more than MOST_ITEMS of them; each opens by a <details>, without a script.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from agenttuning.data.folders import swap
from agenttuning.report import items, templating
from agenttuning.report.episodes_page import MOST_CHARACTERS
from agenttuning.report.items import STATES, Task

FOLDER, INDEX = "report", "index.html"
MOST_ITEMS = 100  # on a page
MOST_TEXT = 1_000_000  # characters of a page, so that a phone opens it; an item that is longer has a page of its own
MOST_OF_AN_ITEM = 300_000  # characters of one item: 50 messages that are cut at MOST_CHARACTERS


@dataclass
class Shelf:
    """The pages of one task: how many items of each state, and where they begin."""

    label: str
    rules: str
    task: str
    counts: dict[str, int]
    left_out: str
    href: str = ""
    pages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Items on its pages."""
        return sum(self.counts.values())

    @property
    def said(self) -> str:
        """Its counts as words."""
        told = ", ".join(f"{count:,} {state}" for state, count in self.counts.items() if count)
        return "; ".join(filter(None, (told, self.left_out and f"left out: {self.left_out}")))


def write(run_dir: Path) -> list[Shelf]:
    """Write <run directory>/report/ anew from all that was evaluated there, and return what it holds.

    The old folder is replaced when the new one is whole. Raises UserError for a file of episodes that is damaged, and
    where the folder that stands there is none of ours.
    """
    out = run_dir / FOLDER
    partial = out.with_name(f".{FOLDER}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        names: set[str] = set()
        shelves = [_shelf(task, partial, names) for task in items.find(run_dir)]
        shelves = [shelf for shelf in shelves if shelf.n]
        values = {"title": "Every item", "said": "What each model did with each item.", "pages": [], "shelves": shelves}
        templating.write(partial / INDEX, templating.render("shelves.html.jinja", values))
        swap(partial, out, INDEX, what="the pages of a report")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return shelves


def _shelf(task: Task, folder: Path, names: set[str]) -> Shelf:
    by_state, counts, left_out = items.read(task)
    shelf = Shelf(task.label, task.rules or "its suite", task.name, counts, left_out)
    stem = _name(task, names)
    contents = f"{stem}.html"
    paged = _ahead((state, chunk) for state in STATES for chunk in _chunks(by_state.get(state, iter(()))))
    first, before = 1, ""
    for number, ((state, chunk), more) in enumerate(paged, start=1):
        first = 1 if not shelf.pages or shelf.pages[-1]["state"] != state else first
        here = f"{stem}-{number}.html"
        prompt = _prompt(chunk)
        values = {
            "shelf": shelf, "number": number, "state": state, "first": first, "items": _without(chunk, prompt),
            "prompt": prompt, "contents": contents if more or number > 1 else "", "previous": before,
            "next": f"{stem}-{number + 1}.html" if more else "", "most_characters": MOST_CHARACTERS,
            "measure": "reward" if task.path.name == items.FILE else "score",
        }  # fmt: skip
        templating.write(folder / here, templating.render("items.html.jinja", values))
        ends = {"from": chunk[0]["item"], "to": chunk[-1]["item"]}
        shelf.pages.append({"href": here, "n": len(chunk), "state": state, **ends})
        first, before = first + len(chunk), here
    if len(shelf.pages) > 1:
        values = {"title": f"{task.name}, {task.label}", "said": f"{shelf.rules}: {shelf.said}.", "pages": shelf.pages}
        templating.write(folder / contents, templating.render("shelves.html.jinja", {**values, "shelves": []}))
    shelf.href = contents if len(shelf.pages) > 1 else f"{stem}-1.html"
    return shelf


def _name(task: Task, taken: set[str]) -> str:
    """A file's name for a task: letters that need no care in an address, and not another task's."""
    words = "-".join(filter(None, (task.label, task.rules, task.name)))
    plain = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-").lower()[:100] or "task"
    name = next(name for name in (plain, *(f"{plain}-x{k}" for k in range(2, 10_000))) if name not in taken)
    taken.add(name)
    return name


def _chunks(members: Iterator[dict]) -> Iterator[list[dict]]:
    chunk: list[dict] = []
    size = 0
    for one in map(_cut, members):
        length = sum(len(turn["text"]) for turn in one["turns"])
        if chunk and (len(chunk) == MOST_ITEMS or size + length > MOST_TEXT):
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += length
    if chunk:
        yield chunk


def _ahead(values: Iterator) -> Iterator[tuple[Any, bool]]:
    """Each value, and whether another one follows."""
    values = iter(values)
    held = next(values, None)
    while held is not None:
        following = next(values, None)
        yield held, following is not None
        held = following


def _cut(one: dict) -> dict:
    """The item with as many turns as fit; what is left out is said."""
    size, kept = 0, []
    for turn in one["turns"]:
        size += len(turn["text"])
        if size > MOST_OF_AN_ITEM:
            said = f"{len(one['turns']) - len(kept):,} more messages are not on this page"
            return {**one, "turns": [*kept, {"who": "error", "said": said, "bad": False, "text": "…"}]}
        kept.append(turn)
    return one


def _opening(one: dict) -> list[dict]:
    return list(takewhile(lambda turn: turn["who"] == "prompt" and turn["said"] in ("user", "assistant"), one["turns"]))


def _prompt(chunk: list[dict]) -> list[dict]:
    """The prompt of most items of a page, to be shown once: a benchmark's is thousands of characters, in every item."""
    openings = [opening for one in chunk if (opening := _opening(one))]
    texts = Counter(tuple(turn["text"] for turn in opening) for opening in openings)
    most, times = texts.most_common(1)[0] if texts else ((), 0)
    return next(one for one in openings if tuple(turn["text"] for turn in one) == most) if times > 1 else []


def _without(chunk: list[dict], prompt: list[dict]) -> list[dict]:
    if not prompt:
        return chunk
    return [{**one, "turns": one["turns"][len(prompt) :]} if _opening(one) == prompt else one for one in chunk]
