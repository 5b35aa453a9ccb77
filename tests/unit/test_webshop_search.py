"""Search against bm25s's Lucene BM25, and against what Lucene does that bm25s does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.webshop.search import Index, analyzer, lucene_length


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Hair-Brushes, for WOMEN'S hair", ["hair", "brush", "women", "hair"]),
        ("women’s 2.75 inch 1,000 pcs 3.", ["women", "2.75", "inch", "1,000", "pc", "3"]),
        ("u.s.a don't a/b x_y size:large size: large", ["u.s.a", "don't", "b", "x_y", "size:larg", "size", "larg"]),
        ("us ties relational 4k 6.7-ounces", ["us", "ti", "relat", "4k", "6.7", "ounc"]),
        ("漢字 café あい", ["漢", "字", "café", "あ", "い"]),
        ("___ the of . - &", []),
        ("", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert analyzer()(text) == terms


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=80))
def test_any_text_has_terms(text: str) -> None:
    assert all(term and term == term.strip() for term in analyzer()(text))


def test_lengths_are_rounded_as_lucene_does() -> None:
    assert [lucene_length(n) for n in range(41)] == list(range(41))
    # Lucene's SmallFloat table: 40, 42, .., 56, 60, .., 88, 96, .., 152, 168
    assert sorted({lucene_length(n) for n in range(40, 170)}) == [
        40, 42, 44, 46, 48, 50, 52, 54, 56, 60, 64, 68, 72, 76, 80, 84, 88, 96, 104, 112, 120, 128, 136, 144, 152, 168,
    ]  # fmt: skip
    assert all(lucene_length(n) <= n < lucene_length(n) * 1.125 + 1 for n in range(5000))


def _documents(longest: int) -> list[str]:
    rng = random.Random("documents")
    words = [a + b + "x" for a in "bcdfghklmn" for b in "oaiu"]
    return [" ".join(rng.choices(words, weights=range(1, 41), k=rng.randint(1, longest))) for _ in range(300)]


def test_scores_are_bm25s_lucene_scores() -> None:
    bm25s = pytest.importorskip("bm25s")
    documents, rng = _documents(40), random.Random("queries")  # to 40 terms, a length is not rounded
    index, terms = Index(documents, [f"{n:03d}" for n in range(len(documents))]), analyzer()
    peer = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    peer.index([terms(document) for document in documents], show_progress=False)
    for _ in range(50):
        query = " ".join(rng.choice(documents).split()[:6])
        wanted = peer.get_scores(terms(query))
        assert abs(index.scores(query) - wanted).max() < 1e-6 and wanted.max() > 0.3
    longer = Index(_documents(400), [""] * 300)
    peer.index([terms(document) for document in _documents(400)], show_progress=False)
    assert abs(longer.scores("boxx box baxx dux") - peer.get_scores(terms("boxx box baxx dux"))).max() > 1e-4


def test_results_are_the_best_first_and_equals_by_key() -> None:
    index = Index(["red hat", "red mug", "blue mug", "green", "", "red mug"], ["F", "E", "D", "C", "B", "A"])
    assert index.search("red mug", 10) == [5, 1, 2, 0] or index.search("red mug", 10) == [5, 1, 0, 2]
    assert index.search("mug", 10) == [5, 2, 1]  # keys A, D, E
    assert index.search("mug", 2) == [5, 2]
    assert index.search("the", 10) == index.search("", 10) == index.search("unknown", 10) == []
    assert index.search("red red red mug", 10)[2] == 0  # a word said more often counts more
    assert len(index) == 6


def test_a_search_has_at_most_1024_terms() -> None:
    index = Index(["last", "first"], ["A", "B"])
    words = ["first", *(f"w{number}" for number in range(1023)), "last"]
    assert index.search(" ".join(words), 5) == [1] and index.search(" ".join(words[1:]), 5) == [0]


def test_an_empty_index_finds_nothing() -> None:
    assert Index([], []).search("mug", 5) == [] == Index([""], ["A"]).search("mug", 5)
