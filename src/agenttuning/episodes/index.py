"""The episodes of a store without their messages: one light entry an episode, and where its record lies in the file.

A store of 10,000 episodes is gigabytes of messages in Python; its entries are megabytes. The file may be in use: a last
line that is not finished yet is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.episodes import status
from agenttuning.episodes.store import FILE, KEY, key_of
from agenttuning.errors import UserError
from agenttuning.scoring import errors


@dataclass(frozen=True, slots=True)
class Entry:
    """One record: its key, its end, its error kinds, and its place in the file (`line` from 1, `offset` in bytes)."""

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
    line: int
    offset: int

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
    """`entries` in the order of their file, the newest of each key; `superseded` counts the records behind them (tries
    that the infrastructure ended) and `unfinished` is the number of bytes of a last line that is being written.
    """

    path: Path
    entries: list[Entry] = field(default_factory=list)
    superseded: int = 0
    unfinished: int = 0

    def record(self, entry: Entry) -> dict:
        """The whole record of an entry, read from the file. Raises UserError when something else is there now."""
        with self.path.open("rb") as file:
            return _record_at(file, entry, self.path)

    def records(self, entries: list[Entry]) -> Iterator[tuple[Entry, dict]]:
        """Entries with their records, one at a time."""
        with self.path.open("rb") as file:
            for entry in entries:
                yield entry, _record_at(file, entry, self.path)


def read(folder: str | Path) -> Index:
    """The index of a folder's episodes.jsonl, or of such a file.

    Raises UserError when there is none, and for a line that is no episode record.
    """
    path = _find(Path(folder))
    index, newest = Index(path), {}
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                index.unfinished = len(line)
                break
            entry = _entry(line, number, offset)
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
    index.entries = list(newest.values())
    return index


def _find(folder: Path) -> Path:
    if folder.is_file():
        return folder
    if (folder / FILE).is_file():
        return folder / FILE
    below = sorted(path.parent for path in folder.glob(f"*/{FILE}")) + sorted(
        path.parent for path in folder.glob(f"eval/*/{FILE}")
    )
    hint = f"it has {', '.join(map(str, below))}; name one" if below else "name the folder that an evaluation wrote"
    raise UserError(f"there is no {folder / FILE}; there is no episode to look at; {hint}")


def _entry(line: bytes, number: int, offset: int) -> Entry | None:
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
                     line=number, offset=offset)  # fmt: skip
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


def _record_at(file, entry: Entry, path: Path) -> dict:
    file.seek(entry.offset)
    try:
        record = json.loads(file.readline())
        same = key_of(record) == tuple(getattr(entry, name) for name in KEY)
    except (ValueError, TypeError, KeyError):
        same = False
    if not same:
        raise UserError(
            f"{path} was changed while it was read: line {entry.line} is no longer the episode {entry.item}; what was "
            "shown would be of two files; look again"
        )
    return record
