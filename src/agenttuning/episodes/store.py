"""An append-only file of episodes that survives a kill at any instant.

`episodes.jsonl` holds one record a line. One thread writes: it takes all records that wait, writes them with one call
and one fsync, and only then says so, so that many episodes which end at once share the wait for the disk. The key of a
record is the values of KEY. A key has at most one record with a result of the model; records of infrastructure failures
may precede it. `lock` is held (fcntl) while the store is open.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import threading
from concurrent.futures import Future
from pathlib import Path

from agenttuning.data.folders import sync
from agenttuning.data.journal import cut_torn, write_whole
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

    `torn` is the number of bytes at the end which were not written to the end and were cut off at opening (0 after a
    clean end). `rules` is a digest of all that decides how an episode goes and that no key says: episodes which were
    played by others are kept in episodes.before-N.jsonl, and not taken for results. Raises UserError when another
    process has the folder open, or when another line is unreadable.
    """

    def __init__(self, folder: str | Path, rules: str | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self.folder / LOCK)
        try:
            if rules is not None:
                _put_aside(self.folder, rules)
            self.path = self.folder / FILE
            there = self.path.exists()
            self.torn = cut_torn(self.path, lambda line: _record(line) is not None) if there else 0
            if self.torn:
                log.warning("%s: cut off %d bytes of a record that the last run had not finished", self.path, self.torn)
            self._latest = {key_of(record): record for record in read(self.path)}
            self._file = self.path.open("ab", buffering=0)
            sync(self.folder)
            self._queue: queue.SimpleQueue[tuple[dict, bytes, Future] | None] = queue.SimpleQueue()
            self._writer = threading.Thread(target=self._write_on, name=f"writer of {self.path}", daemon=True)
            self._writer.start()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, close the file and give the lock back."""
        self._queue.put(None)
        self._writer.join()
        self._file.close()
        self._lock.close()

    def result(self, key: tuple) -> dict | None:
        """The record of `key` if it is a result of the model, else None: the episode is to be played."""
        record = self._latest.get(key)
        return record if record is not None and status.is_result(record["status"]) else None

    def append(self, record: dict) -> None:
        """Write one record; it is on disk when this returns. Raises as `submit`'s future does."""
        self.submit(record).result()

    def submit(self, record: dict) -> Future:
        """A future that is done when the record is on disk. It raises ValueError when the record's key already has a
        result, OSError when it could not be written; the file is then as it was before.
        """
        future: Future = Future()
        future.set_running_or_notify_cancel()  # a record that was handed over is written
        self._queue.put((record, (json.dumps(record) + "\n").encode("ascii"), future))
        return future

    def _write_on(self) -> None:
        going = True
        while going:
            entries = [self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get())
            going = None not in entries
            self._commit([entry for entry in entries if entry is not None])

    def _commit(self, entries: list[tuple[dict, bytes, Future]]) -> None:
        fresh: dict[tuple, dict] = {}
        lines, futures = [], []
        for record, line, future in entries:
            key = key_of(record)
            known = fresh.get(key) or self._latest.get(key)
            if known is not None and status.is_result(known["status"]):
                future.set_exception(ValueError(f"episode {'/'.join(map(str, key))} already has a result"))
                continue
            fresh[key] = record
            lines.append(line)
            futures.append(future)
        try:
            if lines:
                write_whole(self._file.fileno(), b"".join(lines))
        except BaseException as error:
            for future in futures:
                future.set_exception(error)
            return
        self._latest |= fresh
        for future in futures:
            future.set_result(None)


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


def _put_aside(folder: Path, rules: str) -> None:
    note, episodes = folder / "rules.txt", folder / FILE
    if note.exists() and note.read_text().strip() == rules:
        return
    if episodes.exists():
        number = next(n for n in range(1, 10_000) if not (folder / f"episodes.before-{n}.jsonl").exists())
        episodes.rename(folder / f"episodes.before-{number}.jsonl")
        print(
            f"{folder}: items, environment, protocol or chat format have changed; earlier episodes are now in "
            f"episodes.before-{number}.jsonl"
        )
    part = note.with_suffix(".part")  # a note that is half written would put good episodes aside
    part.write_text(rules + "\n")
    part.replace(note)


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
