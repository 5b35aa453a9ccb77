"""An append-only file of records that survives a kill at any instant, one JSON object a line, found again by `key`.

A key says all that decides a record, so that one made under other rules, by other weights or about another text is not
found and does no harm: nothing is ever put aside. Whoever writes holds data.folders.alone_in of the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from agenttuning.data.folders import sync
from agenttuning.errors import UserError

log = logging.getLogger(__name__)


def key_of(*parts: object) -> str:
    """sha256, in hex, of what decides a record."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


class Journal:
    """A context manager. durable: a record is on disk when `append` returns, whatever happens to the machine; else it
    is with the system, which a kill of this process does not harm, and is synced when the journal is closed.

    Raises UserError for a line that is no record, unless it is the last one, half written: that one is cut off, and
    what it said is asked again.
    """

    def __init__(self, path: Path, durable: bool = True) -> None:
        self.path, self.durable = path, durable
        path.parent.mkdir(parents=True, exist_ok=True)
        self._by_key: dict[str, list[dict]] = {}
        for record in self._whole():
            self._by_key.setdefault(record["key"], []).append(record)
        self._file = path.open("ab", buffering=0)
        sync(path.parent)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sync and close the file."""
        os.fsync(self._file.fileno())
        self._file.close()

    def of(self, key: str) -> list[dict]:
        """The records of a key, in the order written."""
        return self._by_key.get(key, [])

    def append(self, record: dict) -> None:
        """Write one record. Raises UserError, the file as before, where it cannot."""
        try:
            write_whole(self._file.fileno(), (json.dumps(record) + "\n").encode("ascii"), self.durable)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror or error}); what was just answered is lost, the rest "
                "is kept; make room and type the same command"
            ) from error
        self._by_key.setdefault(record["key"], []).append(record)

    def _whole(self) -> list[dict]:
        if not self.path.exists():
            return []
        if lost := cut_torn(self.path, lambda line: _record(line) is not None):
            log.warning("%s: cut off %d bytes that the last run had not finished", self.path, lost)
        lines = self.path.read_bytes().splitlines(keepends=True)
        records = [_record(line) for line in lines]
        if None in records:
            raise UserError(
                f"{self.path}, line {records.index(None) + 1} is no record; what it says would be missing; restore the "
                "file, or delete the line (it is then asked again)"
            )
        return records


def write_whole(handle: int, lines: bytes, durable: bool = True) -> None:
    """Append lines to an open file, all or none of them. Raises OSError, the file as before."""
    end = os.fstat(handle).st_size
    try:
        while lines:
            lines = lines[os.write(handle, lines) :]
        if durable:
            os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, end)  # half a line would spoil the next one
        raise


def cut_torn(path: Path, is_record: Callable[[bytes], bool]) -> int:
    """Cut off what a write that was not finished left at the end of a file of lines; how many bytes that were.

    After a kill only the last line can be torn. After a power cut, any block of what the last write handed over may
    hold zeros, which no record does: that write and so all lines from there on were not yet said to be on disk.
    """
    with path.open("r+b") as file:
        data = file.read()
        zero = data.find(b"\0")
        start = data.rfind(b"\n", 0, zero if zero >= 0 else max(len(data) - 1, 0)) + 1
        if not data or (zero < 0 and is_record(data[start:])):
            return 0
        file.truncate(start)
        os.fsync(file.fileno())
        return len(data) - start


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("key"), str)
    return record if whole and line.endswith(b"\n") else None
