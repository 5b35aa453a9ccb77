"""Numbers in answers: as the original's script reads them, and as they are meant."""

from __future__ import annotations

import re
from decimal import Decimal

# eval_general/eval_gsm8k_tgi.py: `re.findall(r'\d+', completion)[-1]`, evaluated as a Python expression. \d there is
# any decimal digit of Unicode, of which Python's syntax takes only ASCII; a number that begins with 0 is no Python.
DIGITS = re.compile(r"\d+")
MOST_DIGITS = 4300  # Python's own limit for turning text into an int (sys.int_info.default_max_str_digits)
GOLD = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(
    r"(?<![\d.,])"  # not out of the middle of another number
    r"(?P<sign>[-\u2212])?\s?[$\u20ac\u00a3]?(?P<sign_inside>(?<=[$\u20ac\u00a3])[-\u2212])?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<fraction>\.\d+)?",
    re.ASCII,
)


def original(completion: str) -> int | None:
    """The number that the original's script takes for the answer: the last run of digits, without sign, decimals or
    thousand commas ("1,000" is 0, "12.50" is 50, "-3" is 3). None where it has none ("08" is no Python number).
    """
    runs = DIGITS.findall(completion)
    last = runs[-1] if runs else ""
    if not last.isascii() or not last or len(last) > MOST_DIGITS or (last[0] == "0" and last.strip("0")):
        return None
    return int(last)


def meant(completion: str) -> Decimal | None:
    """The last number, with sign, decimals and thousand commas; None where there is none. A minus between two numbers
    is an operation ("5-3" ends in 3), as is one with blanks on both sides.
    """
    found = None
    for match in NUMBER.finditer(completion):
        if match["whole"] is None and match["fraction"] is None:
            continue
        before = completion[: match.start()].rstrip()
        is_sign = (match["sign"] or match["sign_inside"]) and not re.search(r"[\d)\]%]$", before)
        value = Decimal(f"{(match['whole'] or '0').replace(',', '')}{match['fraction'] or ''}")
        found = -value if is_sign else value
    return found


def gold(answer: str) -> Decimal | None:
    """The number behind "####" of a GSM8K answer; None where there is none."""
    match = GOLD.search(answer)
    try:
        return Decimal(match[1].replace(",", "").rstrip(".")) if match else None
    except ArithmeticError:
        return None
