"""The episodes of stores without their messages: one light entry an episode, and where its record lies in its file.

A store of 10,000 episodes is gigabytes of messages in Python; its entries are megabytes. A file may be in use: a last
line that is not finished yet is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agenttuning.environments import HELD_IN
from agenttuning.episodes import status
from agenttuning.episodes.store import FILE, KEY, key_of
from agenttuning.errors import UserError
from agenttuning.scoring import errors


@dataclass(frozen=True, slots=True)
class Entry:
    """One record: its key, its end, its error kinds, and its place (`line` of `path` from 1, `offset` in bytes)."""

    task: str
    backend: str
    protocol: str
    item: str
    seed: int
    model: str
    sample: int
    status: str
    reward: float | None
    turns: int
    kinds: tuple[str, ...]
    path: Path
    line: int
    offset: int

    @property
    def reported_as(self) -> str:
        """The name that a score may bear: the task's, where it is one of the miniature's or where `eval-held-in` has
        named the store so; of the paper's tasks on other items or backends, the name of these.
        """
        store = self.path.parent.name
        if self.task not in HELD_IN or store == self.task:
            return self.task
        return store if store.endswith(f".{self.backend}") else f"{self.task}.{self.backend}"

    @property
    def lost(self) -> bool:
        """True when the infrastructure ended it: no result of the model."""
        return not status.is_result(self.status)

    @property
    def won(self) -> bool:
        """True for the whole reward."""
        return self.reward is not None and self.reward >= 1.0


@dataclass
class Index:
    """`entries` in the order of their files, the newest of each key; `superseded` counts the records behind them (tries
    that the infrastructure ended) and `unfinished` is the number of bytes of last lines that are being written. `path`
    is what was read: a folder or a file.
    """

    path: Path
    entries: list[Entry] = field(default_factory=list)
    superseded: int = 0
    unfinished: int = 0

    def record(self, entry: Entry) -> dict:
        """The whole record of an entry, read from the file. Raises UserError when something else is there now."""
        return next(self.records([entry]))[1]

    def records(self, entries: list[Entry]) -> Iterator[tuple[Entry, dict]]:
        """Entries with their records, one at a time."""
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}
            for entry in entries:
                if entry.path not in files:
                    files[entry.path] = stack.enter_context(entry.path.open("rb"))
                yield entry, _record_at(files[entry.path], entry)

    @property
    def several(self) -> bool:
        """True when the entries are of more than one file."""
        return len({entry.path for entry in self.entries}) > 1


def read(folder: str | Path) -> Index:
    """The index of a folder's episodes.jsonl, or of such a file, or of the stores of the folders in it (an evaluation
    has one for each task). Raises UserError when there is none, and for a line that is no episode record.
    """
    index = Index(Path(folder))
    for path in stores(index.path):
        _read(path, index)
    return index


def _read(path: Path, index: Index) -> None:
    newest: dict[tuple, Entry] = {}
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                index.unfinished += len(line)
                break
            entry = _entry(line, path, number, offset)
            if entry is None:
                raise UserError(
                    f"{path}, line {number} is not an episode record; it would be missing from what is shown; restore "
                    "the file or delete the line (the episode is then played again)"
                )
            key = tuple(getattr(entry, name) for name in KEY)
            index.superseded += key in newest
            newest.pop(key, None)
            newest[key] = entry
            offset += len(line)
    index.entries += newest.values()


def stores(folder: Path) -> list[Path]:
    """The files of episodes that `folder` means. Raises UserError, naming folders below that have some."""
    if folder.is_file():
        return [folder]
    if (folder / FILE).is_file():
        return [folder / FILE]
    if found := sorted(folder.glob(f"*/{FILE}")):
        return found
    below = sorted({path.parent.parent for depth in (2, 3, 4, 5) for path in folder.glob(f"{'*/' * depth}{FILE}")})
    hint = f"there are some in {', '.join(map(str, below))}" if below else "name the folder that an evaluation wrote"
    raise UserError(f"there is no {folder / FILE}; there is no episode to look at; {hint}")


def _entry(line: bytes, path: Path, number: int, offset: int) -> Entry | None:
    try:
        record = json.loads(line)
        status.is_result(record["status"])
        key = dict(zip(KEY, key_of(record), strict=True))
        if not _whole(record, key):
            return None
        found = errors.kinds(record)
        kinds = tuple(kind for kind in errors.RULES if kind in found)
        reward = None if record["reward"] is None else float(record["reward"])
        return Entry(**key, status=record["status"], reward=reward, turns=int(record["turns"]), kinds=kinds,
                     path=path, line=number, offset=offset)  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _whole(record: dict, key: dict) -> bool:
    """What every reader of a record takes for granted."""
    return (
        all(isinstance(value, int if name in ("seed", "sample") else str) for name, value in key.items())
        and all(isinstance(message["content"], str) for message in record["messages"])
        and all(isinstance(step["action"], str | None) for step in record["steps"])
        and isinstance(record.get("metrics") or {}, dict)
        and all(isinstance(record.get(name) or "", str) for name in ("last", "error"))
    )


def _record_at(file: BinaryIO, entry: Entry) -> dict:
    file.seek(entry.offset)
    try:
        record = json.loads(file.readline())
        same = key_of(record) == tuple(getattr(entry, name) for name in KEY)
    except (ValueError, TypeError, KeyError):
        same = False
    if not same:
        raise UserError(
            f"{entry.path} was changed while it was read: line {entry.line} is no longer the episode it was; what is "
            "shown would be of two files; look again"
        )
    return record
