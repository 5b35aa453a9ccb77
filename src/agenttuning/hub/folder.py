"""The folder that goes to the Hub: Parquet files, the card, and the records of the build."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.hub.staged import CARD, new

if TYPE_CHECKING:
    from agenttuning.data.prepare import Prepared

RECORDS = ("mixture.json", "manifest.json", "quarantine.jsonl", "dropped.jsonl")  # those that the build wrote
ROWS = "data/train-{place:05d}-of-{files:05d}.parquet"
ROWS_PATTERN = "data/train-*-of-*.parquet"
FILE_BYTES = 1 << 29  # of Arrow a file: about the size of the Hub's own Parquet files


def owned(name: str) -> bool:
    """Whether a push of data made this file of the repository, so that the next one may delete it."""
    return name in RECORDS or fnmatch(name, ROWS_PATTERN)


def records(prepared: Prepared) -> list[tuple[str, str]]:
    """(name, text) of the records that go along."""
    there = [prepared.path / name for name in RECORDS]
    return [(path.name, path.read_text(encoding="utf-8")) for path in there if path.is_file()]


def stage(prepared: Prepared, card: str, folder: Path) -> Path:
    """Write the folder, whole or not at all. The same data and card give the same bytes under the same pyarrow.
    Raises UserError when it cannot be written.
    """
    with new(folder) as partial:
        (partial / "data").mkdir()
        _write_rows(prepared, partial)
        for name, text in records(prepared):
            (partial / name).write_text(text, encoding="utf-8")
        (partial / CARD).write_text(card, encoding="utf-8")
    return folder


def _write_rows(prepared: Prepared, folder: Path) -> None:
    from datasets.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    rows = prepared.load()
    files = max(1, -(-rows.data.nbytes // FILE_BYTES))
    for place in range(files):
        part = rows.shard(files, place, contiguous=True)
        part.to_parquet(str(folder / ROWS.format(place=place, files=files)))
