"""Programs: what a variable of the knowledge graph task stands for, in GrailQA's s-expressions.

    (JOIN (R r) X)   what the relation r leads to from X        (JOIN r X)   what leads to X by r
    (AND X Y)  (OR X Y)  (COUNT X)  (ARGMAX X a)  (ARGMIN X a)   X is an entity, a type, a literal or a program

A program is a nested tuple of texts, ("JOIN", ("R", "people.person.parents"), "m.02mjmr"), so that it can be a key.
The tools build JOIN with R only; the benchmark's gold s-expressions use the whole language, with le, lt, ge, gt and TC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Program = tuple  # of str and Program
COMPARISONS = {"le": "<=", "lt": "<", "ge": ">=", "gt": ">"}
SUPERLATIVES = ("ARGMAX", "ARGMIN")
MAX_NODES = 128  # not stated; we chose. A variable doubles with intersection(#k, #k); no gold program has more than 17

_ENTITY = re.compile(r"[mg]\.[A-Za-z0-9_]+")
_TOKENS = re.compile(r"[()]|[^\s()]+")


def is_entity(text: object) -> bool:
    """True for a machine id of Freebase, such as m.02mjmr."""
    return isinstance(text, str) and _ENTITY.fullmatch(text) is not None


def parse(text: str) -> Program:
    """The program of an s-expression. Raises ValueError when the parentheses do not match, or nothing is in them."""
    stack: list[list] = [[]]
    for token in _TOKENS.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) < 2 or not stack[-1]:
                raise ValueError(f"not an s-expression: {text[:200]!r}")
            done = tuple(stack.pop())
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) != 1 or len(stack[0]) != 1 or isinstance(stack[0][0], str):
        raise ValueError(f"not an s-expression: {text[:200]!r}")
    return stack[0][0]


def write(program: Program | str) -> str:
    """The s-expression of a program."""
    return program if isinstance(program, str) else f"({' '.join(map(write, program))})"


def nodes(program: Program | str) -> Iterator[Program]:
    """Every sub-program, the whole first; without relations (R r) and texts."""
    if isinstance(program, str) or program[0] == "R":
        return
    yield program
    for part in program[1:]:
        yield from nodes(part)


def size(program: Program | str) -> int:
    """Number of sub-programs."""
    return sum(1 for _ in nodes(program))


def entities(program: Program) -> list[str]:
    """The entities that a JOIN starts from, sorted, each once."""
    return sorted({node[2] for node in nodes(program) if node[0] == "JOIN" and len(node) == 3 and is_entity(node[2])})


def chain(path: Program | str) -> list[str | tuple]:
    """The relations of a superlative's path, from the entity to the value: `r`, or (JOIN r1 r2) for two in a row."""
    if isinstance(path, str) or path[0] == "R":
        return [path]
    return [relation for part in path[1:] for relation in chain(part)]
