"""Which episodes of an index are looked at, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agenttuning.episodes import status
from agenttuning.episodes.index import Entry
from agenttuning.errors import UserError
from agenttuning.scoring import errors


@dataclass(frozen=True)
class Filters:
    """None: all. `item` is a part of the item's id; `kind` a kind of scoring/errors.py."""

    task: str | None = None
    status: str | None = None
    item: str | None = None
    kind: str | None = None

    def chosen(self, entries: list[Entry]) -> list[Entry]:
        """The entries that pass, in their order. Raises UserError for a name that no episode can have."""
        self._check(entries)
        return [entry for entry in entries if self._passes(entry)]

    def _passes(self, entry: Entry) -> bool:
        return (
            self.task in (None, entry.task)
            and self.status in (None, entry.status)
            and (self.item is None or self.item in entry.item)
            and (self.kind is None or self.kind in entry.kinds)
        )

    def _check(self, entries: list[Entry]) -> None:
        from agenttuning.chat.show import escape
        from agenttuning.errors import nearest

        known = {
            "task": sorted({entry.task for entry in entries}),
            "status": [*status.MODEL, *status.INFRASTRUCTURE],
            "kind": list(errors.RULES),
        }
        for name, names in known.items():
            value = getattr(self, name)
            if value is not None and value not in names and names:
                hint = escape(nearest(value, names))
                raise UserError(f"--{name} {value}: no episode here can have it; none would be shown; {hint}")

    def __str__(self) -> str:
        given = [(one.name, getattr(self, one.name)) for one in fields(self)]
        return ", ".join(f"{name} {value}" for name, value in given if value is not None)


def worst_first(entries: list[Entry]) -> list[Entry]:
    """Lost to infrastructure, then not won, then won; the newest first in each."""
    return sorted(entries, key=lambda entry: (0 if entry.lost else 2 if entry.won else 1, -entry.line))
