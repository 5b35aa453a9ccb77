"""A source, cut into pieces of PIECE raw rows: any process works on any piece, and what is finished is not made again.

A piece is two Arrow files, NUMBER.rows.arrow and NUMBER.records.arrow (data/records.py has the columns). The records
are written last and say that the piece is whole; a build that was killed finds its finished pieces and goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import pyarrow

from agenttuning.data.language import Language
from agenttuning.data.records import Job, work
from agenttuning.errors import UserError

PIECE = 512  # raw rows: some MB to hand over, about a second of work
PIECE_CHARACTERS = 32_000_000  # a piece also ends here, so that rows of a megabyte do not fill the memory

Piece = tuple[int, int, list[tuple[str, object]]]  # its number, the number of its first raw row, (split, raw row)s


def work_off(job: Job, raws: Iterator[tuple[str, object]], processes: int) -> Iterator[tuple[Path, pyarrow.Table]]:
    """Yield (file of rows, records) of each piece of the source, in order. `raws` yields (split, raw row).

    Raises UserError if a piece cannot be written or a worker process died, MaskError if a mask is wrong.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    pieces = _cut(raws)
    first = list(islice(pieces, 2))
    alone = processes < 2 or len(first) < 2 or not hasattr(os, "fork")
    pieces = chain(first, pieces)
    yield from _here(job, pieces) if alone else _in_workers(job, pieces, processes)


def _cut(raws: Iterator[tuple[str, object]]) -> Iterator[Piece]:
    number = start = size = 0
    piece: list[tuple[str, object]] = []
    for raw in raws:
        piece.append(raw)
        size += _characters(raw[1])
        if len(piece) == PIECE or size >= PIECE_CHARACTERS:
            yield number, start, piece
            number, start, size, piece = number + 1, start + len(piece), 0, []
    if piece:
        yield number, start, piece


def _characters(raw: object) -> int:
    """Those of the turns, which every format holds as a list of mappings."""
    lists = [value for value in raw.values() if isinstance(value, list)] if isinstance(raw, dict) else []
    turns = [turn for turns in lists for turn in turns if isinstance(turn, dict)]
    return sum(len(text) for turn in turns for text in turn.values() if isinstance(text, str))


def _here(job: Job, pieces: Iterator[Piece]) -> Iterator[tuple[Path, pyarrow.Table]]:
    foreign = Language(job.card.language) if job.card.language else None
    for number, start, raws in pieces:
        records = finished(job, number, len(raws))
        yield _file(job, number, "rows"), _make(job, foreign, number, start, raws) if records is None else records


def _in_workers(job: Job, pieces: Iterator[Piece], processes: int) -> Iterator[tuple[Path, pyarrow.Table]]:
    # fork: a worker begins in milliseconds, with the tokenizer that is loaded already. None of them touches a GPU.
    pool = ProcessPoolExecutor(processes, get_context("fork"), _begin, (job,))
    waiting: list[tuple[int, int, Future | pyarrow.Table]] = []
    try:
        for number, start, raws in pieces:
            records = finished(job, number, len(raws))
            made = pool.submit(_make_in_worker, number, start, raws) if records is None else records
            waiting.append((number, len(raws), made))
            if len(waiting) > 2 * processes:  # what is read ahead stays bounded
                yield _collect(job, *waiting.pop(0))
        while waiting:
            yield _collect(job, *waiting.pop(0))
    except BrokenProcessPool as error:
        raise UserError(
            f"{job.card.name}: a worker process was killed, usually because memory ran out; its rows would be missing; "
            f"start again with a smaller dataset_num_proc (now {processes}); finished pieces are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(job: Job, number: int, rows: int, made: Future | pyarrow.Table) -> tuple[Path, pyarrow.Table]:
    if isinstance(made, Future):
        made.result()
        made = finished(job, number, rows)
    if made is None:
        raise UserError(
            f"piece {number} of {job.card.name} is gone from {job.folder}; its rows would be missing; start again"
        )
    return _file(job, number, "rows"), made


_of_worker: tuple[Job, Language | None]  # set once in each worker process


def _begin(job: Job) -> None:
    global _of_worker
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the build ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _of_worker = (job, Language(job.card.language) if job.card.language else None)


def _end_with_parent() -> None:
    # A worker of a killed build would wait for work for ever, and hold the build's lock.
    wait([parent_process().sentinel])
    os._exit(1)


def _make_in_worker(number: int, start: int, raws: list[tuple[str, object]]) -> None:
    _make(*_of_worker, number, start, raws)


def _make(job: Job, foreign: Language | None, number: int, start: int, raws: list[tuple[str, object]]) -> pyarrow.Table:
    rows, records = work(job, foreign, start, raws)
    try:
        _write(_file(job, number, "rows"), rows)
        _write(_file(job, number, "records"), records)
    except OSError as error:
        raise UserError(
            f"piece {number} of {job.card.name} could not be written to {job.folder} ({error.strerror or error}); its "
            f"rows would be missing; make room there and start again: finished pieces are kept"
        ) from error
    return records


def finished(job: Job, number: int, rows: int) -> pyarrow.Table | None:
    """The records of a piece of `rows` raw rows if it is whole on disk, else None."""
    try:
        records = _read(_file(job, number, "records"))
        drawable = _read(_file(job, number, "rows")).num_rows
    except (OSError, pyarrow.ArrowException):
        return None  # absent or damaged: made again
    return records if records.num_rows == rows and sum(records["rows"].to_pylist()) == drawable else None


def _file(job: Job, number: int, kind: str) -> Path:
    return job.folder / f"{number:06d}.{kind}.arrow"


def _read(file: Path) -> pyarrow.Table:
    with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
        return stream.read_all()


def _write(file: Path, table: pyarrow.Table) -> None:
    """Whole or not at all: the name appears when the content is there."""
    partial = file.with_name(f".{file.name}.tmp")
    with pyarrow.OSFile(str(partial), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    partial.replace(file)
