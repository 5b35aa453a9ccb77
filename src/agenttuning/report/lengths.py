"""How long the rows of a built mixture are, and how well they fill the blocks that they are packed into."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset

BINS = 32
BATCH = 10_000  # rows per read; only the offsets of their lists are touched
PACKED_TOGETHER = 1000  # rows that trl.pack_dataset packs at a time: the batch of datasets.Dataset.map
ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def read_lengths(rows: Dataset) -> tuple[list[str], numpy.ndarray, numpy.ndarray]:
    """Names of the sources in alphabetical order; then for each row the number of its source and its tokens."""
    import numpy

    names: dict[str, int] = {}
    sources, lengths = [numpy.zeros(0, dtype=numpy.int64)], [numpy.zeros(0, dtype=numpy.int64)]
    for table in rows.select_columns(["input_ids", "source"]).with_format("arrow").iter(BATCH):
        lengths.append(table["input_ids"].combine_chunks().value_lengths().to_numpy().astype(numpy.int64))
        sources.append(numpy.array([names.setdefault(name, len(names)) for name in table["source"].to_pylist()], int))
    order = sorted(names)
    place = numpy.array([order.index(name) for name in names], dtype=numpy.int64)
    numbers = numpy.concatenate(sources)
    return order, place[numbers] if len(numbers) else numbers, numpy.concatenate(lengths)


def histograms(names: list[str], sources: numpy.ndarray, lengths: numpy.ndarray) -> dict[str, Any] | None:
    """One histogram a source over the same BINS equal bins, from 0 to a round number above the longest row; each bar is
    as high as its share of the source's rows, beside the highest bar of all sources. None where there are no rows.
    """
    import numpy

    if not len(lengths):
        return None
    top = _round_up(int(lengths.max()))
    edges = numpy.linspace(0, top, BINS + 1)
    counted = {name: lengths[sources == number] for number, name in enumerate(names)}
    counts = {name: numpy.histogram(own, edges)[0] for name, own in counted.items()}
    highest = max(float(numbers.max()) / len(counted[name]) for name, numbers in counts.items())
    parts = {}
    for name, own in counted.items():
        quantiles = numpy.percentile(own, [50, 90, 100], method="inverted_cdf").astype(int).tolist()
        bars = [
            {
                "from": int(numpy.ceil(edges[place])),
                "to": int(numpy.ceil(edges[place + 1])) - (place < BINS - 1),
                "rows": int(number),
                "share": float(number) / len(own),
                "height": 100 * float(number) / len(own) / highest,
            }
            for place, number in enumerate(counts[name])
        ]
        parts[name] = {
            "rows": len(own),
            "bars": bars,
            **dict(zip(("median", "p90", "longest"), quantiles, strict=True)),
        }
    return {"sources": parts, "top": top, "ticks": [top * part // 4 for part in range(5)], "highest": highest}


def _round_up(value: int) -> int:
    """The smallest multiple of 4 that is a round number and at least `value`; powers of two count as round."""
    power = 1 << max(2, (value - 1).bit_length())
    scale = 10 ** max(0, len(str(value)) - 1)
    decimal = (int(part * scale) for part in ROUND if part * scale >= value and int(part * scale) % 4 == 0)
    return min(power, next(decimal, power))


def packed_blocks(lengths: numpy.ndarray, block: int) -> int:
    """Blocks of `block` tokens that rows of these lengths fill, packed as trl.pack_dataset does it under `bfd`: best
    fit, the longest first, within each 1,000 rows. A test holds it to TRL's own count.
    """
    blocks = 0
    for start in range(0, len(lengths), PACKED_TOGETHER):
        free: list[int] = []  # room left in the open blocks, ascending
        for length in sorted(lengths[start : start + PACKED_TOGETHER].tolist(), reverse=True):
            place = bisect_left(free, length)
            room = free.pop(place) if place < len(free) else block
            blocks += room == block
            if room > length:
                insort(free, room - length)
    return blocks
