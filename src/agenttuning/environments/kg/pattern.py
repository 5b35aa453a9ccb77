"""A gold program as a pattern of edges, each with the reverse relation by which the gold calls walk it, and its types.

The s-expression says `(JOIN basketball.basketball_position.players X)` where the calls say `get_neighbors(X,
basketball.basketball_player.position_s)`: one edge under two names. Freebase has both triples, and Freebase's own list
of reverse properties need not be at hand, so the pairs are found by laying one program over the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agenttuning.environments.kg import programs
from agenttuning.environments.kg.programs import Program

ANY = "common.topic"


class Slot:
    """What stands in one place of a pattern. Slots that must have the same type are joined."""

    def __init__(self) -> None:
        self.parent: Slot | None = None
        self.said: list[str] = []  # types that the program names
        self.domains: list[str] = []  # of the relations that leave from here

    def root(self) -> Slot:
        """The slot that speaks for all that are joined with this one."""
        return self if self.parent is None else self.parent.root()

    def join(self, other: Slot) -> None:
        """Give both the same type."""
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            mine.said += theirs.said
            mine.domains += theirs.domains
            theirs.parent = mine

    @property
    def type(self) -> str:
        """The type named first, else the domain of the first relation that leaves from here."""
        root = self.root()
        return next(iter([*root.said, *root.domains]), ANY)


@dataclass
class Node:
    """One step of a pattern, whose members stand in `slot`.

    kind: join (by `edges` from `of`), and, or (of `parts`), count, best (the extremum of `path`), compare. An edge is
    (relation, True) when it leads from `of` to the members, (relation, False) when it leads from them to `of`.
    """

    kind: str
    slot: Slot
    parts: list[Node] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    edges: list[tuple[str, bool]] = field(default_factory=list)
    of: Node | str = ""
    start: Slot | None = None  # of `of`
    path: list[tuple[str, bool]] = field(default_factory=list)
    largest: bool = True
    operator: str = ""

    def every(self) -> Iterator[Node]:
        """This node and those below it."""
        yield self
        for part in [*self.parts, *([self.of] if isinstance(self.of, Node) else [])]:
            yield from part.every()


def read(program: Program, slot: Slot | None = None) -> Node:
    """The pattern of a program. Raises ValueError for a program without members of its own, such as a lone type."""
    slot = slot or Slot()
    name, *rest = program
    if name == "JOIN":
        of = rest[1] if isinstance(rest[1], str) else read(rest[1])
        start = of.slot if isinstance(of, Node) else Slot()
        return Node("join", slot, edges=[_edge(rest[0])], of=of, start=start)
    if name in ("AND", "OR"):
        types = [part for part in rest if isinstance(part, str)]
        parts = [read(part, slot) for part in rest if not isinstance(part, str)]
        return Node(name.lower(), slot, parts, types)
    if name in programs.SUPERLATIVES:
        inner, types = ([], [rest[0]]) if isinstance(rest[0], str) else ([read(rest[0], slot)], [])
        path = [_edge(relation) for relation in programs.chain(rest[1])]
        return Node("best", slot, inner, types, path=path, largest=name == "ARGMAX")
    if name == "COUNT":
        return Node("count", slot, [read(rest[0], slot)])
    if name == "TC":
        return Node("and", slot, [read(rest[0], slot)])  # whatever has no dates is there at all times
    if name in programs.COMPARISONS:
        return Node("compare", slot, edges=[(rest[0], False)], of=rest[1], start=Slot(), operator=name)
    raise ValueError(f"no pattern: {programs.write(program)[:200]}")


def _edge(relation: Program | str) -> tuple[str, bool]:
    return (relation, False) if isinstance(relation, str) else (relation[1], True)


def overlay(node: Node, calls: Program | str) -> bool:
    """Give the edges of a pattern their second names from the gold calls' program; False when the two do not match."""
    pairs = _pairs(node, calls)
    for join, relation in pairs or ():
        if (relation, True) not in join.edges:
            join.edges.append((relation, True))
    return pairs is not None


def _pairs(node: Node | str, calls: Program | str) -> list[tuple[Node, str]] | None:
    if isinstance(node, str) or isinstance(calls, str):
        return [] if node == calls else None
    if node.kind == "and" and len(node.parts) == 1:
        return _pairs(node.parts[0], calls)
    name, *rest = calls
    if node.kind == "join" and name == "JOIN":
        inner = _pairs(node.of, rest[1])
        return None if inner is None else [(node, rest[0][1]), *inner]
    same = {"and": "AND", "or": "OR", "count": "COUNT", "best": "ARGMAX" if node.largest else "ARGMIN"}
    if same.get(node.kind) != name or not node.parts:
        return None
    if len(node.parts) == 1:
        return _pairs(node.parts[0], rest[0])
    for order in (rest, rest[::-1]):
        both = [_pairs(part, other) for part, other in zip(node.parts, order, strict=True)]
        if None not in both:
            return [pair for pairs in both for pair in pairs]
    return None


def ranges(patterns: list[Node]) -> dict[str, str]:
    """The type of what each relation leads to; relations that meet in an `and` lead to the same type."""
    ends: dict[str, Slot] = {}
    entities: dict[str, Slot] = {}
    for node in [node for pattern in patterns for node in pattern.every()]:
        node.slot.root().said += node.types
        if isinstance(node.of, str) and node.start is not None and node.kind == "join":
            entities.setdefault(node.of, node.start).join(node.start)
        for relation, leaves in node.edges:
            subject, object_ = (node.start, node.slot) if leaves else (node.slot, node.start)
            subject.root().domains.append(domain(relation))
            if node.kind == "join":
                ends.setdefault(relation, object_).join(object_)
        for relation, leaves in node.path[:1]:
            if not leaves:
                node.slot.root().domains.append(domain(relation))
    return {relation: slot.type for relation, slot in ends.items()}


def domain(relation: str) -> str:
    """The type that has a relation: its name without the last part."""
    return relation.rpartition(".")[0] or ANY
