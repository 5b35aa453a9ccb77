"""One source, read once: each conversation converted, encoded, verified, fitted to max_length, and written to Arrow."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import encode_many, verify
from agenttuning.data.overlong import fit, supervised
from agenttuning.data.quarantine import Quarantine, rows
from agenttuning.data.sources import SourceCard
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

Filter = Callable[[dict], str | None]  # a converted row -> None to keep it, or the reason to drop it
BATCH = 256  # conversations per tokenizer call


@dataclass(frozen=True)
class Rules:
    """How conversations become rows; the recipe's own values."""

    loss: str
    max_length: int
    overlong: str
    system_prompt: str | None
    max_quarantined: float
    max_overlong_loss: float


@dataclass
class Pool:
    """The rows of one source that can be drawn. `lengths` and `supervised` are tokens per row; the counts are for the
    record.
    """

    name: str
    file: Path
    quarantine: Quarantine
    lengths: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    overlong: int = 0  # conversations above max_length
    overlong_dropped: int = 0  # of those, the ones of which nothing is left
    supervised_read: int = 0  # supervised tokens before `overlong`
    dropped: list[dict] = field(default_factory=list)  # rows that a filter refused: source, split, id, reason
    splits: list[str] = field(default_factory=list)  # the split of each row

    @property
    def supervised_lost(self) -> int:
        """Supervised tokens lost to `overlong`."""
        return self.supervised_read - sum(self.supervised)

    def dataset(self) -> Dataset:
        """The rows, memory-mapped."""
        from datasets import Dataset

        return Dataset.from_file(str(self.file))


def build_pool(
    card: SourceCard,
    path: str | Path | None,
    tokenizer: PreTrainedTokenizerFast,
    rules: Rules,
    folder: Path,
    filters: Iterable[Filter] = (),
) -> Pool:
    """Read and encode a source into `folder`, without the rows that one of `filters` refuses.

    Raises UserError past `max_quarantined` or `max_overlong_loss`, for a source of which nothing is left or whose
    tokens are all or none supervised, and MaskError if a mask is wrong.
    """
    import pyarrow
    from tqdm import tqdm

    pool = Pool(card.name, folder / f"{card.name}.arrow", Quarantine(card.name))
    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema(
        [("input_ids", ids), ("labels", ids), ("source", pyarrow.string()), ("id", pyarrow.string())]
    )
    source = _kept(rows(card, path, pool.quarantine), tuple(filters), pool)
    headers = 0
    with (
        pyarrow.ipc.new_stream(str(pool.file), schema) as out,
        tqdm(desc=f"encoding {card.name}", unit=" rows", disable=not sys.stderr.isatty()) as bar,
    ):
        while batch := list(islice(source, BATCH)):
            columns: dict[str, list] = {name: [] for name in schema.names}
            conversations = [row["messages"] for row in batch]
            encoded = encode_many(conversations, tokenizer, rules.loss, rules.system_prompt)
            for row, whole in zip(batch, encoded, strict=True):
                _add(pool, row, whole, tokenizer, rules, columns)
            out.write_batch(pyarrow.record_batch(list(columns.values()), schema=schema))
            headers += sum(piece.count(tokenizer.bos_token_id) for piece in columns["input_ids"])
            bar.update(len(batch))
    pool.quarantine.check(rules.max_quarantined)
    _check_dropped(pool)
    _check_overlong(pool, rules)
    check_supervised_share(card.name, sum(pool.lengths) - headers, sum(pool.supervised), rules.loss)
    return pool


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


def keep_splits(names: Collection[str]) -> Filter:
    """A filter that drops the rows of every split but `names`."""
    return lambda row: None if row["split"] in names else f"split {row['split']} has no share"


def _kept(source: Iterator[dict], filters: tuple[Filter, ...], pool: Pool) -> Iterator[dict]:
    for row in source:
        reason = next((reason for reason in (refuse(row) for refuse in filters) if reason is not None), None)
        if reason is None:
            yield row
        else:
            pool.dropped.append({"source": pool.name, "split": row["split"], "id": row["id"], "reason": reason})


def _check_dropped(pool: Pool) -> None:
    if not pool.dropped or len(pool.dropped) + len(pool.quarantine.records) < pool.quarantine.read:
        return
    reasons = Counter(record["reason"] for record in pool.dropped).most_common(3)
    raise UserError(
        f"{pool.name}: all of its {pool.quarantine.read} rows are dropped or malformed "
        f"({'; '.join(f'{count} x {reason}' for reason, count in reasons)}); nothing could be drawn from it; keep "
        f"these rows, or leave the source out"
    )


def _add(pool: Pool, row: dict, whole, tokenizer, rules: Rules, columns: dict[str, list]) -> None:
    if not whole.spans:
        pool.quarantine.add(row["split"], row["id"], f"no supervised turn under loss {rules.loss!r}")
        return
    verify(whole, row["messages"], tokenizer)
    pool.supervised_read += supervised(whole)
    pieces = fit(whole, row["messages"], tokenizer, rules.max_length, rules.overlong, rules.system_prompt)
    if len(whole.input_ids) > rules.max_length:
        pool.overlong += 1
        pool.overlong_dropped += not pieces
    for number, (piece, messages) in enumerate(pieces):
        if piece is not whole and rules.overlong == "split_at_turn":
            verify(piece, messages, tokenizer)
        columns["input_ids"].append(piece.input_ids)
        columns["labels"].append(piece.labels)
        columns["source"].append(pool.name)
        columns["id"].append(row["id"] if len(pieces) == 1 else f"{row['id']}#{number}")
        pool.splits.append(row["split"])
        pool.lengths.append(len(piece.input_ids))
        pool.supervised.append(supervised(piece))


def _check_overlong(pool: Pool, rules: Rules) -> None:
    lost = pool.supervised_lost / pool.supervised_read if pool.supervised_read else 0.0
    if lost <= rules.max_overlong_loss and pool.lengths:
        return
    raise UserError(
        f"{pool.name}: {pool.overlong} of {pool.quarantine.read} conversations exceed max_length {rules.max_length}, "
        f"and overlong "
        f"{rules.overlong!r} loses {lost:.1%} of the source's supervised tokens ({pool.supervised_lost} of "
        f"{pool.supervised_read}), more "
        f"than max_overlong_loss {rules.max_overlong_loss:.1%}; the run would be trained on the short conversations "
        f"only; raise "
        "max_length, use overlong: split_at_turn, or raise mixture.max_overlong_loss"
    )
