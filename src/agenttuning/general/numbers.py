"""Numbers in answers: as the original's script reads them, and as they are meant."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

# eval_general/eval_gsm8k_tgi.py: `re.findall(r'\d+', completion)[-1]`, evaluated as a Python expression. \d there is
# any decimal digit of Unicode, of which Python's syntax takes only ASCII; a number that begins with 0 is no Python.
DIGITS = re.compile(r"\d+")
MOST_DIGITS = 4300  # Python's own limit for turning text into an int (sys.int_info.default_max_str_digits)
GOLD = re.compile(r"#### (-?[0-9.,]+)")
# Every alternative consumes what it looked at, so that a megabyte of digits takes milliseconds.
NUMBER = re.compile(
    r"(?<!\d)(?:(?P<mixed>\d{1,9}) (?=\d{1,9}/\d))?"  # the 2 of "2 1/2"
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w)])\.\d+)"
    r"(?:[eE](?P<power>[+-]?\d{1,3})(?!\w))?(?:/(?P<over>\d{1,9})(?!\d))?"
)
MINUS, CURRENCY = "-\u2212\u2013", "$\u20ac\u00a3"  # hyphen, minus sign, en dash; dollar, euro, pound
# A minus is an operation behind a number or a bracket, a hyphen behind a letter, a rule behind another minus.
NO_SIGN = re.compile(r"(?:[\w\-\u2212\u2013]|[\d)\]%][^\S\n]*)\Z")
SEEN = 40  # characters before a number that can make it negative; more blanks than that are no sum
LONGEST_FRACTION = 30  # digits; a longer one is no fraction of a school's sum, and slow to reckon with


def original(completion: str) -> int | None:
    """The number that the original's script takes for the answer: the last run of digits, without sign, decimals or
    thousand commas ("1,000" is 0, "12.50" is 50, "-3" is 3). None where it has none ("08" is no Python number).
    """
    last = ""
    for match in DIGITS.finditer(completion):
        last = match[0]
    if not last.isascii() or not last or len(last) > MOST_DIGITS or (last[0] == "0" and last.strip("0")):
        return None
    return int(last)


def meant(completion: str) -> Decimal | Fraction | None:
    """The last number of a text, as a person reads it; None where there is none. It never raises.

    With decimals, thousand commas (groups of three digits: "1,000"; other commas part numbers: "1,2" ends in 2), powers
    of ten ("1e3"), fractions written with a slash and no blanks ("1/2", "2 1/2"), digits of any script. Currency, per
    cent and units are left away ("$5", "50%", "12km"). A minus is a sign where it stands directly before the number
    (or its currency) and behind no number, bracket or letter: "= -3", "(-3)", "-$3", and not "5-3", "5 - 3", "COVID-19"
    or the bullet "- 3"; behind "=" it may be apart ("= - 3"). Digits behind a letter or "^" belong to a name or a unit
    ("25 m2", "x^2"), and count only where there is nothing else.
    """
    last = named = None
    for match in NUMBER.finditer(completion):
        before = completion[match.start() - 1 : match.start()]
        if before.isalpha() or before in ("_", "^"):
            named = match
        else:
            last = match
    if (found := last or named) is None:
        return None
    value = _value(found)
    if not _negative(completion[max(0, found.start() - SEEN) : found.start()]):
        return value
    return value.copy_negate() if isinstance(value, Decimal) else -value


def _value(match: re.Match) -> Decimal | Fraction:
    value = Decimal(match["number"].replace(",", "") + (f"e{match['power']}" if match["power"] else ""))
    if match["over"] is None:
        return value
    over = Decimal(match["over"])
    if not over or len(match["number"]) > LONGEST_FRACTION:
        return over  # the last number, when the two make no quotient
    return Fraction(match["mixed"] or 0) + Fraction(value) / Fraction(over)


def _negative(before: str) -> bool:
    """Whether what stands before a number makes it negative."""
    bare = before.rstrip(CURRENCY)
    if bare[-1:] in MINUS and bare:
        return not NO_SIGN.search(bare[:-1].rstrip(CURRENCY))
    apart = bare.rstrip(" ")
    return bool(apart) and apart[-1] in MINUS and apart[:-1].rstrip(" ").endswith("=")


def gold(answer: str) -> Decimal | None:
    """The number behind "####" of a GSM8K answer; None where there is none."""
    match = GOLD.search(answer)
    try:
        return Decimal(match[1].replace(",", "").rstrip(".")) if match else None
    except ArithmeticError:
        return None
