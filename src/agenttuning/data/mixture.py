"""Which row comes when: sources drawn by share, with replacement across epochs, seeded.

A share is a sampling ratio of conversations (Zeng et al. 2023, Eq. 1, as the authors explain it in issue 10), not a
loss weight and not a share of tokens. Each source is shuffled anew each epoch; `datasets.interleave_datasets` chooses
whose turn it is. The order is a function of seed, shares and source sizes, and a longer mixture begins with the shorter
one.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy

from agenttuning.data.pool import Pool
from agenttuning.errors import UserError


@dataclass(frozen=True)
class Order:
    """Draw i is row `rows[i]` of source `names[sources[i]]`."""

    names: list[str]
    sources: numpy.ndarray
    rows: numpy.ndarray

    def cut(self, draws: int) -> Order:
        """The first `draws` draws."""
        return Order(self.names, self.sources[:draws], self.rows[:draws])


def draw(sizes: dict[str, int], shares: dict[str, float], draws: int, seed: int) -> Order:
    """Draw exactly `draws` rows from sources of `sizes` rows; a source of share 0 is absent. Raises UserError for an
    empty source.
    """
    names = sorted(name for name, share in shares.items() if share > 0)
    for name in names:
        if sizes[name] < 1:
            raise UserError(
                f"the source {name} has no rows left; its share {shares[name]} cannot be drawn; check its counts"
            )
    total = sum(shares[name] for name in names)
    p = numpy.array([shares[name] / total for name in names])
    # Six standard deviations above the mean: a source never runs out before the last draw (and if it did, it would be
    # seen below).
    need = [math.ceil(draws * share + 6 * math.sqrt(draws * share * (1 - share))) + 1 for share in p]
    order = _interleave(names, [sizes[name] for name in names], need, p, seed).cut(draws)
    drawn = numpy.bincount(order.sources, minlength=len(names))
    if len(order.rows) != draws or any(drawn > need):
        raise RuntimeError(f"drew {drawn.tolist()} rows where {need} were laid out for {draws} draws")
    return order


def _interleave(names: list[str], sizes: list[int], need: list[int], p: numpy.ndarray, seed: int) -> Order:
    from datasets import Dataset, interleave_datasets

    laid_out = [
        Dataset.from_dict({"source": numpy.full(count, index), "row": _epochs(name, size, count, seed)})
        for index, (name, size, count) in enumerate(zip(names, sizes, need, strict=True))
    ]
    mixed = interleave_datasets(laid_out, probabilities=p.tolist(), seed=seed, stopping_strategy="all_exhausted")
    table = mixed.with_format("numpy")[:]
    return Order(names, table["source"], table["row"])


def _epochs(name: str, size: int, count: int, seed: int) -> numpy.ndarray:
    """`count` row numbers of a source: one permutation after another, each of its own stream."""
    salt = zlib.crc32(name.encode())
    epochs = [numpy.random.default_rng([seed, salt, epoch]).permutation(size) for epoch in range(-(-count // size))]
    return numpy.concatenate(epochs)[:count]


def draw_tokens(pools: dict[str, Pool], shares: dict[str, float], tokens: int, seed: int) -> Order:
    """Draw as many conversations as hold `tokens` tokens, measured on the rows drawn; the last completes the sum."""
    sizes = {name: len(pool.lengths) for name, pool in pools.items()}
    mean = sum(shares[name] * sum(pools[name].lengths) / max(1, sizes[name]) for name in pools)
    draws = math.ceil(1.05 * tokens / max(1.0, mean)) + 16
    while True:
        order = draw(sizes, shares, draws, seed)
        filled = numpy.cumsum(lengths_of(order, pools, "lengths"))
        if filled[-1] >= tokens:
            return order.cut(int(numpy.searchsorted(filled, tokens)) + 1)
        draws *= 2


def by_split(
    pools: dict[str, Pool],
    shares: dict[str, float],
    splits: dict[str, dict[str, float] | None],
    pick: Callable[[dict[str, Pool], dict[str, float]], Order],
) -> Order:
    """The order that `pick(pools, shares)` gives when each split with a share counts as a source of its own, told in
    the sources themselves. `splits` is {source: {split: share of this source}, or None for all rows alike}; the order
    of a mixture without any is `pick`'s own. Raises UserError for a split without rows.
    """
    parts: dict[str, Pool] = {}
    part_shares: dict[str, float] = {}
    origin: dict[str, tuple[str, numpy.ndarray]] = {}
    for name, pool in pools.items():
        if not splits.get(name):
            parts[name], part_shares[name] = pool, shares[name]
            origin[name] = (name, numpy.arange(len(pool.lengths)))
            continue
        for split, share in splits[name].items():
            label, rows = f"{name}/{split}", numpy.flatnonzero(numpy.array(pool.splits, dtype=object) == split)
            if not len(rows):
                raise UserError(
                    f"mixture.sources.{name}.splits gives {split!r} the share {share:g}, and none of its rows is left; "
                    f"nothing could be drawn; splits with rows: {', '.join(sorted(set(pool.splits))) or 'none'}"
                )
            parts[label] = replace(
                pool,
                lengths=[pool.lengths[row] for row in rows],
                supervised=[pool.supervised[row] for row in rows],
            )
            part_shares[label], origin[label] = shares[name] * share, (name, rows)
    order = pick(parts, part_shares)
    names = sorted({origin[label][0] for label in order.names})
    sources, drawn = numpy.empty_like(order.sources), numpy.empty_like(order.rows)
    for index, label in enumerate(order.names):
        here, (name, rows) = order.sources == index, origin[label]
        sources[here], drawn[here] = names.index(name), rows[order.rows[here]]
    return Order(names, sources, drawn)


def lengths_of(order: Order, pools: dict[str, Pool], column: str) -> numpy.ndarray:
    """Tokens (`column="lengths"`) or supervised tokens ("supervised") of each draw."""
    result = numpy.zeros(len(order.rows), dtype=numpy.int64)
    for index, name in enumerate(order.names):
        here = order.sources == index
        result[here] = numpy.asarray(getattr(pools[name], column), dtype=numpy.int64)[order.rows[here]]
    return result


def realised(order: Order, pools: dict[str, Pool], shares: dict[str, float]) -> dict[str, dict]:
    """Per source: rows available, share asked and realised (by conversation and by token), draws, epochs, tokens, what
    was lost.
    """
    tokens, labelled = lengths_of(order, pools, "lengths"), lengths_of(order, pools, "supervised")
    record = {}
    for index, name in enumerate(order.names):
        pool, here = pools[name], order.sources == index
        draws = int(here.sum())
        record[name] = {
            "rows_read": pool.quarantine.read,
            "quarantined": len(pool.quarantine.records),
            "dropped": dict(sorted(Counter(record["reason"] for record in pool.dropped).items())),
            "defects": dict(sorted(Counter(name for record in pool.defects for name in record["defects"]).items())),
            "overlong": pool.overlong,
            "overlong_dropped": pool.overlong_dropped,
            "supervised_tokens_lost": pool.supervised_lost,
            "rows": len(pool.lengths),
            "share_asked": shares[name],
            "share_realised": draws / len(order.rows),
            "share_of_tokens": float(tokens[here].sum() / tokens.sum()),
            "share_of_supervised_tokens": float(labelled[here].sum() / labelled.sum()),
            "draws": draws,
            "rows_drawn": len(numpy.unique(order.rows[here])),
            "epochs": draws / len(pool.lengths),
            "tokens": int(tokens[here].sum()),
            "supervised_tokens": int(labelled[here].sum()),
            "draws_of_splits": dict(sorted(Counter(pool.splits[row] for row in order.rows[here].tolist()).items())),
        }
    return record
