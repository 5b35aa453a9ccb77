"""The rows of one source that can be drawn: its pieces together, without what the other rows or the recipe rule out.

`read_source` makes (or finds) the pieces, `settle` decides and counts. Every raw row ends in exactly one place: it can
be drawn, or it stands in quarantine (malformed) or in dropped (refused), with its reason.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from agenttuning.data.quarantine import Quarantine
from agenttuning.data.sources import read
from agenttuning.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    from agenttuning.data.records import Job, Rules


@dataclass(frozen=True)
class Read:
    """What was read of a source: its files of rows and one record for each raw row (memory-mapped)."""

    job: Job
    files: list[Path]
    records: pyarrow.Table


@dataclass
class Pool:
    """The rows of one source that can be drawn. `lengths` and `supervised` are tokens per row, `splits` the split of
    each; the counts are for the record.
    """

    name: str
    files: list[Path]
    quarantine: Quarantine
    lengths: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the raw rows from which they come
    overlong: int = 0  # conversations above max_length
    overlong_dropped: int = 0  # of those, the ones of which nothing is left
    supervised_read: int = 0  # supervised tokens before `overlong`
    dropped: list[dict] = field(default_factory=list)  # rows that were refused: source, split, id, reason
    defects: list[dict] = field(default_factory=list)  # rows with a known defect, kept or not
    taken: numpy.ndarray | None = None  # places of the rows in the files, where some rows there are not of the pool

    @property
    def supervised_lost(self) -> int:
        """Supervised tokens lost to `overlong`."""
        return self.supervised_read - sum(self.supervised)

    def dataset(self) -> Dataset:
        """The rows, memory-mapped."""
        from datasets import Dataset, concatenate_datasets

        whole = concatenate_datasets([Dataset.from_file(str(file)) for file in self.files])
        return whole if self.taken is None else whole.select(self.taken)


def read_source(job: Job, path: str | Path | None, processes: int) -> Read:
    """Make the pieces of a source in `processes` processes; those that lie in `job.folder` already are not made again.

    Raises UserError for a source that cannot be read and pieces that cannot be written, MaskError if a mask is wrong.
    """
    import pyarrow
    from tqdm import tqdm

    from agenttuning.data.pieces import work_off
    from agenttuning.data.records import RECORDS

    files, tables = [], [RECORDS.empty_table()]
    with tqdm(desc=f"encoding {job.card.name}", unit=" rows", disable=not sys.stderr.isatty()) as bar:
        for file, records in work_off(job, read(job.card, path), processes):
            files.append(file)
            tables.append(records)
            bar.update(records.num_rows)
    return Read(job, files, pyarrow.concat_tables(tables))


def settle(source: Read, refused: Mapping[int, dict] | None = None) -> Pool:
    """The pool of a source, without the conversations of `refused` ({number of the raw row: its reason, and more}).

    Raises UserError past `max_quarantined` or `max_overlong_loss`, and for a source of which nothing is left or whose
    tokens are all or none supervised.
    """
    name, rules = source.job.card.name, source.job.rules
    pool = Pool(name, source.files, Quarantine(name, source.records.num_rows))
    taken, headers, place = [], 0, 0
    for record, row in _conversations(source, refused or {}, pool):
        if record is not None:
            pool.supervised_read += record["supervised_read"]
            pool.overlong += record["overlong"]
            pool.overlong_dropped += record["overlong"] and not row
            pool.lengths += record["lengths"]
            pool.supervised += record["supervised"]
            pool.splits += [record["split"]] * row
            headers += record["bos"]
            taken.append(numpy.arange(place, place + row))
        place += row
    if len(pool.lengths) < place:
        pool.taken = numpy.concatenate(taken) if taken else numpy.zeros(0, dtype=numpy.int64)
    pool.quarantine.check(rules.max_quarantined)
    _check_dropped(pool)
    _check_overlong(pool, rules)
    check_supervised_share(name, sum(pool.lengths) - headers, sum(pool.supervised), rules.loss)
    return pool


def _conversations(source: Read, refused: Mapping[int, dict], pool: Pool) -> Iterator[tuple[dict | None, int]]:
    """(record, rows it has on disk) of each raw row; the record is None where the row is set aside, which is noted."""
    seen: set[str] = set()
    number = 0
    for batch in source.records.to_batches():
        for record in batch.to_pylist():
            what = {"source": pool.name, "split": record["split"], "id": record["id"]}
            known = record["converted"] and record["id"] in seen
            malformed = "the id appeared before in this source" if known else record["quarantined"]
            reason = {"reason": record["dropped"]} if record["dropped"] else refused.get(number)
            if record["converted"]:
                seen.add(record["id"])
            if record["defects"] and not known:
                pool.defects.append({**what, "defects": record["defects"]})
            if malformed:
                pool.quarantine.add(record["split"], record["id"], malformed)
            elif reason:
                pool.dropped.append({**what, **reason})
            if record["rows"] and not (malformed or reason):
                pool.numbers.append(number)
            yield None if malformed or reason else record, record["rows"]
            number += 1


def check_supervised_share(name: str, tokens: int, supervised_tokens: int, loss: str) -> None:
    """Raise UserError if none of a source's tokens (`<s>` not counted) are supervised, or all of them without `loss:
    all`.
    """
    if supervised_tokens == 0 or (supervised_tokens >= tokens and loss != "all"):
        share = "none" if supervised_tokens == 0 else "all"
        raise UserError(
            f"{name}: {share} of its {tokens} tokens are supervised under loss {loss!r}; the run would learn "
            f"{'nothing from it' if share == 'none' else 'the prompts too'}; check its flags, or the recipe's `loss`"
        )


def _check_dropped(pool: Pool) -> None:
    if not pool.dropped or len(pool.dropped) + len(pool.quarantine.records) < pool.quarantine.read:
        return
    reasons = Counter(record["reason"] for record in pool.dropped).most_common(3)
    raise UserError(
        f"{pool.name}: all of its {pool.quarantine.read} rows are dropped or malformed "
        f"({'; '.join(f'{count} x {reason}' for reason, count in reasons)}); nothing could be drawn from it; keep "
        f"these rows, or leave the source out"
    )


def _check_overlong(pool: Pool, rules: Rules) -> None:
    lost = pool.supervised_lost / pool.supervised_read if pool.supervised_read else 0.0
    if lost <= rules.max_overlong_loss and pool.lengths:
        return
    raise UserError(
        f"{pool.name}: {pool.overlong} of {pool.quarantine.read} conversations exceed max_length {rules.max_length}, "
        f"and overlong {rules.overlong!r} loses {lost:.1%} of the source's supervised tokens ({pool.supervised_lost} "
        f"of {pool.supervised_read}), more than max_overlong_loss {rules.max_overlong_loss:.1%}; the run would be "
        f"trained on the short conversations only; raise max_length, use overlong: split_at_turn, or raise "
        f"mixture.max_overlong_loss"
    )
