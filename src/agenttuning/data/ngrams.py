"""Which tokens of some texts also stand, in the same order, in others: Llama-2's rule for contamination, exactly.

A span of a tested text is contaminated when it equals a span of a training text, where its first `N` tokens are equal
and behind them at most `BUDGET` tokens differ, the last one being equal (Touvron et al. 2023, arXiv 2307.09288,
appendix A.6: "matched spans ... may differ in at most four positions", "no trailing mismatches, or mismatches in the
first N tokens"). AgentTuning's appendix B says "10-gram" and "up to 4 mismatched tokens" and no more, which is read as
this rule. All tokens of such a span count, the differing ones too. No span crosses the end of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy

N, BUDGET = 10, 4
BASE = numpy.uint64(0x9E3779B97F4A7C15)  # odd, so that every token moves all higher bits
PAIRS = 1 << 21  # pairs of equal windows looked at in one go: a text of one repeated word has very many
ROOM = 32  # entries of the first filter for each window, of which one is set: one in 32 others passes by chance


@dataclass(frozen=True)
class Texts:
    """Texts as one int32 array of token ids; text i is tokens[starts[i]:starts[i + 1]]."""

    tokens: numpy.ndarray
    starts: numpy.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Texts:
        """Put lists of token ids one behind the other."""
        lengths = numpy.fromiter(map(len, texts), dtype=numpy.int64, count=len(texts))
        parts = [numpy.asarray(text, dtype=numpy.int32) for text in texts if len(text)]
        tokens = numpy.concatenate(parts) if parts else numpy.zeros(0, dtype=numpy.int32)
        return cls(tokens, numpy.concatenate([[0], numpy.cumsum(lengths)]))

    def ends(self) -> numpy.ndarray:
        """For each token the position behind the end of its text."""
        return numpy.repeat(self.starts[1:], numpy.diff(self.starts))

    def windows(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Positions at which N tokens of one text begin, and a 64-bit hash of each."""
        count = len(self.tokens) - N + 1
        if count < 1:
            return numpy.zeros(0, dtype=numpy.int64), numpy.zeros(0, dtype=numpy.uint64)
        hashes = numpy.zeros(count, dtype=numpy.uint64)
        wide = self.tokens.astype(numpy.uint64) + numpy.uint64(1)
        for offset in range(N):
            hashes *= BASE
            hashes += wide[offset : offset + count]
        hashes ^= hashes >> numpy.uint64(29)
        hashes *= BASE
        inside = numpy.arange(count) + N <= self.ends()[:count]
        positions = numpy.nonzero(inside)[0]
        return positions, hashes[positions]


@dataclass(frozen=True)
class Spans:
    """Contaminated spans: tested[i] .. tested[i] + lengths[i] of the tested tokens, from trained[i] of the others."""

    tested: numpy.ndarray
    trained: numpy.ndarray
    lengths: numpy.ndarray


class Index:
    """The windows of the tested texts, to be looked up by the windows of one batch of training texts after another."""

    def __init__(self, texts: Texts) -> None:
        self.texts, self.ends = texts, texts.ends()
        positions, hashes = texts.windows()
        order = numpy.argsort(hashes, kind="stable")
        self.positions, self.hashes = positions[order], hashes[order]
        bits = max(16, int(ROOM * max(1, len(hashes)) - 1).bit_length())
        self.shift = numpy.uint64(64 - bits)
        self.filter = numpy.zeros(1 << bits, dtype=bool)
        self.filter[hashes >> self.shift] = True

    def spans(self, trained: Texts) -> Spans:
        """Every maximal run of equal tokens of at least N, with what may follow it by the rule, as one span each. (A
        run of which `PAIRS` cuts the pairs in two is there twice, the second time without its beginning.)
        """
        ends = trained.ends()
        parts = [self._spans(trained, ends, tested, found) for tested, found in self._pairs(trained)]
        return Spans(*(numpy.concatenate([part[place] for part in parts]) for place in range(3)))

    def _spans(
        self, trained: Texts, ends: numpy.ndarray, tested: numpy.ndarray, found: numpy.ndarray
    ) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        # of a run of pairs on one diagonal only the first begins a span: those after it end where it ends
        width = numpy.int64(len(self.texts.tokens) + 1)
        keys = found * width + tested
        first = ~numpy.isin(keys - width - 1, keys)
        tested, found = tested[first], found[first]
        room = numpy.minimum(self.ends[tested] - tested, ends[found] - found)
        return tested, found, self._extend(trained, tested, found, room)

    def _pairs(self, trained: Texts) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
        """Positions (tested, trained) of equal windows, about `PAIRS` at a time; a hash that is equal by chance is
        found out here.
        """
        positions, hashes = trained.windows()
        passed = numpy.nonzero(self.filter[hashes >> self.shift])[0]
        positions, hashes = positions[passed], hashes[passed]
        lows = numpy.searchsorted(self.hashes, hashes, "left")
        counts = numpy.searchsorted(self.hashes, hashes, "right") - lows
        behind = numpy.cumsum(counts)
        cuts = numpy.searchsorted(behind, numpy.arange(PAIRS, behind[-1], PAIRS) if len(behind) else [])
        for part in numpy.split(numpy.arange(len(counts)), cuts):
            low, count = lows[part], counts[part]
            found = numpy.repeat(positions[part], count)
            end = numpy.cumsum(count)
            places = numpy.arange(len(found)) + numpy.repeat(low - end + count, count)
            tested = self.positions[places]
            equal = numpy.ones(len(found), dtype=bool)
            for offset in range(N):
                equal &= self.texts.tokens[tested + offset] == trained.tokens[found + offset]
            yield tested[equal], found[equal]

    def _extend(
        self, trained: Texts, tested: numpy.ndarray, found: numpy.ndarray, room: numpy.ndarray
    ) -> numpy.ndarray:
        lengths = numpy.full(len(tested), N, dtype=numpy.int64)
        missed = numpy.zeros(len(tested), dtype=numpy.int64)
        live, offset = numpy.nonzero(room > N)[0], N
        while len(live):
            equal = self.texts.tokens[tested[live] + offset] == trained.tokens[found[live] + offset]
            lengths[live[equal]] = offset + 1
            missed[live[~equal]] += 1
            offset += 1
            live = live[(missed[live] <= BUDGET) & (room[live] > offset)]
        return lengths


def contaminated(index: Index, batches: Iterable[Texts]) -> numpy.ndarray:
    """True for each token of the index's texts that lies in a contaminated span of any batch."""
    marks = numpy.zeros(len(index.texts.tokens) + 1, dtype=numpy.int64)
    for batch in batches:
        add(marks, index.spans(batch))
    return numpy.cumsum(marks)[:-1] > 0


def add(marks: numpy.ndarray, spans: Spans) -> None:
    """Note spans in a difference array, one longer than the tokens; its running sum counts the spans at a token."""
    numpy.add.at(marks, spans.tested, 1)
    numpy.add.at(marks, spans.tested + spans.lengths, -1)
