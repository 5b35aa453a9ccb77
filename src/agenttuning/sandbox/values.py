"""Plain values between two sandboxed processes, as JSON with tags; what this process lets through.

A child writes one line of ASCII. JSON's own null, true, false, integers, finite floats, strings and lists stand for
themselves; all else is an object with exactly one key, its tag:

    {"tuple": [..]}  set, frozenset, deque   their entries
    {"iterator": [..]}                       what a generator, map, zip .. gives; read once, equal to nothing
    {"dict": [[key, value], ..]}
    {"int": "-0x1f.."}                       one too long for JSON
    {"float": "nan"}  inf, -inf
    {"complex": [real, imaginary]}
    {"bytes": "00ff"}  bytearray             hexadecimal
    {"range": [start, stop, step]}
    {"decimal": "1.50"}  {"fraction": [numerator, denominator]}

`parse` turns a line into a tree, in which a tagged value is a tuple (tag, content), and refuses all other forms. No
value is built in this process: the tree goes to the other child in marshal's format, which has all that a tree has.
Nothing that a child wrote is unpickled or evaluated here. What has the form and cannot be built (a list in a set) fails
in the other child, which is a test that fails.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

# more than child.DEPTH and the lists of a message around it; far less than Python's own limit
DEPTH = 60
ENTRIES = ("tuple", "set", "frozenset", "deque", "iterator")
TEXTS = {
    "int": re.compile(r"-?0x[0-9a-f]+"),
    "float": re.compile(r"nan|-?inf"),
    "bytes": re.compile(r"(?:[0-9a-f]{2})*"),
    "bytearray": re.compile(r"(?:[0-9a-f]{2})*"),
    "decimal": re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:E[+-]?[0-9]+)?"),
}
NUMBERS = {"complex": 2, "range": 3, "fraction": 2}


def parse(line: bytes) -> Any:
    """The tree of one line. Raises ValueError for one that no honest child writes."""
    try:
        tree = json.loads(line.decode("ascii"), object_pairs_hook=_tagged, parse_constant=_refuse)
        _check(tree, DEPTH)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return tree


def _tagged(pairs: list[tuple[str, Any]]) -> tuple[str, Any]:
    [pair] = pairs  # ValueError for any other number
    return pair


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check(tree: Any, depth: int) -> None:
    if isinstance(tree, float) and not math.isfinite(tree):  # 1e999
        raise ValueError("a float without its tag")
    if not isinstance(tree, list | tuple):
        return
    if not depth:
        raise ValueError("nested too deeply")
    tag, content = ("list", tree) if isinstance(tree, list) else tree
    text = TEXTS.get(tag)
    if text:
        if not isinstance(content, str) or not text.fullmatch(content):
            raise ValueError(f"no {tag}: {str(content)[:40]!r}")
        return
    if not isinstance(content, list) or tag not in ("list", "dict", *ENTRIES, *NUMBERS):
        raise ValueError(f"no value: {str(tag)[:40]!r}")
    if tag == "dict" and not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise ValueError("a dict without pairs")
    if tag in NUMBERS and len(content) != NUMBERS[tag]:
        raise ValueError(f"a {tag} of {len(content)} numbers")
    for entry in content:
        _check(entry, depth - 1)
