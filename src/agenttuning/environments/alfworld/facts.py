"""What is true in a game: one- and two-place predicates, looked up by their first name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# Predicates of alfworld's domain (alfworld/data/alfred.pddl) that facts or goals may use, with their places.
PLACES = {
    "atlocation": 2,
    "receptacleatlocation": 2,
    "objectatlocation": 2,
    "openable": 1,
    "opened": 1,
    "inreceptacle": 2,
    "isreceptacleobject": 1,
    "inreceptacleobject": 2,
    "isreceptacleobjectfull": 1,
    "wasinreceptacle": 2,
    "checked": 1,
    "examined": 1,
    "receptacletype": 2,
    "cancontain": 2,
    "objecttype": 2,
    "holds": 2,
    "holdsany": 1,
    "holdsanyreceptacleobject": 1,
    "full": 1,
    "isclean": 1,
    "cleanable": 1,
    "ishot": 1,
    "heatable": 1,
    "iscool": 1,
    "coolable": 1,
    "pickupable": 1,
    "moveable": 1,
    "toggleable": 1,
    "ison": 1,
    "istoggled": 1,
    "sliceable": 1,
    "issliced": 1,
}
_NONE: frozenset[str] = frozenset()


class Facts:
    """A set of facts. `one[p]` holds the names that p is true of, `two[p][a]` the names b for which p(a, b) is true."""

    def __init__(self, facts: Iterable[tuple[str, ...]] = ()) -> None:
        self.one: dict[str, set[str]] = {name: set() for name, places in PLACES.items() if places == 1}
        self.two: dict[str, dict[str, set[str]]] = {name: {} for name, places in PLACES.items() if places == 2}
        for fact in facts:
            self.add(*fact)

    def copy(self) -> Facts:
        """A copy that can be changed alone."""
        new = Facts.__new__(Facts)
        new.one = {name: set(values) for name, values in self.one.items()}
        new.two = {name: {a: set(b) for a, b in pairs.items()} for name, pairs in self.two.items()}
        return new

    def add(self, predicate: str, *names: str) -> None:
        """Make a fact true."""
        if len(names) == 1:
            self.one[predicate].add(names[0])
        else:
            self.two[predicate].setdefault(names[0], set()).add(names[1])

    def drop(self, predicate: str, *names: str) -> None:
        """Make a fact untrue, whether or not it was true."""
        if len(names) == 1:
            self.one[predicate].discard(names[0])
        else:
            self.two[predicate].get(names[0], set()).discard(names[1])

    def of(self, predicate: str, name: str) -> set[str] | frozenset[str]:
        """The second names of a two-place predicate."""
        return self.two[predicate].get(name, _NONE)

    def first(self, predicate: str, name: str) -> str | None:
        """The least second name, None when there is none: for predicates which have one."""
        return min(self.of(predicate, name), default=None)

    def matches(self, predicate: str, names: tuple[str | None, ...]) -> Iterator[tuple[str, ...]]:
        """The true facts of a predicate; None stands for any name."""
        if len(names) == 1:
            if names[0] is None:
                yield from ((name,) for name in self.one[predicate])
            elif names[0] in self.one[predicate]:
                yield (names[0],)
            return
        first, second = names
        for a in list(self.two[predicate]) if first is None else [first]:
            found = self.of(predicate, a)
            if second is None:
                yield from ((a, b) for b in found)
            elif second in found:
                yield (a, second)
