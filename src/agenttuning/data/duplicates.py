"""Conversations that a mixture holds twice, word for word or nearly.

Exact: the same roles and texts, `digest`. Near: as alike as the threshold or more in each view of data/minhash.py,
`signature`. `find` walks the rows in order and drops a row only for one that is kept: where A and B, and B and C, but
not A and C are near, B goes and C stays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy

from agenttuning.data.minhash import BASE, EMPTY, NUM_PERM, VIEWS, agreeing, signature, words

__all__ = ["NUM_PERM", "VIEWS", "digest", "find", "signature"]


def digest(messages: list[dict]) -> bytes:
    """16 bytes, equal for conversations of the same roles and texts.

    Texts are compared after unicode NFC, with every run of white space as one space and none at the ends; letter case
    and punctuation count, loss flags do not.
    """
    state = hashlib.blake2b(digest_size=16)
    for message in messages:
        for part in (message["role"], " ".join(words(message["content"]))):
            data = part.encode("utf-8", "surrogatepass")
            state.update(len(data).to_bytes(8, "little"))  # so that no text can pass for the end of a turn
            state.update(data)
    return state.digest()


def find(digests: Sequence[bytes], signatures: numpy.ndarray | None, threshold: float) -> list[int | None]:
    """For each row the earlier kept row that it duplicates, or None where it is kept itself.

    signatures: (rows, VIEWS x NUM_PERM) uint32, or None for exact duplicates only. Of several near rows the most
    similar is named, of equally similar ones the first; an exact one before all. A row of fewer words than a shingle is
    near the same words alone, a row of none is compared exactly only. threshold: in (0, 1], the least estimated
    similarity; ValueError outside or where the lengths differ.
    """
    if not 0 < threshold <= 1 or (signatures is not None and signatures.shape != (len(digests), VIEWS * NUM_PERM)):
        raise ValueError(f"threshold {threshold}, {len(digests)} digests, signatures {numpy.shape(signatures)}")
    bands = None if signatures is None else _Bands(signatures, threshold)
    kept: dict[bytes, int] = {}
    found: list[int | None] = []
    for row, key in enumerate(digests):
        earlier = kept.get(key)
        if earlier is None and bands is not None:
            earlier = bands.nearest(row)
        if earlier is None:
            kept[key] = row
            if bands is not None:
                bands.keep(row)
        found.append(earlier)
    return found


def band_shape(threshold: float) -> tuple[int, int, int]:
    """(values of a sketch that must agree, values in a band, bands): 103, 4, 32 at 0.8.

    Two sketches that pass differ in at most m = NUM_PERM - needed values. With more than m bands one band agrees
    whole, so no pair is missed and the search equals comparing all with all. At 0.8 rows of true similarity J meet as
    candidates with probability 1 - (1 - J**4)**32: 0.003 at 0.1, 0.05 at 0.2, 0.23 at 0.3, 0.87 at 0.5, 0.99 at 0.6.
    """
    needed = math.ceil(threshold * NUM_PERM)  # exact: NUM_PERM is a power of two
    width = NUM_PERM // (NUM_PERM - needed + 1)
    return needed, width, NUM_PERM // width


class _Bands:
    """The rows kept so far, by the bands of their task views, which are the least alike between different rows.

    A band that no other row has is left out beforehand, so most rows cost nothing. A bucket holds kept rows alone, so
    thousands of copies of one row fill one place of it; and a candidate must agree in as many whole bands as the
    allowed differences leave, so a bucket of rows that only begin alike costs a count and no comparison. The dictionary
    of datasketch.MinHashLSH has none of this; benchmarks/duplicates.py compares them.
    """

    def __init__(self, signatures: numpy.ndarray, threshold: float) -> None:
        self.needed, width, bands = band_shape(threshold)
        self.least = bands - (NUM_PERM - self.needed)
        self.signatures = signatures
        task = signatures[:, NUM_PERM : 2 * NUM_PERM]
        has_text = numpy.nonzero((task != EMPTY).any(axis=1))[0]
        self.buckets = numpy.full((len(signatures), bands), -1, dtype=numpy.int32)
        sizes = [numpy.zeros(0, dtype=numpy.int64)]
        total = 0
        for band in range(bands):
            keys = numpy.zeros(len(has_text), dtype=numpy.uint64)
            for column in range(band * width, (band + 1) * width):
                keys *= BASE
                keys += task[has_text, column]
            _, bucket, size = numpy.unique(keys, return_inverse=True, return_counts=True)
            shared = size > 1
            numbers = numpy.where(shared, numpy.cumsum(shared) - 1 + total, -1)
            self.buckets[has_text, band] = numbers[bucket]
            sizes.append(size[shared])
            total += int(shared.sum())
        ends = numpy.cumsum(numpy.concatenate(sizes))
        self.begins = numpy.concatenate([[0], ends]).astype(numpy.int64)
        self.fills = self.begins[:-1].copy()
        self.members = numpy.zeros(self.begins[-1], dtype=numpy.int32)

    def _of(self, row: int) -> numpy.ndarray:
        return self.buckets[row][self.buckets[row] >= 0]

    def keep(self, row: int) -> None:
        mine = self._of(row)
        self.members[self.fills[mine]] = row
        self.fills[mine] += 1

    def nearest(self, row: int) -> int | None:
        mine = self._of(row)
        parts = [self.members[self.begins[bucket] : self.fills[bucket]] for bucket in mine]
        if not parts:
            return None
        rows, whole = numpy.unique(numpy.concatenate(parts), return_counts=True)
        rows = rows[whole >= self.least]
        if not len(rows):
            return None
        equal = agreeing(self.signatures[rows], self.signatures[row])
        return int(rows[equal.argmax()]) if equal.max() >= self.needed else None
