"""Rows of local files: JSONL, a JSON list, or Parquet, one row at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from agenttuning.data.convert import Unreadable
from agenttuning.errors import UserError

SUFFIXES = (".jsonl", ".parquet", ".json")


def local_files(local: Path) -> list[Path]:
    """The data files at a path, sorted by name. Raises UserError if there are none."""
    files = [local] if local.is_file() else sorted(file for file in local.iterdir() if file.suffix in SUFFIXES)
    if not files or files[0].suffix not in SUFFIXES:
        raise UserError(
            f"{local} holds no {', '.join(SUFFIXES)} file; there are no rows to read; give a file or folder of those"
        )
    return files


def read_file(file: Path) -> Iterator[object]:
    """Yield the rows of one file; a line of JSONL that cannot be parsed as `Unreadable`. Raises UserError for a JSON
    list or Parquet file that is broken.
    """
    if file.suffix == ".parquet":
        yield from _parquet(file)
    elif file.suffix == ".json":
        yield from _json_array(file)
    else:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"line {number}")


def _parse(line: bytes, where: str) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"{where} is not valid JSON: {error}")


def _json_array(file: Path) -> Iterator[object]:
    # One element at a time: a whole ShareGPT file parsed at once takes several times its size in memory.
    decoder, place = json.JSONDecoder(), 0
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
        if not text.startswith("[") or not text.endswith("]"):
            raise ValueError("it is not a list of rows")
        while text[place] != "]":
            place = _skip_space(text, place + 1)
            if text[place] == "]":
                break
            row, place = decoder.raw_decode(text, place)
            yield row
            place = _skip_space(text, place)
            if text[place] not in ",]":
                raise ValueError(f"a comma was due at character {place}")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not a JSON list: {error}; its rows cannot be told apart; repair it or give JSONL"
        ) from error


def _skip_space(text: str, place: int) -> int:
    while text[place].isspace():
        place += 1
    return place


def _parquet(file: Path) -> Iterator[object]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read as Parquet: {error}; its rows are lost; repair or replace the file"
        ) from error


def file_digest(file: Path) -> str:
    """sha256 of a file, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
