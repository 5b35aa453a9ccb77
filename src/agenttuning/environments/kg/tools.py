"""The tools of the knowledge graph task, and the line of calls that a model writes (AgentBench.old: task.py, api.py).

get_relations, get_neighbors, intersection, get_attributes, argmax, argmin, count, and union, which the instruction does
not mention. Observations and error texts are the original's, word for word: the model was trained on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agenttuning.environments.kg import programs, sparql
from agenttuning.environments.kg.graphs import Refused
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.kg.programs import MAX_NODES, Program

NUMBER = "type.int"  # api.py: the type of a count
NOT_EXECUTED = "Function is not executed!"

_MID = re.compile(r"[mf]\.[A-Za-z0-9_]+")  # api.py has \w for the last part; Freebase's ids are ASCII


class ToolError(ValueError):
    """A call that cannot be executed."""


@dataclass(frozen=True)
class Variable:
    """A result: the type of its members, and the program which they are."""

    type: str
    program: Program


Value = Variable | str  # an argument: a variable, an entity's id, or the text as written


class Tools:
    """One episode's variables, and the relations and attributes that it was shown: in the original these two caches are
    shared by all episodes of a process.
    """

    def __init__(self, graph, ontology: Ontology) -> None:
        self.graph, self.ontology = graph, ontology
        self.variables: list[Variable] = []
        self.relations: dict[Program | str, list[str]] = {}
        self.attributes: dict[Program, list[str]] = {}

    def call(self, name: str, arguments: list[Value]) -> str:
        """Run a tool and return the observation. Raises ToolError, and what a graph out of order raises."""
        if name not in ARITY or len(arguments) != ARITY[name]:
            raise ToolError(f"{name} does not take {len(arguments)} arguments")
        try:
            return getattr(self, f"_{name}")(*arguments)
        except (Refused, sparql.NoQuery) as error:
            raise ToolError(str(error)) from error

    def members(self, variable: Variable) -> list[str]:
        """The members of a variable, or its number. Raises ToolError when it has no query or the graph refuses it."""
        try:
            return self.graph.values(sparql.members(variable.program, self.graph.dialect))
        except (Refused, sparql.NoQuery) as error:
            raise ToolError(str(error)) from error

    def _get_relations(self, of: Value) -> str:
        if isinstance(of, str) and not _MID.fullmatch(of):
            raise ToolError("neither a variable nor an entity")
        start = of if isinstance(of, str) else of.program
        self.relations[start] = self._listed(start, self.ontology.relations)
        return f"Observation: [{', '.join(self.relations[start])}]"

    def _get_attributes(self, of: Value) -> str:
        start = _variable(of).program
        self.attributes[start] = self._listed(start, self.ontology.attributes)
        return f"Observation: [{', '.join(self.attributes[start])}]"

    def _listed(self, start: Program | str, known: frozenset[str] | None) -> list[str]:
        # Sorted: the original's order is that of a set.
        found = set(self.graph.values(sparql.relations(start, self.graph.dialect)))
        return sorted(name for name in found if (known is None or name in known) and sparql.is_name(name))

    def _get_neighbors(self, of: Value, relation: Value) -> str:
        start = of if isinstance(of, str) else of.program
        if relation not in self.relations.get(start, ()) or relation not in self.ontology.ranges:
            raise ToolError("not a relation that get_relations showed for it")
        return self._new(self.ontology.ranges[relation], ("JOIN", ("R", relation), start))

    def _intersection(self, one: Value, other: Value) -> str:
        return self._pair("AND", one, other)

    def _union(self, one: Value, other: Value) -> str:
        return self._pair("OR", one, other)

    def _pair(self, name: str, one: Value, other: Value) -> str:
        one, other = _variable(one), _variable(other)
        if one.type != other.type:
            raise ToolError("the two have different types")
        return self._new(one.type, (name, one.program, other.program))

    def _argmax(self, of: Value, attribute: Value) -> str:
        return self._superlative("ARGMAX", of, attribute)

    def _argmin(self, of: Value, attribute: Value) -> str:
        return self._superlative("ARGMIN", of, attribute)

    def _superlative(self, name: str, of: Value, attribute: Value) -> str:
        of = _variable(of)
        if attribute not in self.attributes.get(of.program, ()):
            raise ToolError("not an attribute that get_attributes showed for it")
        return self._new(of.type, (name, of.program, attribute))

    def _count(self, of: Value) -> str:
        return self._new(NUMBER, ("COUNT", _variable(of).program))

    def _new(self, type_: str, program: Program) -> str:
        if programs.size(program) > MAX_NODES:
            raise ToolError(f"more than {MAX_NODES} steps")
        self.variables.append(Variable(type_, program))
        kind = "is a number" if program[0] == "COUNT" else f"are instances of {type_}"
        return f"Observation: variable #{len(self.variables) - 1}, which {kind}"


ARITY = {
    "get_relations": 1,
    "get_neighbors": 2,
    "intersection": 2,
    "get_attributes": 1,
    "argmax": 2,
    "argmin": 2,
    "count": 1,
    "union": 2,
}


def _variable(value: Value) -> Variable:
    if isinstance(value, str):
        raise ToolError("not a variable")
    return value


def names(line: str) -> list[str]:
    """The words right before a `(`, in their order: `(\\w+)\\(` of task.py, in time linear in the line's length."""
    found, start = [], 0
    while (place := line.find("(", start)) >= 0:
        first = place
        while first > start and (line[first - 1].isalnum() or line[first - 1] == "_"):
            first -= 1
        if first < place:
            found.append(line[first:place])
        start = place + 1
    return found


def arguments(name: str, line: str) -> list[str] | None:
    """What stands between the first `name(` of a line and the next `)`, cut at commas; None when it does not close.

    `name\\((.+?)\\)` and `\\s*,\\s*` of task.py: white space goes around commas, and stays at both ends.
    """
    start = line.index(f"{name}(") + len(name) + 1
    end = line.find(")", start + 1)
    if end < 0:
        return None
    first, *more = line[start:end].split(",")
    if not more:
        return [first]
    *middle, last = more
    return [first.rstrip(), *(text.strip() for text in middle), last.lstrip()]


def syntax_error(name: str) -> str:
    """What the model is told of a call that cannot be read, before any call could."""
    return (
        f"I may make a syntax error when calling {name} (e.g., unmatched parenthesis). "
        "I need to fix it and reuse the tool"
    )


def not_executable(name: str, texts: list[str]) -> str:
    """What the model is told of a call that failed. An intersection is always said to have failed for its types."""
    why = "You may make a mistake and need to fix it."
    if name == "intersection":
        why = "The two variables are not of the same type. You may further explore them by call get_relations"
    return f"{name}({', '.join(texts)}) cannot be executed. {why}"
