"""MySQL's functions and comparisons for SQLite, bounded in work. NULL is None; text with a number becomes a number."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
import unicodedata
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from agenttuning.environments.db.scoring import GROUP_CONCAT_CHARS

WORK = 5_000_000  # characters that a statement's functions may read and write
TEXT_CHARS = 20_000  # of one value
PATTERN_CHARS = 200
SUBJECT_CHARS = 500
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
# Blanks, then signs, in the order in which MySQL's collation has them, all before digits and letters. They take the
# places up to "O" and digits those from "P": after folding there are no capitals.
_SIGNS = "\t\n\r _-‐‑‒–—―,;:!¡?¿.…·'‘’‚\"“”„«»()[]{}§¶@*/\\&#%†‡•`´^¯¨°©®+±÷×<=>|~¬¢$£¥€"
_ORDER = {ord(sign): chr(place) for place, sign in enumerate(_SIGNS, 1)}
_ORDER |= {ord("0") + digit: chr(ord("P") + digit) for digit in range(10)}
_ORDER |= str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"})


class Exhausted(RuntimeError):
    """A statement did more work than it may."""


class Work:
    """What is left of a statement's work."""

    def __init__(self) -> None:
        self.left = WORK
        self.exhausted = False

    def renew(self) -> None:
        """A new statement begins."""
        self.left, self.exhausted = WORK, False

    def spend(self, amount: int) -> None:
        """Count work. Raises Exhausted."""
        self.left -= amount
        if self.left < 0:
            self.exhausted = True
            raise Exhausted


@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    """The key by which MySQL's default collation compares: no case, no accents, signs before digits before letters."""
    plain = text if text.isascii() else unicodedata.normalize("NFD", text)
    plain = (
        "".join(c for c in plain.casefold() if not unicodedata.combining(c)) if not plain.isascii() else plain.lower()
    )
    return plain.translate(_ORDER)


def collate(a: str, b: str) -> int:
    """SQLite's callback of the collation."""
    a, b = fold(a), fold(b)
    return (a > b) - (a < b)


def number(value: Any) -> int | float | None:
    """A value as a number; of a text, the number at its beginning, else 0."""
    if value is None or isinstance(value, int | float):
        return value
    found = _NUMBER.match(text_of(value)[:TEXT_CHARS])
    result = float(found[1]) if found else 0.0
    return result if math.isfinite(result) else math.copysign(1.7976931348623157e308, result)


