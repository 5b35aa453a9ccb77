"""An append-only file of episodes that survives a kill at any instant.

`episodes.jsonl` holds one record a line, each written with one call, flushed and fsynced. The key of a record is
the values of KEY. A key has at most one record with a result of the model; records of infrastructure
failures may precede it. `lock` is held (fcntl) while the store is open.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path

from agenttuning.data.folders import sync
from agenttuning.episodes import status
from agenttuning.errors import UserError

log = logging.getLogger(__name__)
KEY = ("task", "backend", "protocol", "item", "seed", "model", "sample")
FILE, LOCK = "episodes.jsonl", "lock"


def key_of(record: dict) -> tuple:
    """The key of a record, in the order of KEY."""
    return tuple(record[name] for name in KEY)


class EpisodeStore:
    """The episodes of one folder, opened for appending; a context manager.

    `torn` is the number of bytes of an unfinished last line which were cut off at opening (0 after a clean end).
    Raises UserError when another process has the folder open, or when a line that is not the last is unreadable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.folder / LOCK)
        try:
            self.path = self.folder / FILE
            self.torn = _cut_torn_line(self.path)
            if self.torn:
                log.warning("%s: cut off %d bytes of a record that the last run had not finished", self.path, self.torn)
            self._latest = {key_of(record): record for record in read(self.path)}
            self._file = self.path.open("ab", buffering=0)
            sync(self.folder)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._file.close()
        self._lock.close()

    def result(self, key: tuple) -> dict | None:
        """The record of `key` if it is a result of the model, else None: the episode is to be played."""
        record = self._latest.get(key)
        return record if record is not None and status.is_result(record["status"]) else None

    def append(self, record: dict) -> None:
        """Write one record; it is on disk when this returns. Raises ValueError when its key already has a result."""
        key = key_of(record)
        if self.result(key) is not None:
            raise ValueError(f"episode {'/'.join(map(str, key))} already has a result")
        _write(self._file.fileno(), (json.dumps(record) + "\n").encode("ascii"))
        self._latest[key] = record


def _write(handle: int, line: bytes) -> None:
    end = os.fstat(handle).st_size
    try:
        while line:
            line = line[os.write(handle, line) :]
        os.fsync(handle)
    except BaseException:
        # A full disk must not leave half a line for the next record to be glued to.
        os.ftruncate(handle, end)
        raise


def read(path: str | Path) -> list[dict]:
    """All records of a store's file, in the order written ([] when there is none). Raises UserError for a bad line."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _record(line)
            if record is None:
                raise UserError(
                    f"{path}, line {number} is not an episode record; its episode would be missing from the score; "
                    "restore the file or delete the line (the episode is then played again)"
                )
            records.append(record)
    return records


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and all(name in record for name in (*KEY, "status", "reward"))
    return record if whole and line.endswith(b"\n") else None


def _cut_torn_line(path: Path) -> int:
    # Only the last line can be torn: every earlier one was on disk before the next was begun.
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        data = file.read()
        if not data:
            return 0
        start = data.rfind(b"\n", 0, len(data) - 1) + 1
        if _record(data[start:]) is not None:
            return 0
        file.truncate(start)
        os.fsync(file.fileno())
        return len(data) - start


def _take_lock(path: Path):
    file = path.open("a+", encoding="utf-8")  # noqa: SIM115 (held while the store is open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"{path.parent} is in use by another run (process {holder}); two runs would write every episode twice; "
            "wait for it to end, or choose another folder"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
