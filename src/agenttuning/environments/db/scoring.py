"""When an episode is won: the rules of AgentBench.old (src/tasks/dbbench/__init__.py), without its eval()."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

CHANGES = ("INSERT", "DELETE", "UPDATE")  # kinds judged by the table
GROUP_CONCAT_CHARS = 1024  # MySQL's default of group_concat_max_len: what lies beyond is not hashed
ANSWER_CHARS = 20_000  # of an answer that is parsed; a longer one is compared as one string
DEPTH = 40  # brackets and signs around a value; Python's parser has limits that end the process
_SIGNS = re.compile(r"(?:(?:[-+~]|\bnot\b|\blambda\b|\bawait\b)[\s:\\]*){%d}" % DEPTH)  # noqa: UP031


def category(kind: str) -> str:
    """SELECT, INSERT or UPDATE: the original's headline number is the mean of these three accuracies, and counts
    whatever is neither INSERT nor UPDATE under SELECT.
    """
    return kind if kind in ("INSERT", "UPDATE") else "SELECT"


def answer_values(text: str) -> list[Any]:
    """The values of a final answer: the elements of a Python literal, or [text] when it is none. Never raises.

    As in the original, a single number or an unquoted text is one value, with its leading blank, and the elements of a
    quoted string are its characters. Where the original would have run the text as code, it is one string here.
    """
    if len(text) > ANSWER_CHARS or _depth(text) > DEPTH or _SIGNS.search(text):
        return [text]
    try:
        return list(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return [text]


def _depth(text: str) -> int:
    # Brackets inside of quotes count too: an answer with forty of them is read as one string, that is all.
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def answers_match(text: str, label: Sequence[Any]) -> bool:
    """True when the final answer `text` is right. One value against one is compared as numbers where both are, else as
    they are; otherwise both are compared as sets, without order and number of occurrences.
    """
    values = answer_values(text)
    if len(values) == 1 and len(label) == 1:
        try:
            return float(values[0]) == float(label[0])
        except (ValueError, TypeError, OverflowError):
            return values[0] == label[0]
    try:
        return set(values) == set(label)
    except TypeError:  # a list in the list: the original counts it as wrong
        return False


def table_hash(rows: Iterable[Sequence[str | None]]) -> str:
    """The original's hash of a table, as the text that it compares: "[('...',)]", or "[(None,)]" without rows.

    md5 of the sorted and joined row hashes; a row's is the first five hex digits of the md5 of its values joined by
    commas, NULLs left out.
    """
    hashes = sorted(_md5(",".join(value for value in row if value is not None))[:5] for row in rows)
    return str([(_md5(",".join(hashes)[:GROUP_CONCAT_CHARS]) if hashes else None,)])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