def text_of(value: Any) -> str | None:
    """A value as a text, as MySQL writes numbers."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).replace("e+", "e")
    return str(value)


def compare(a: Any, b: Any) -> int | None:
    """-1, 0 or 1 as MySQL compares: two texts by collation, else as numbers."""
    if a is None or b is None:
        return None
    a, b = (fold(a), fold(b)) if isinstance(a, str) and isinstance(b, str) else (number(a), number(b))
    return (a > b) - (a < b)


def is_in(value: Any, *others: Any) -> int | None:
    """IN with a list."""
    found = [compare(value, other) for other in others]
    return 1 if 0 in found else None if None in found else 0


def between(value: Any, low: Any, high: Any) -> int | None:
    """BETWEEN."""
    if any(isinstance(part, int | float) for part in (value, low, high)):  # then all three are numbers
        value, low, high = number(value), number(low), number(high)
    above, below = compare(value, low), compare(value, high)
    if (above is not None and above < 0) or (below is not None and below > 0):
        return 0
    return None if above is None or below is None else 1


def like(value: Any, pattern: Any, escape: str = "\\") -> int | None:
    """LIKE, without case and accents, in time linear in the parts of the pattern."""
    if value is None or pattern is None:
        return None
    subject, parts, literal = fold(text_of(value)), [[]], False
    for c in text_of(pattern):
        if literal:
            parts[-1].append(re.escape(fold(c)))
            literal = False
        elif c == escape:
            literal = True
        elif c == "%":
            parts.append([])
        else:
            parts[-1].append("." if c == "_" else re.escape(fold(c)))
    first, *rest = [re.compile("".join(part), re.DOTALL) for part in parts]
    if not rest:
        return int(first.fullmatch(subject) is not None)
    found = first.match(subject)
    for part in rest[:-1]:
        found = found and part.search(subject, found.end())
    if not found:
        return 0
    start = max(found.end(), len(subject) - len(parts[-1]))
    return int(rest[-1].fullmatch(subject, start) is not None)


def regexp(value: Any, pattern: Any) -> int | None:
    """REGEXP for patterns that cannot run away: short, two repetitions at most, none of a group. Else ValueError."""
    if value is None or pattern is None:
        return None
    pattern, subject = text_of(pattern), text_of(value)
    bad = len(pattern) > PATTERN_CHARS or re.search(r"\)\s*[*+{?]|\\\d|\(\?", pattern)
    if bad or len(re.findall(r"[*+{?]", pattern)) > 2:
        raise ValueError("pattern")
    pattern = re.sub(r"\[\[:(alpha|digit|space|alnum):\]\]", lambda m: _CLASSES[m[1]], pattern)
    return int(re.search(pattern, subject[:SUBJECT_CHARS], re.IGNORECASE) is not None)


_CLASSES = {"alpha": r"[^\W\d_]", "digit": r"\d", "space": r"\s", "alnum": r"[^\W_]"}


def round_decimal(value: Any, places: int = 0, mode: str = ROUND_HALF_UP) -> float | int | None:
    """ROUND of a number whose decimal digits are exact."""
    value, places = number(value), max(-30, min(30, int(number(places) or 0)))
    if value is None:
        return None
    result = Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), mode) if abs(value) < 1e25 else Decimal(value)
    return int(result) if isinstance(value, int) or places <= 0 and result == int(result) else float(result)


def round_double(value: Any, places: int = 0) -> float | None:
    """ROUND of a double: halves go to the even neighbour."""
    value = number(value)
    return None if value is None else float(round(float(value), max(-30, min(30, int(number(places) or 0)))))


def substring(text: str | None, start: Any, length: Any = TEXT_CHARS) -> str | None:
    """SUBSTRING; positions from 1, negative ones from the end."""
    if text is None or start is None or length is None:
        return None
    text, start, length = text_of(text), int(number(start)), int(number(length))
    if start == 0 or length < 1 or abs(start) > len(text):
        return ""
    begin = start - 1 if start > 0 else len(text) + start
    return text[begin : begin + length]


def substring_index(text: Any, mark: Any, count: Any) -> str | None:
    """SUBSTRING_INDEX."""
    if text is None or mark is None or count is None:
        return None
    text, mark, count = text_of(text), text_of(mark), int(number(count))
    if not mark or not count:
        return ""
    parts = text.split(mark)
    return mark.join(parts[:count] if count > 0 else parts[count:])


def locate(mark: Any, text: Any, start: Any = 1) -> int | None:
    """LOCATE, by the collation."""
    if mark is None or text is None:
        return None
    start = int(number(start))
    return 0 if start < 1 else fold(text_of(text)).find(fold(text_of(mark)), start - 1) + 1


def concat_ws(mark: Any, *values: Any) -> str | None:
    """CONCAT_WS: NULLs are left out."""
    return None if mark is None else text_of(mark).join(text_of(v) for v in values if v is not None)


def pad(text: Any, length: Any, fill: Any, left: bool) -> str | None:
    """LPAD and RPAD."""
    if text is None or length is None or fill is None:
        return None
    text, length, fill = text_of(text), min(int(number(length)), TEXT_CHARS), text_of(fill)
    if length < 0 or (not fill and length > len(text)):
        return None if length < 0 else ""
    missing = max(0, length - len(text))
    filling = (fill * (missing // len(fill) + 1))[:missing] if fill else ""
    return (filling + text if left else text + filling)[:length]


def trim(text: Any, mark: str = " ", where: str = "BOTH") -> str | None:
    """TRIM of a mark from one or both ends."""
    if text is None:
        return None
    text = text_of(text)
    while mark and where != "TRAILING" and text.startswith(mark):
        text = text[len(mark) :]
    while mark and where != "LEADING" and text.endswith(mark):
        text = text[: -len(mark)]
    return text


def date_part(value: Any, part: slice) -> int | None:
    """YEAR, MONTH, DAY of a text that is a date; NULL of another."""
    found = None if value is None else re.match(r"\s*(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T]|\s*$)", text_of(value))
    if not found or not (int(found[2]) <= 12 and int(found[3]) <= 31):
        return None
    return [int(x) for x in found.groups()][part][0]


def _strict(function: Callable) -> Callable:
    # NULL in, NULL out.
    return lambda *values: None if any(value is None for value in values) else function(*values)


def _divide(a: Any, b: Any) -> float | None:
    a, b = number(a), number(b)
    return None if a is None or not b else a / b


def _int(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):  # the digits at its beginning, nothing is rounded
        found = re.match(r"\s*([-+]?\d{1,18})", value)
        return int(found[1]) if found else 0
    return max(-(2**63), min(2**63 - 1, int(round_decimal(value))))


def _extreme(best: Callable) -> Callable:
    def pick(*values: Any) -> Any:
        if all(isinstance(value, str) for value in values):
            return best(values, key=fold)
        return best(number(value) for value in values)

    return _strict(pick)


FUNCTIONS: dict[str, Callable] = {
    "num": number,
    "text": text_of,
    "stored": _strict(lambda v, d: f"{Decimal(repr(number(v))).quantize(Decimal(1).scaleb(-d), ROUND_HALF_UP):f}"),
    "int": _int,
    "cmp": compare,
    "same": lambda a, b: int(a is None and b is None) if a is None or b is None else int(compare(a, b) == 0),
    "in": is_in,
    "between": between,
    "like": like,
    "regexp": regexp,
    "div": _divide,
    "intdiv": lambda a, b: None if (q := _divide(a, b)) is None else int(q),
    "mod": lambda a, b: None if a is None or not number(b) else _mod(number(a), number(b)),
    "round_dec": round_decimal,
    "round_double": round_double,
    "truncate": lambda v, d: round_decimal(v, d, ROUND_DOWN),
    "floor": _strict(lambda v: math.floor(number(v))),
    "ceil": _strict(lambda v: math.ceil(number(v))),
    "abs": _strict(lambda v: abs(number(v))),
    "sign": _strict(lambda v: (number(v) > 0) - (number(v) < 0)),
    "pow": _strict(lambda a, b: float(number(a)) ** float(number(b))),
    "sqrt": _strict(lambda v: math.sqrt(number(v)) if number(v) >= 0 else None),
    "greatest": _extreme(max),
    "least": _extreme(min),
    "concat": _strict(lambda *v: "".join(map(text_of, v))),
    "concat_ws": concat_ws,
    "substring": substring,
    "substring_index": substring_index,
    "left": _strict(lambda v, n: text_of(v)[: max(0, int(number(n)))]),
    "right": _strict(lambda v, n: text_of(v)[-int(number(n)) :] if number(n) >= 1 else ""),
    "length": _strict(lambda v: len(text_of(v).encode("utf-8", "replace"))),
    "char_length": _strict(lambda v: len(text_of(v))),
    "upper": _strict(lambda v: text_of(v).upper()),
    "lower": _strict(lambda v: text_of(v).lower()),
    "reverse": _strict(lambda v: text_of(v)[::-1]),
    "replace": _strict(lambda v, a, b: text_of(v).replace(text_of(a), text_of(b)) if a else text_of(v)),
    "repeat": _strict(lambda v, n: text_of(v) * max(0, min(int(number(n)), TEXT_CHARS // max(1, len(text_of(v)))))),
    "locate": locate,
    "field": lambda v, *o: next((i for i, x in enumerate(o, 1) if compare(v, x) == 0), 0),
    "find_in_set": _strict(lambda v, s: _place(fold(text_of(v)), fold(text_of(s)).split(fold(",")))),
    "lpad": lambda v, n, f: pad(v, n, f, True),
    "rpad": lambda v, n, f: pad(v, n, f, False),
    "trim": trim,
    "md5": _strict(lambda v: hashlib.md5(text_of(v).encode("utf-8", "replace"), usedforsecurity=False).hexdigest()),
    "year": lambda v: date_part(v, slice(0, 1)),
    "month": lambda v: date_part(v, slice(1, 2)),
    "day": lambda v: date_part(v, slice(2, 3)),
    "format": _strict(lambda v, d: f"{round_decimal(v, d):,.{max(0, int(number(d)))}f}"),
}  # fmt: skip


def _place(value: str, parts: list[str]) -> int:
    return parts.index(value) + 1 if value in parts else 0


def _mod(a: float, b: float) -> float:
    return int(math.fmod(a, b)) if isinstance(a, int) and isinstance(b, int) else math.fmod(a, b)


class GroupConcat:
    """GROUP_CONCAT: (distinct, separator, descending, key, value...); cut as MySQL does."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self.settings: tuple = (0, ",", 0)

    def step(self, distinct: int, mark: str, descending: int, key: Any, *values: Any) -> None:
        """One row."""
        self.settings = (distinct, mark, descending)
        if all(value is not None for value in values):
            self.rows.append((key, "".join(map(text_of, values))))

    def finalize(self) -> str | None:
        """The text, None without rows."""
        distinct, mark, descending = self.settings
        if any(key is not None for key, _ in self.rows):
            number_keys = not any(isinstance(key, str) for key, _ in self.rows)
            as_key = (lambda r: r[0] or 0) if number_keys else (lambda r: fold(text_of(r[0]) or ""))
            self.rows.sort(key=as_key, reverse=bool(descending))
        texts = [text for _, text in self.rows]
        if distinct:
            texts = list({fold(text): text for text in reversed(texts)}.values())[::-1]
        return mark.join(texts)[:GROUP_CONCAT_CHARS] if texts else None


def install(connection: sqlite3.Connection, work: Work) -> None:
    """Give a connection all functions as my_NAME, the aggregate my_group_concat and the collation `mysql`."""

    def bounded(function: Callable) -> Callable:
        def call(*values: Any) -> Any:
            work.spend(4 + sum(len(value) for value in values if isinstance(value, str)))
            result = function(*values)
            if isinstance(result, str):
                work.spend(len(result))
                return result[:TEXT_CHARS]
            if isinstance(result, float) and not math.isfinite(result):
                return None
            return result

        return call

    class Counted(GroupConcat):
        def step(self, *values: Any) -> None:
            work.spend(4 + sum(len(value) for value in values if isinstance(value, str)))
            super().step(*values)

    for name, function in FUNCTIONS.items():
        connection.create_function(f"my_{name}", -1, bounded(function), deterministic=True)
    connection.create_aggregate("my_group_concat", -1, Counted)
    connection.create_collation("mysql", collate)
