"""Contaminated spans: against a slow reading of the rule on random texts with planted overlaps, and by hand."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.data import ngrams
from agenttuning.data.ngrams import Index, Texts, contaminated
from helpers.overlaps import overlapping, slow


def fast(tested, *batches):
    return contaminated(Index(Texts.of(tested)), map(Texts.of, batches)).tolist()


@settings(max_examples=300, deadline=None)
@given(overlapping())
def test_the_fast_search_is_the_rule(texts):
    tested, trained = texts
    assert fast(tested, trained) == slow(tested, trained)


@settings(max_examples=50, deadline=None)
@given(overlapping(), st.integers(0, 6))
def test_batches_change_nothing(texts, cut):
    tested, trained = texts
    assert fast(tested, trained[:cut], trained[cut:]) == fast(tested, trained)


@settings(max_examples=50, deadline=None)
@given(overlapping(), st.sampled_from([1, 2, 5]))
def test_the_pairs_held_at_once_change_nothing(texts, pairs):
    tested, trained = texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "PAIRS", pairs)
        found = fast(tested, trained)
    assert found == slow(tested, trained)


def test_by_hand():
    text = list(range(100, 130))
    assert fast([text], [text[:9]]) == [False] * 30  # nine are no 10-gram
    assert fast([text], [text[:10]]) == [True] * 10 + [False] * 20
    assert fast([text], [[1, 2, *text[5:20], 3]]) == [False] * 5 + [True] * 15 + [False] * 10
    four = [*text[:10], 0, text[11], 0, text[13], 0, text[15], 0, text[17]]
    assert fast([text], [four]) == [True] * 18 + [False] * 12  # four differ behind the first ten
    assert fast([text], [[*four, 0, text[19]]]) == [True] * 18 + [False] * 12  # a fifth ends it
    assert fast([text], [[0, *text[1:10], *text[11:20]]]) == [False] * 30  # no ten in a row
    assert fast([text[:15], text[15:]], [text]) == [True] * 30  # a text ends, its neighbour begins
    assert fast([text], [text[:5], text[5:12]]) == [False] * 30  # no span crosses the end of a training text


def test_nothing_to_compare():
    assert fast([], [[1] * 20]) == [] and fast([[1] * 20]) == [False] * 20 and fast([[]], [[]]) == []
    assert Index(Texts.of([[1, 2]])).spans(Texts.of([[1, 2]])).lengths.tolist() == []


def test_spans_say_where_they_come_from():
    index = Index(Texts.of([[7] * 3, list(range(20))]))
    spans = index.spans(Texts.of([[9, 9, *range(5, 20)]]))
    assert [*map(numpy.ndarray.tolist, (spans.tested, spans.trained, spans.lengths))] == [[8], [2], [15]]
