"""What is read out of an answer: as the authors' script reads it, and as it is meant."""

from __future__ import annotations

import ast
import re
import time
import warnings
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agenttuning.general import gsm8k, numbers

# text, the number of the authors' script, the number that is meant
ANSWERS = [
    ("The answer is 18.", 18, 18),
    ("", None, None),
    ("none", None, None),
    ("...", None, None),
    ("-", None, None),
    ("$", None, None),
    # commas, decimals
    ("The answer is 1,000", 0, 1000),
    ("$20,800", 800, 20800),
    ("1,234,567.25", 25, "1234567.25"),
    ("12.50", 50, "12.5"),
    ("18.0", 0, 18),
    ("0.08", None, "0.08"),
    (".5", 5, "0.5"),
    ("12.", 12, 12),
    ("1,2", 2, 2),
    ("1, 2 and 3", 3, 3),
    ("[1,2,3]", 3, 3),
    ("1,0000", 0, 0),
    ("10,00", 0, 0),
    ("in 2023, 1,000,5", 5, 5),
    ("1.2.3", 3, 3),
    # signs
    ("= -3", 3, -3),
    ("=-3", 3, -3),
    ("= - 3", 3, -3),
    ("is -3.", 3, -3),
    ("-3", 3, -3),
    ("\n-3", 3, -3),
    ("5\n-3", 3, -3),
    ("(-3)", 3, -3),
    ("**-3**", 3, -3),
    ("is \u22123", 3, -3),
    ("is \u20133", 3, -3),
    ("is \u20143", 3, 3),
    ("5-3", 3, 3),
    ("5 - 3", 3, 3),
    ("5 -3", 3, 3),
    ("(2 + 3) - 4", 4, 4),
    ("(2 + 3)-4", 4, 4),
    ("50% - 4", 4, 4),
    ("10 - -3", 3, -3),
    ("--3", 3, 3),
    ("- 3 apples", 3, 3),
    ("COVID-19", 19, 19),
    ("x-3", 3, 3),
    ("5\u20133", 3, 3),
    ("2023-05-06", None, 6),
    # money, per cent, units
    ("-$3", 3, -3),
    ("$-3", 3, -3),
    ("loses $5 - $3", 3, 3),
    ("\u20ac3", 3, 3),
    ("18$", 18, 18),
    ("US$18", 18, 18),
    ("Rs.500", 500, 500),
    ("50%", 50, 50),
    ("12km", 12, 12),
    ("3pm", 3, 3),
    ("25 m2", 2, 25),
    ("25 m^2", 2, 25),
    ("25 m\u00b2", 25, 25),
    ("H2O", 2, 2),
    ("18th", 18, 18),
    # fractions, powers
    ("1/2", 2, "1/2"),
    ("-1/2", 2, "-1/2"),
    ("2 1/2 cups", 2, "5/2"),
    ("60/2=30", 30, 30),
    ("24 / 3", 3, 3),
    ("5/0", 0, 0),
    ("5/6/2023", 2023, 2023),
    ("1/3", 3, "1/3"),
    ("1.5e3", 3, 1500),
    ("3e", 3, 3),
    # what Python refuses, and what it does not
    ("08", None, 8),
    ("007", None, 7),
    ("000", 0, 0),
    ("0", 0, 0),
    ("9" * 4300, int("9" * 4300), "9" * 4300),
    ("9" * 5000, None, "9" * 5000),
    ("0" * 5000, None, 0),
    # other scripts
    ("\u0661\u0668", None, 18),
    ("\uff11\uff18", None, 18),
    ("18 \u0661", None, 1),
    ("1\u0668", None, 18),
    ("5\u00b2", 5, 5),
    # the last one counts, whatever it is about
    ("18 (not 20)", 20, 20),
    ("May 5, 2023", 2023, 2023),
    ("3:30", 30, 30),
    ("\\boxed{18}", 18, 18),
    ("1_000", 0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "original", "meant"), ANSWERS, ids=[f"{a[0][:20]!r}" for a in ANSWERS])
def test_the_number_of_an_answer(text, original, meant) -> None:
    assert numbers.original(text) == original
    found = numbers.meant(text)
    if meant is None:
        assert found is None
    else:
        assert found == (Fraction(meant) if "/" in str(meant) else Decimal(meant))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("2 + 3 = 5\n#### 5", 5), ("#### 1,000", 1000), ("#### -3", -3), ("#### 2.5", "2.5"), ("#### 7.", 7),
        ("#### 5\n#### 6", 5), ("####5", None), ("5", None), ("#### x", None), ("#### ..", None), ("#### 1.2.3", None),
    ],
)  # fmt: skip
def test_the_number_that_is_wanted(answer, number) -> None:
    assert numbers.gold(answer) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("said", "wanted", "paper", "corrected"),
    [
        ("The answer is 18", "18", 1, 1),
        ("18 Question: and 20?", "18", 1, 1),
        ("Question: 18", "18", 0, 0),
        ("1,000", "1,000", 0, 1),
        ("1000", "1,000", 1, 1),
        ("$1,000.00", "1000", 0, 1),
        ("12.50", "50", 1, 0),
        ("-3", "-3", 0, 1),
        ("-3", "3", 1, 0),
        ("1/2", "0.5", 0, 1),
        ("", "0", 0, 0),
        ("nothing", "0", 0, 0),
    ],
)
def test_what_counts_as_right(said, wanted, paper, corrected) -> None:
    doc = {"answer": f"because\n#### {wanted}"}
    assert gsm8k.last_digits(doc, [said]) == {"exact_match": float(paper)}
    assert gsm8k.last_number(doc, [said]) == {"exact_match": float(corrected)}


PIECES = ["1", "23", "000", "08", *",.- $/%em^=()\n\u2212\u0661"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@settings(max_examples=100, deadline=None)
@example("1" * 4301)
@given(TEXTS)
def test_the_original_is_the_scripts_rule(text) -> None:
    """The script evaluates the last run of digits as Python and calls an error no number; here only literals are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule = ast.literal_eval(re.findall(r"\d+", text)[-1])
    except Exception:
        rule = None
    assert numbers.original(text) == rule


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_what_is_meant_is_a_number_of_the_text_or_none(text) -> None:
    found = numbers.meant(text)
    assert (found is None) == (not re.search(r"\d", text))
    assert found is None or abs(found) >= 0


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "{}", "{:,}.00", "It is {:,}.", "= {}", "({:,})"]))
def test_an_integer_is_read_back(number, form) -> None:
    assert numbers.meant(form.format(number)) == number


@pytest.mark.parametrize("piece", ["1", "1,", "1,000", ",000", "-1 ", "1 1/", "$", "- ", ".", "1.", "1e", " ", "1/"])
def test_a_long_answer_takes_a_moment(piece) -> None:
    text = piece * ((10**6 if piece == "1" else 30_000) // len(piece))
    begin = time.perf_counter()
    for one in (text, f"{text}-1", f"{text}/7"):
        numbers.original(one), numbers.meant(one)
    assert time.perf_counter() - begin < 5  # a second on a busy machine; a square of it would be a quarter of an hour
