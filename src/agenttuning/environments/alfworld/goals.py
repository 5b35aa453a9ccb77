"""Goals: conjunctions of facts about things that must exist, as all of alfworld's six goals are (gen/goal_library.py).

    (and (exists (?r - receptacle) (exists (?o - object) (and (inReceptacle ?o ?r) (objectType ?o MugType) ..))))

Each part of the outermost `and` becomes a clause, which is answered as a small join over the facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agenttuning.environments.alfworld.facts import PLACES, Facts
from agenttuning.environments.alfworld.pddl import bad, typed, write

MAX_ATOMS, MAX_VARIABLES = 40, 4  # of a clause; the official ones have at most 7 and 4
# The order in which a join asks: what is rarely true first.
_RARE = (
    *("holds", "istoggled", "ishot", "iscool", "isclean", "issliced", "ison", "atlocation", "opened"),
    *("objecttype", "inreceptacle"),
)


@dataclass
class Clause:
    """Variables name -> type, facts that must hold (names beginning with ? are variables), pairs that must differ."""

    variables: dict[str, str] = field(default_factory=dict)
    atoms: list[tuple[str, ...]] = field(default_factory=list)
    differ: list[tuple[str, str]] = field(default_factory=list)

    def of(self, predicate: str) -> list[tuple[str, ...]]:
        """The names of the clause's facts of one predicate."""
        return [atom[1:] for atom in self.atoms if atom[0] == predicate]


def read_goal(goal: list, where: str) -> list[Clause]:
    """The clauses of a goal. Raises UserError for a form that none of the six tasks has."""
    clauses = []
    for part in goal[1:] if goal[:1] == ["and"] else [goal]:
        clause = Clause()
        _collect(part, {}, clause, where)
        clause.atoms.sort(key=lambda atom: _RARE.index(atom[0]) if atom[0] in _RARE else len(_RARE))
        clauses.append(clause)
    if not clauses or any(not clause.atoms for clause in clauses):
        raise bad(where, "the goal asks for nothing")
    return clauses


def _collect(part: list | str, names: dict[str, str], clause: Clause, where: str) -> None:
    if not isinstance(part, list) or not part or not isinstance(part[0], str):
        raise bad(where, f"the goal has {write(part)[:80]!r}, which is no condition")
    match part:
        case ["and", *parts]:
            for inner in parts:
                _collect(inner, names, clause, where)
        case ["exists", list(variables), inner]:
            names = dict(names)
            for name, kind in typed(variables, where):
                names[name] = f"{name}.{len(clause.variables)}"  # two `exists` may use one name
                clause.variables[names[name]] = kind
            _collect(inner, names, clause, where)
        case ["not", ["=", str(left), str(right)]] if left in names and right in names:
            clause.differ.append((names[left], names[right]))
        case [predicate, *arguments] if PLACES.get(predicate) == len(arguments) and all(
            isinstance(name, str) and (name in names or not name.startswith("?")) for name in arguments
        ):
            clause.atoms.append((predicate, *(names.get(name, name) for name in arguments)))
        case _:
            raise bad(where, f"the goal has {write(part)[:80]!r}, a form that the engine does not know")
    if len(clause.atoms) > MAX_ATOMS or len(clause.variables) > MAX_VARIABLES:
        raise bad(where, f"a part of the goal has more than {MAX_ATOMS} conditions or {MAX_VARIABLES} variables")


def holds(clauses: list[Clause], facts: Facts) -> bool:
    """True when each clause has an answer."""
    return all(_answered(clause, facts, 0, {}) for clause in clauses)


def _answered(clause: Clause, facts: Facts, place: int, bound: dict[str, str]) -> bool:
    if any(a in bound and b in bound and bound[a] == bound[b] for a, b in clause.differ):
        return False
    if place == len(clause.atoms):
        return True
    predicate, *names = clause.atoms[place]
    known = tuple(bound.get(name) if name.startswith("?") else name for name in names)
    for found in facts.matches(predicate, known):
        new = {name: value for name, value in zip(names, found, strict=True) if name.startswith("?")}
        if _answered(clause, facts, place + 1, {**bound, **new}):
            return True
    return False
