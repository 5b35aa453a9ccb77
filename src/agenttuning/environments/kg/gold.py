"""The gold calls of an item, as programs and as the scripted expert's moves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agenttuning.environments import Move
from agenttuning.environments.kg import tools
from agenttuning.environments.kg.programs import Program

_CALL = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_MAKERS = {"intersection": "AND", "union": "OR", "argmax": "ARGMAX", "argmin": "ARGMIN"}
_LISTS = ("get_relations", "get_attributes")


@dataclass(frozen=True)
class Call:
    """A gold call. Its arguments are texts, or numbers of variables."""

    name: str
    arguments: tuple[str | int, ...]


def read(actions: list[str]) -> list[Call]:
    """The calls of an item's `actions`. Raises ValueError for a text that is no call."""
    return [_read(action) for action in actions]


def _read(action: str) -> Call:
    found = _CALL.fullmatch(action.strip())
    if found is None or found[1] not in tools.ARITY:
        raise ValueError(f"not a call of a tool: {action[:200]!r}")
    texts = [text.strip() for text in found[2].split(",")]
    if len(texts) != tools.ARITY[found[1]]:
        raise ValueError(f"{found[1]} takes {tools.ARITY[found[1]]} arguments: {action[:200]!r}")
    return Call(found[1], tuple(int(text[1:]) if text[:1] == "#" else text for text in texts))


def made(call: Call, variables: list[Program | None]) -> Program | None:
    """The program of the variable that a call makes, None when one that it needs was not made. Not for lists."""
    values = [argument if isinstance(argument, str) else _get(variables, argument) for argument in call.arguments]
    if None in values:
        return None
    if call.name == "get_neighbors":
        return ("JOIN", ("R", values[1]), values[0])
    if call.name == "count":
        return ("COUNT", values[0])
    return (_MAKERS[call.name], *values)


def program(actions: list[str]) -> Program | None:
    """The program of the last variable that the actions make; None when they make none, or are no calls."""
    variables: list[Program | None] = []
    try:
        calls = read(actions)
    except ValueError:
        return None
    for call in calls:
        if call.name not in _LISTS:
            variables.append(made(call, variables))
    return variables[-1] if variables else None


def _get(variables: list, place: int):
    return variables[place] if place < len(variables) else None


class Plan:
    """The gold calls as a plan that goes on from whatever was done before."""

    def __init__(self, actions: list[str]) -> None:
        self.calls = read(actions)

    def move(self, state: tools.Tools, entities: dict[str, str], failed: set[str]) -> Move:
        """The first call whose result is not there yet; those that failed are passed over; then the answer."""
        there = {variable.program: place for place, variable in enumerate(state.variables)}
        labels = {id_: spoken(label, id_) for label, id_ in entities.items()}
        variables: list[Program | None] = []
        for call in self.calls:
            starts = [variables[a] if isinstance(a, int) and a < len(variables) else a for a in call.arguments]
            listed = call.name in _LISTS
            if not listed:
                variables.append(made(call, variables))
            if any(start is None or isinstance(start, int) for start in starts):
                continue
            seen = {"get_relations": state.relations, "get_attributes": state.attributes}.get(call.name, there)
            if (starts[0] if listed else variables[-1]) in seen:
                continue
            texts = [labels.get(s, s) if isinstance(s, str) else f"#{there[s]}" for s in starts]
            action = f"{call.name}({', '.join(texts)})"
            if action not in failed:
                return Move(_thought(call.name, texts), action)
            if not listed:
                variables[-1] = None
        answer = next((there[one] for one in reversed(variables) if one in there), max(len(there) - 1, 0))
        return Move(f"The answer is variable #{answer}.", f"Final Answer: #{answer}")


def spoken(label: str, id_: str) -> str:
    """How an entity is written in a call: its label, or its id when the label would not be read back."""
    line = f"get_neighbors({label}, x)"
    kept = label == label.strip() and not re.search(r"[#\n\\]|[vV]ariable |Observation:", label)
    read_back = kept and tools.names(line) == ["get_neighbors"] and tools.arguments("get_neighbors", line)
    return label if read_back == [label, "x"] else id_


def _thought(name: str, texts: list[str]) -> str:
    match name:
        case "get_relations":
            return f"I have to see which relations {texts[0]} has."
        case "get_neighbors":
            return f"Of these relations, {texts[1]} leads from {texts[0]} to what I need."
        case "intersection":
            return f"What I look for is both in {texts[0]} and in {texts[1]}."
        case "union":
            return f"What I look for is in {texts[0]} or in {texts[1]}."
        case "get_attributes":
            return f"The question asks for an extreme, so I have to see which attributes {texts[0]} has."
        case "argmax":
            return f"I take the members of {texts[0]} with the largest {texts[1]}."
        case "argmin":
            return f"I take the members of {texts[0]} with the smallest {texts[1]}."
    return f"The question asks for the number of members of {texts[0]}."
