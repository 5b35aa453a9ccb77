"""Check and judge against a slow reading of the rule, over words; and that what is dropped leaves no dirty example."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.data.contamination import CLEAN, DIRTY, Check, Example, judge, merge
from agenttuning.data.ngrams import N
from helpers.llama_tokenizer import build_tokenizer
from helpers.overlaps import overlapping, slow

TOKENIZER = build_tokenizer()


def text(tokens):
    """A letter for each number, none of them in the vocabulary: three byte tokens each."""
    return "".join(chr(0x4E00 + token) for token in tokens)


@st.composite
def cases(draw):
    """(texts of the examples, conversations): overlapping token lists dealt out, some texts and turns shared."""
    tested, trained = draw(overlapping())
    tested, trained = [one for one in tested if one], [one for one in trained if one]
    deal = st.lists(st.integers(0, 5), min_size=1, max_size=3)
    examples = [[tested[i % len(tested)] for i in draw(deal)] for _ in range(draw(st.integers(0, 4)))] if tested else []
    rows = [[trained[i % len(trained)] for i in draw(deal)] for _ in range(draw(st.integers(0, 5)))] if trained else []
    return examples, rows


def made(examples):
    return Check([Example("s", str(i), tuple(map(text, texts))) for i, texts in enumerate(examples)], TOKENIZER)


def messages(row):
    return [{"content": text(turn)} for turn in row]


def ids(tokens):
    from agenttuning.chat.tokenizer import encode_texts

    return encode_texts(TOKENIZER, [text(tokens)])[0]


@settings(max_examples=150, deadline=None)
@given(cases())
def test_spans_and_judgement_are_the_rule(case):
    examples, rows = case
    check = made(examples)
    spans = check.spans([messages(row) for row in rows])
    assert len(spans) == len(rows) and all(merge(list(one)) == one for one in spans)
    pieces = list(dict.fromkeys(tuple(one) for texts in examples for one in texts))
    tested = [ids(one) for one in pieces]
    marks = [slow(tested, [ids(turn) for turn in row]) for row in rows]
    for one, mark in zip(spans, marks, strict=True):
        covered = numpy.zeros(len(mark), dtype=bool)
        for begin, end in one:
            covered[begin:end] = True
        assert covered.tolist() == mark
    starts = numpy.cumsum([0, *map(len, tested)])
    verdict = judge(check, spans)
    held = [set() for _ in rows]
    for number, texts in enumerate(examples):
        parts = [slice(starts[pieces.index(tuple(one))], starts[pieces.index(tuple(one)) + 1]) for one in texts]
        total = sum(part.stop - part.start for part in parts)
        bad = sum(any(mark[place] for mark in marks) for part in parts for place in range(part.start, part.stop))
        kind = "dirty" if bad / total > DIRTY else "clean" if bad / total < CLEAN else "between"
        kind = kind if any(part.stop - part.start >= N for part in parts) else "too_short"
        assert (verdict.kinds[number], verdict.tokens[number], verdict.contaminated[number]) == (kind, total, bad)
        for row, mark in enumerate(marks):
            if kind == "dirty" and any(any(mark[part]) for part in parts):
                held[row].add(number)
    assert [set(row) for row in verdict.rows] == held
    assert verdict.dropped == [number for number, row in enumerate(held) if row]


@settings(max_examples=100, deadline=None)
@given(cases())
def test_after_dropping_nothing_is_dirty(case):
    examples, rows = case
    check = made(examples)
    spans = check.spans([messages(row) for row in rows])
    first = judge(check, spans)
    kept = [row for number, row in enumerate(rows) if number not in first.dropped]
    second = judge(check, check.spans([messages(row) for row in kept]))
    assert "dirty" not in second.kinds and not second.dropped
    assert all(second.contaminated[i] == 0 for i, kind in enumerate(first.kinds) if kind == "dirty")


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(0, 5))
def test_chunks_order_and_processes_change_nothing(case, cut):
    examples, rows = case
    check, rows = made(examples), [messages(row) for row in rows]
    whole = check.spans(rows)
    assert check.spans(rows[:cut]) + check.spans(rows[cut:]) == whole
    assert pickle.loads(pickle.dumps(check)).spans(rows) == whole  # noqa: S301 (our own bytes)
    assert check.spans(rows[::-1])[::-1] == whole


def test_forked_workers_find_the_same(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")  # with which the library does not look for forks itself
    words = list(range(60))
    check = made([[words[i : i + 20]] for i in range(0, 40, 5)])
    chunks = [[messages([words[i : i + 15], list(range(500 + i, 520 + i))])] for i in range(30)]
    TOKENIZER.backend_tokenizer.encode_batch(["start", "the", "threads"] * 50)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(check.spans, chunks[1:], chunksize=5).get(timeout=60)
    assert [check.spans(chunks[0]), *found] == [check.spans(chunk) for chunk in chunks]
    assert any(one != [[]] for one in found)


def test_a_dirty_example_made_of_two_conversations_drops_both():
    words = list(range(40))
    check = made([[words], [list(range(100, 140))]])
    rows = [[words[:20]], [words[20:]], [words[:4] + list(range(100, 104))], [list(range(200, 230))]]
    verdict = judge(check, check.spans([messages(row) for row in rows]))
    assert verdict.kinds == ["dirty", "clean"] and verdict.rows == [[0], [0], [0], []]
    assert verdict.dropped == [0, 1, 2]


def test_the_identity_follows_texts_tokens_and_sources():
    one = Example("s", "0", ("a drawer holds a mug",))
    same = [Check([one], TOKENIZER, [{"name": "s"}]).identity() for _ in range(2)]
    assert same[0] == same[1] and same[0]["rule"] == {"n": 10, "mismatches": 4, "dirty": 0.8, "clean": 0.2}
    assert Check([one], TOKENIZER, [{"name": "t"}]).identity() != same[0]
    assert Check([Example("s", "0", ("a drawer holds a pen",))], TOKENIZER, [{"name": "s"}]).identity() != same[0]
    assert Check([Example("s", "0", ("a drawer", " holds a mug"))], TOKENIZER, [{"name": "s"}]).identity() != same[0]


@pytest.mark.parametrize("spans", [[], [(3, 5), (1, 2)], [(1, 4), (2, 3), (4, 6)], [(0, 9), (1, 2)]])
def test_merge(spans):
    covered = {place for begin, end in spans for place in range(begin, end)}
    merged = merge(spans)
    assert {place for begin, end in merged for place in range(begin, end)} == covered
    assert all(a[1] < b[0] for a, b in zip(merged, merged[1:], strict=False))
