"""Which evaluation examples stand in training conversations, and which conversations to drop so that none is dirty.

`Check.spans` looks at conversations in any order, in any number of processes, and gives a small record for each; one
process then judges by all records. The rule for a span is that of data/ngrams.py; an example is dirty where more than
80 % of its tokens are contaminated and clean where less than 20 % are, as in the paper. The tokens of an example are
those of all its texts. An example whose texts are all shorter than a window cannot be found and is neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from agenttuning.chat.tokenizer import encode_texts
from agenttuning.data.ngrams import BUDGET, Index, N, Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DIRTY, CLEAN = 0.8, 0.2  # Zeng et al. 2023, appendix B
KINDS = ("clean", "between", "dirty", "too_short")
Span = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """One evaluation example: its suite, its id and its texts."""

    suite: str
    id: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Matches:
    """What some conversations share with the examples. Span i is tested[i] .. tested[i] + lengths[i] of the check's
    tokens and stands in the different turn turns[i]; places[turn] lists every (conversation, number of the turn) that
    has this turn. `tokens` counts those of all turns, equal ones too.
    """

    tested: numpy.ndarray
    lengths: numpy.ndarray
    turns: numpy.ndarray
    places: list[list[tuple[int, int]]]
    tokens: int

    def by_row(self, rows: int) -> list[list[Span]]:
        """The spans of each of `rows` conversations, merged."""
        found: list[list[Span]] = [[] for _ in range(rows)]
        order = numpy.argsort(self.turns, kind="stable")
        turns, cuts = numpy.unique(self.turns[order], return_index=True)
        for turn, part in zip(turns.tolist(), numpy.split(order, cuts[1:]), strict=False):
            ends = self.tested[part] + self.lengths[part]
            spans = merge(list(zip(self.tested[part].tolist(), ends.tolist(), strict=True)))
            for row in dict.fromkeys(row for row, _ in self.places[turn]):
                found[row] = merge(found[row] + spans) if found[row] else spans
        return found


class Check:
    """The examples as one array of tokens with an index of their windows; a fork shares them.

    sources: what the examples were read from, one JSON-able dictionary each, for `identity`.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, sources: Sequence[dict] = ()
    ) -> None:
        self.examples, self.sources = tuple(examples), list(sources)
        self.tokenizer = tokenizer
        number: dict[str, int] = {}
        self.pieces = [  # for each example the numbers of its texts
            numpy.array([number.setdefault(text, len(number)) for text in example.texts], dtype=numpy.int64)
            for example in self.examples
        ]
        self.texts = Texts.of(encode_texts(self.tokenizer, list(number)))
        self.lengths = numpy.diff(self.texts.starts)
        self.index = Index(self.texts)

    def identity(self) -> dict:
        """What the outcome depends on beside the conversations. The tokens stand for the tokenizer as well."""
        return {
            "rule": {"n": N, "mismatches": BUDGET, "dirty": DIRTY, "clean": CLEAN},
            "suites": self.sources,
            "tokens": hashlib.sha256(self.texts.tokens.tobytes() + self.texts.starts.tobytes()).hexdigest(),
        }

    def matches(self, rows: Sequence[Sequence[dict]]) -> Matches:
        """Every span of the examples in the turns of some conversations, each different turn searched once."""
        number: dict[str, int] = {}
        places: list[list[tuple[int, int]]] = []
        for row, messages in enumerate(rows):
            for turn, message in enumerate(messages):
                if number.setdefault(message["content"], len(places)) == len(places):
                    places.append([])
                places[number[message["content"]]].append((row, turn))
        trained = Texts.of(encode_texts(self.tokenizer, list(number)))
        spans = self.index.spans(trained)
        times = numpy.fromiter(map(len, places), dtype=numpy.int64, count=len(places))
        turns = numpy.searchsorted(trained.starts, spans.trained, "right") - 1
        tokens = int((numpy.diff(trained.starts) * times).sum())
        return Matches(spans.tested, spans.lengths, turns, places, tokens)

    def spans(self, rows: Sequence[Sequence[dict]]) -> list[list[Span]]:
        """For each conversation (a list of messages with `content`) the merged (start, end) of what it holds, as
        positions in the examples' tokens; an empty list for most.
        """
        return self.matches(rows).by_row(len(rows))


@dataclass(frozen=True)
class Verdict:
    """kinds, tokens, contaminated: for each example. rows: for each conversation the numbers of the dirty examples of
    which it holds a contaminated token.
    """

    kinds: list[str]
    tokens: numpy.ndarray
    contaminated: numpy.ndarray
    rows: list[list[int]]

    @property
    def dropped(self) -> list[int]:
        """The conversations to drop so that no example is dirty."""
        return [number for number, examples in enumerate(self.rows) if examples]


def judge(check: Check, spans_per_row: Sequence[Sequence[Span]]) -> Verdict:
    """Judge the examples by what all conversations hold together.

    An example can be dirty by parts that stand in different conversations, and several can hold the same part, so
    `Verdict.dropped` has every conversation with a part of a dirty example. Without them such an example has no
    contaminated token left, and the others have no more than before: a second check finds no dirty one. What is
    dropped are training conversations; the examples stay as they are.
    """
    marks = numpy.zeros(len(check.texts.tokens) + 1, dtype=numpy.int64)
    every = numpy.array([span for spans in spans_per_row for span in spans], dtype=numpy.int64).reshape(-1, 2)
    numpy.add.at(marks, every[:, 0], 1)
    numpy.add.at(marks, every[:, 1], -1)
    before = numpy.concatenate([[0], numpy.cumsum(numpy.cumsum(marks[:-1]) > 0)])
    hit = numpy.diff(before[check.texts.starts])
    tokens = numpy.array([check.lengths[pieces].sum() for pieces in check.pieces], dtype=numpy.int64)
    contaminated = numpy.array([hit[pieces].sum() for pieces in check.pieces], dtype=numpy.int64)
    kinds = [
        _kind(int(bad), int(all_), bool((check.lengths[pieces] >= N).any()))
        for bad, all_, pieces in zip(contaminated, tokens, check.pieces, strict=True)
    ]
    dirty: dict[int, list[int]] = {}
    for example, kind in enumerate(kinds):
        for piece in check.pieces[example].tolist() if kind == "dirty" else ():
            dirty.setdefault(piece, []).append(example)
    rows = [_held(check, dirty, spans) for spans in spans_per_row]
    return Verdict(kinds, tokens, contaminated, rows)


def _kind(contaminated: int, tokens: int, findable: bool) -> str:
    if not findable:
        return "too_short"
    share = contaminated / tokens
    return "dirty" if share > DIRTY else "clean" if share < CLEAN else "between"


def _held(check: Check, dirty: dict[int, list[int]], spans: Sequence[Span]) -> list[int]:
    if not spans or not dirty:
        return []
    starts = check.texts.starts
    first = numpy.searchsorted(starts, [begin for begin, _ in spans], "right") - 1
    behind = numpy.searchsorted(starts, [end for _, end in spans], "left")  # a merged span may cover several texts
    pieces = {piece for one in zip(first.tolist(), behind.tolist(), strict=True) for piece in range(*one)}
    return sorted({example for piece in pieces for example in dirty.get(piece, ())})


def merge(spans: list[Span]) -> list[Span]:
    """Sorted spans without overlap; those that touch become one."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
