"""Reads PDDL: nested lists, and a problem's objects, initial facts and goal. PDDL knows no case: all names are lower.

The files come from elsewhere, so they are bounded (characters, depth) and an error names the file and the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agenttuning.errors import UserError

MAX_CHARS = 4_000_000  # the largest official problem is about 60,000
MAX_DEPTH = 40  # the deepest official goal has 12 levels
_TOKEN = re.compile(r"[()\n]|;[^\n]*|[^\s();]+")


@dataclass(frozen=True)
class Problem:
    """A problem: `objects` name -> type, `init` the facts without numeric ones, `goal` as nested lists."""

    objects: dict[str, str]
    init: tuple[tuple[str, ...], ...]
    goal: list


def bad(where: str, seen: str) -> UserError:
    """The error of a file that cannot be played."""
    return UserError(f"{where}: {seen}; the game could not be played as it was written; get the file again")


def parse(text: str, where: str) -> list:
    """The one expression of a text as nested lists of strings, comments dropped. Raises UserError, naming the line."""
    if len(text) > MAX_CHARS:
        raise bad(where, f"the PDDL has {len(text):,} characters, more than {MAX_CHARS:,}")
    top: list = []
    stack = [top]
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "\n":
            line += 1
        elif token == "(":
            if len(stack) > MAX_DEPTH:
                raise bad(where, f"PDDL line {line}: more than {MAX_DEPTH} brackets are open")
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif token == ")":
            if len(stack) == 1:
                raise bad(where, f"PDDL line {line}: a bracket closes that was never opened")
            stack.pop()
        elif token[0] != ";":
            stack[-1].append(token.lower())
    if len(stack) > 1:
        raise bad(where, f"PDDL line {line}: it ends with {len(stack) - 1} brackets open")
    if len(top) != 1 or not isinstance(top[0], list):
        raise bad(where, f"the PDDL has {len(top)} expressions at its top, not one in brackets")
    return top[0]


def write(tree: list | str) -> str:
    """The text of nested lists."""
    return tree if isinstance(tree, str) else f"({' '.join(map(write, tree))})"


def read_problem(text: str, where: str) -> Problem:
    """The problem of a text: (define (problem ..) (:objects ..) (:init ..) (:goal ..)). Raises UserError otherwise."""
    tree = parse(text, where)
    if tree[:1] != ["define"]:
        raise bad(where, "the PDDL does not begin with (define")
    parts: dict[str, list] = {}
    for part in tree[1:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise bad(where, f"{write(part)[:60]!r} is no part of a problem")
        if part[0] in parts:
            raise bad(where, f"it has {part[0]} twice")
        parts[part[0]] = part[1:]
    for name in (":objects", ":init", ":goal"):
        if name not in parts:
            raise bad(where, f"the problem has no {name}")
    if len(parts[":goal"]) != 1 or not isinstance(parts[":goal"][0], list):
        raise bad(where, ":goal is not one expression")
    objects = dict(typed(parts[":objects"], where))
    return Problem(objects, tuple(_facts(parts[":init"], objects, where)), parts[":goal"][0])


def typed(names: list, where: str) -> list[tuple[str, str]]:
    """A typed list, `a b - type c - other`, as pairs of name and type; what has no type is an `object`."""
    pairs: list[tuple[str, str]] = []
    waiting: list[str] = []
    words = iter(names)
    for word in words:
        if not isinstance(word, str):
            raise bad(where, f"{write(word)[:60]!r} stands among names")
        if word != "-":
            waiting.append(word)
            continue
        kind = next(words, None)
        if not isinstance(kind, str):
            raise bad(where, f"a '-' after {' '.join(waiting[-3:])!r} has no type")
        pairs += [(name, kind) for name in waiting]
        waiting = []
    return pairs + [(name, "object") for name in waiting]


def _facts(init: list, objects: dict[str, str], where: str):
    for fact in init:
        if not isinstance(fact, list) or not fact or not isinstance(fact[0], str):
            raise bad(where, f"{write(fact)[:60]!r} is no fact")
        if fact[0] == "=":  # a distance or the cost: nothing that a player sees
            continue
        for name in fact[1:]:
            if not isinstance(name, str) or name not in objects:
                raise bad(where, f"the fact {write(fact)[:80]!r} is about {write(name)[:60]!r}, which :objects lacks")
        yield tuple(fact)
