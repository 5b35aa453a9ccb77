"""A small graph made for one item of the benchmark, in which its gold answers are true: a substitute for Freebase.

For every gold answer the pattern of the gold s-expression is made true with fresh entities in between, and with the
reverse relations by which the gold calls walk. Distractors satisfy a part of the pattern only, or come off worse in a
superlative, and every type has further relations. That is enough to play on and to learn the tools; it is not the
benchmark, for Freebase has thousands of wrong turns where this has some. Each item has a graph of its own.
"""

from __future__ import annotations

import random

from agenttuning.environments.kg import gold, graphs, pattern, programs, sparql
from agenttuning.environments.kg.graphs import Graph
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.kg.pattern import Node

TYPE = "type.object.type"
WORDS = ("part_of", "related_to", "named_after", "known_for", "located_in", "member_of", "followed_by", "source")
NUMBERS = ("rank", "weight", "height", "age", "quantity")
ONE_SIDED = 2  # distractors for each part of an intersection
WORSE = 3  # distractors of a superlative
MAX_COUNT = 10_000  # the largest number for which as many members are made; the dev split has 133


def build(item: dict) -> tuple[Graph, Ontology]:
    """The graph of an item and its ontology. Raises ValueError when no graph was found in which the gold s-expression
    gives the gold answers, and nothing else.
    """
    program = programs.parse(item["s_expression"])
    wanted = {str(answer["answer_argument"]) for answer in item["answer"]}
    for distract in (True, False):
        made = _Maker(item, program, distract)
        graph = graphs.build(sorted(made.triples))
        if set(graph.values(sparql.members(program))) == wanted:
            return graph, made.ontology()
    raise ValueError(f"item {item['id']}: no small graph was found in which its s-expression gives the gold answers")


class _Maker:
    """The triples of one item, (start, relation, end)."""

    def __init__(self, item: dict, program: programs.Program, distract: bool) -> None:
        self.rng = random.Random(f"kg/witness/{item['s_expression']}")
        self.triples: set[tuple[str, str, str]] = set()
        self.made = 0
        self.between: dict[int, str] = {}  # id of a join -> the entity in between, the same for all members
        self.attributes: set[str] = set()
        self.distract = distract
        calls = gold.program(item.get("actions", []))
        self.patterns = [pattern.read(program)]
        if calls is not None and not pattern.overlay(self.patterns[0], calls):
            self.patterns.append(pattern.read(calls))  # another way to the same answers: true beside the first
        self.ranges = pattern.ranges(self.patterns)
        answers = [str(answer["answer_argument"]) for answer in item["answer"]]
        for root in self.patterns:
            self._root(root, answers)
        if distract:
            self._further_relations()

    def ontology(self) -> Ontology:
        """All relations of the graph, their types, and its attributes."""
        return Ontology(frozenset(self.ranges), frozenset(self.attributes), self.ranges)

    def _root(self, node: Node, answers: list[str]) -> None:
        if node.kind == "count":
            number = int(answers[0])
            if number > MAX_COUNT:
                raise ValueError(f"a count of {number}: more than {MAX_COUNT} members are not made")
            node, members = node.parts[0], [self._fresh() for _ in range(number)]
        else:
            members = [text if programs.is_entity(text) else f'"{text}' for text in answers]
        for member in members:
            self._hold(node, member, best=True)
        if self.distract:
            self._distractors(node)

    def _fresh(self) -> str:
        self.made += 1
        return f"m.w{self.made:05d}"  # the ids of Freebase begin with m.0

    def _add(self, start: str, relation: str, end: str) -> None:
        if not start.startswith('"') and "^^" not in start:  # a literal has no relations
            self.triples.add((start, relation, end))

    def _connect(self, node: Node, member: str, to: str) -> None:
        for relation, leaves in node.edges:
            self._add(*((to, relation, member) if leaves else (member, relation, to)))

    def _hold(self, node: Node, member: str, best: bool) -> None:
        """Make a member of a node; `best`: also the extremum of its superlative."""
        for type_ in [*node.types, node.slot.type]:
            self._add(member, TYPE, type_)
        match node.kind:
            case "join":
                self._connect(node, member, self._start(node))
            case "compare":
                self._connect(node, member, _satisfying(node.operator, node.of))
            case "or":
                self._hold(node.parts[0], member, best)
            case _:
                for part in node.parts:
                    self._hold(part, member, best)
                if node.kind == "best":
                    self._value(node, member, best)

    def _start(self, node: Node) -> str:
        if isinstance(node.of, str):
            known = programs.is_entity(node.of) or "^^" in node.of or sparql.is_name(node.of) and "." in node.of
            if programs.is_entity(node.of) and node.start is not None:
                self._add(node.of, TYPE, node.start.type)
            return node.of if known else f'"{node.of}'
        if id(node) not in self.between:
            self.between[id(node)] = entity = self._fresh()
            self._hold(node.of, entity, best=True)
        return self.between[id(node)]

    def _value(self, node: Node, member: str, best: bool) -> None:
        *path, (last, _) = node.path
        at = member
        for relation, leaves in path:
            step = self._fresh()
            self._add(*((step, relation, at) if leaves else (at, relation, step)))
            at = step
        self.attributes.add(last)
        number = (900 if best else self.rng.randrange(300, 700)) if node.largest else 0
        number = number or (100 if best else self.rng.randrange(300, 700))
        dated = "date" in last or "year" in last or last.endswith(("from", "to"))
        value = f"{1100 + number}-06-01T00:00:00^^{sparql.XSD}dateTime" if dated else f"{number}.5^^{sparql.XSD}float"
        self._add(at, last, value)

    def _distractors(self, root: Node) -> None:
        for node in list(root.every()):
            if node.kind == "and" and len(node.parts) > 1:
                for part in node.parts:
                    for _ in range(ONE_SIDED):
                        self._hold(part, self._fresh(), best=False)
            if node.kind == "best":
                for _ in range(WORSE):
                    self._hold(node, self._fresh(), best=False)

    def _further_relations(self) -> None:
        types: dict[str, list[str]] = {}
        for start, relation, end in sorted(self.triples):
            if relation == TYPE:
                types.setdefault(end, []).append(start)
        for type_, members in types.items():
            for word in self.rng.sample(WORDS, 3):
                relation = f"{type_}.{word}"
                if relation in self.ranges:
                    continue
                self.ranges[relation] = f"{type_.partition('.')[0]}.{word}"
                target = self._fresh()
                self._add(target, TYPE, self.ranges[relation])
                for member in members:
                    self._add(member, relation, target)
            number = f"{type_}.{self.rng.choice(NUMBERS)}"
            if number in self.attributes:
                continue
            self.attributes.add(number)
            for member in members:
                self._add(member, number, f"{self.rng.randrange(1, 900)}^^{sparql.XSD}integer")


def _satisfying(operator: str, literal: str) -> str:
    """A literal that compares with another as asked."""
    value, _, datatype = literal.partition("^^")
    step = {"lt": -1, "gt": 1}.get(operator, 0)
    if not step:
        return literal
    try:
        number = f"{int(value) + step}" if value.lstrip("-").isdigit() else f"{float(value) + step}"
    except ValueError:
        number = f"{int(value[:4]) + step:04d}{value[4:]}"  # a date
    return f"{number}^^{datatype}"
