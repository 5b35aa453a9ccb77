"""The reward of a purchase against the values that WebShop's formula gives by hand."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.webshop.catalogue import Product
from agenttuning.environments.webshop.reward import (
    COLOURS,
    attribute_met,
    first_colour,
    guessed_nouns,
    matches,
    option_met,
    reward,
    tagger,
    token_set_ratio,
    type_score,
)

KNIVES = "tea cup saucer plate spoon knife"  # one noun of six is PRODUCT's
PRODUCT = Product(
    asin="B000000001",
    title="Brinmark Tea Tree Shampoo",
    price="$12.0",
    description="Made with Natural Ingredients.",
    bullets=["Smells like lemons", "Cruelty Free"],
    options={"size": ["8 ounce", "16 ounce"]},
    attributes=["tea tree", "essential oil"],
    category="beauty",
    query="shampoo",
    product_category="Beauty › Hair Care › Shampoo",
)
GOAL = {
    "attributes": ["tea tree"],
    "options": ["16 ounce"],
    "price_upper": 20.0,
    "name": PRODUCT.title,
    "query": "shampoo",
    "product_category": PRODUCT.product_category,
}


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        # the pairs of thefuzz's own README and tests
        ("fuzzy was a bear", "fuzzy fuzzy was a bear", 100),
        ("new york mets vs atlanta braves", "atlanta braves vs new york mets", 100),
        ("new york mets", "new YORK mets!", 100),
        ("", "", 0),
        ("!!", "a", 0),
        # by hand: no shared word, 2 * matching / total, difflib's matching blocks
        ("essential oil", "essential oils", 96),
        ("black", "blue", 44),
        ("a b c", "a b d", 80),
        # a lone set inside the other is a whole match
        ("cool powder snow", "powder snow", 100),
        ("xl", "x-large", 22),
        ("16gb128gb", "128gb16gb", 56),  # by edit distance, as newer releases of thefuzz have it, it would be 67
        ("é", "e", 0),
        ("caf\xe9 au lait", "caf au lait", 100),
    ],
)
def test_token_set_ratio(first: str, second: str, ratio: int) -> None:
    assert token_set_ratio(first, second) == ratio


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abc -é_"), max_size=12), st.text(st.sampled_from("abc -é_"), max_size=12))
def test_token_set_ratio_is_a_ratio(first: str, second: str) -> None:
    assert 0 <= token_set_ratio(first, second) <= 100
    assert token_set_ratio(first, first) in (0, 100)
    words = first.split()
    assert token_set_ratio(" ".join(words), " ".join(reversed(words))) == token_set_ratio(first, first)


def test_a_match_is_above_85() -> None:
    assert token_set_ratio("essential oils", "essential oil") > 85 and matches("essential oils", "essential oil")
    assert token_set_ratio("abcdefghijklmnopqrst", "abcdefghijklmnopq") == 92
    assert token_set_ratio("aaaaaaaaaaaaaaaaabbb", "aaaaaaaaaaaaaaaaaccc") == 85
    assert not matches("aaaaaaaaaaaaaaaaabbb", "aaaaaaaaaaaaaaaaaccc")


def test_the_first_colour_of_the_list_stands_for_an_option() -> None:
    assert list(COLOURS) == sorted(COLOURS) and len(COLOURS) == 102
    assert first_colour("dark blue") == "blue"  # "blue" comes before "dark" in the list
    assert first_colour("layered") == "red"
    assert first_colour("16 ounce") == "16 ounce"
    assert option_met(["navy blue"], "light blue")  # the original's, too
    assert not option_met(["8 ounce"], "16 ounce") and not option_met([], "16 ounce")


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("tea tree", True),
        ("essential oils", True),
        ("natural ingredients", True),  # in the description
        ("cruelty free", True),  # in a bullet point
        ("brinmark", True),  # in the title
        ("Cruelty Free", False),  # only lower case is looked for in the texts
        ("lemons cruelty", True),  # bullet points are joined by a space
        ("paraben free", False),
    ],
)
def test_attributes(wanted: str, met: bool) -> None:
    assert attribute_met(PRODUCT, wanted) is met


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({}, 1.0),
        ({"query": "soap"}, 1.0),  # the category still is the same
        ({"query": "soap", "product_category": "Beauty › Soap › Bars"}, 1.0),  # the titles are alike
        ({"name": "Calder Soap with Tea and Honey for Men by Dovetail"}, 1.0),
        ({"query": "soap", "product_category": "Beauty › Soap", "name": KNIVES}, 0.5),
        ({"query": "soap", "product_category": "Beauty › Beauty › Soap", "name": KNIVES}, 0.5),
        ({"product_category": "Shampoo › Beauty", "query": "x", "name": KNIVES}, 1.0),
        ({"name": "tea cup saucer plate spoon knife fork pan pot lid jar"}, 0.1),  # alike, but for the titles
        ({"name": "Ladder"}, 0.0),
        ({"name": ""}, 1.0),  # a title without nouns counts 0.2: neither alike nor unlike
        ({"name": "", "query": "soap", "product_category": ""}, 0.5),
    ],
)
def test_the_type_score(changes: dict, score: float) -> None:
    assert type_score(PRODUCT, {**GOAL, **changes}, guessed_nouns) == score


@pytest.mark.parametrize(
    ("wanted", "bought", "spacy"),
    [  # spaCy's shares as WebShop's own tests have them (tests/web-agent-site/engine/test_goal.py)
        (
            "adidas Unisex-Adult D.o.n. Issue 2 Basketball Shoe",
            "adidas Unisex-Adult D.o.n. Issue 2 Indoor Court Shoe",
            0.85,
        ),
        (
            "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar",
            "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home "
            "Theater System",
            0.17,
        ),
        (
            "Rusticware 921ORB Kitchen and Bath Cabinet Knob",
            "Minkissy 2pcs Stainless Steel Eyebrow Tweezers Blackhead Acne Remover Portable Makeup Tweezers (Silver)",
            0.0,
        ),
    ],
)
def test_guessed_nouns_are_near_spacys(wanted: str, bought: str, spacy: float) -> None:
    nouns = guessed_nouns(wanted)
    assert abs(len(set(guessed_nouns(bought)) & set(nouns)) / len(nouns) - spacy) < 0.1


def test_the_reward_and_its_parts() -> None:
    full = reward(PRODUCT, 20.0, ["16 ounce"], GOAL, guessed_nouns)
    assert (full.total, full.type, full.attributes, full.options, full.price) == (1.0, 1.0, 1.0, 1.0, True)
    assert reward(PRODUCT, 20.01, ["16 ounce"], GOAL, guessed_nouns).total == pytest.approx(2 / 3)
    assert reward(PRODUCT, 12.0, ["8 ounce"], GOAL, guessed_nouns).total == pytest.approx(2 / 3)
    assert reward(PRODUCT, 12.0, [], {**GOAL, "attributes": ["vegan"]}, guessed_nouns).total == pytest.approx(1 / 3)
    half = {**GOAL, "query": "soap", "product_category": "", "name": KNIVES}
    assert reward(PRODUCT, 12.0, ["16 ounce"], half, guessed_nouns).total == 0.5
    none = reward(PRODUCT, 12.0, [], {**GOAL, "options": []}, guessed_nouns)
    assert none.total == 1.0 and none.options is None


def test_the_tagger_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Token:
        def __init__(self, text: str) -> None:
            self.text, self.pos_ = text, "PROPN" if text[0].isupper() else "ADP"

    fake = type("spacy", (), {"load": staticmethod(lambda name: lambda title: [Token(word) for word in title.split()])})
    tagger.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "spacy", fake)
        nouns, model = tagger()
        assert model == "en_core_web_lg" and nouns("Red Cup for tea") == ["red", "cup"]
        tagger.cache_clear()
        monkeypatch.setitem(sys.modules, "spacy", None)  # an import of it fails
        assert tagger() == (guessed_nouns, None)
    finally:
        tagger.cache_clear()
