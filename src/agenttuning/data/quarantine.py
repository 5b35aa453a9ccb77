"""Malformed rows: set aside with source, split, id and reason, counted, and no reason to stop before a stated share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.chat.turns import RowError
from agenttuning.data.convert import convert
from agenttuning.data.sources import SourceCard, read
from agenttuning.errors import UserError


@dataclass
class Quarantine:
    """What was set aside while reading one source. `read` counts all rows, good and bad, that the card's `keep` takes;
    `not_kept` the others, by the rule that refused them.
    """

    source: str
    read: int = 0
    records: list[dict] = field(default_factory=list)
    not_kept: Counter[str] = field(default_factory=Counter)

    def add(self, split: str, row_id: object, reason: str) -> None:
        """Set one row aside."""
        shown = row_id if isinstance(row_id, str) else None
        self.records.append({"source": self.source, "split": split, "id": shown, "reason": reason})

    def check(self, limit: float) -> None:
        """Raise UserError if more than `limit` (a share of the rows read) was set aside, or if nothing is left."""
        share = len(self.records) / self.read if self.read else 1.0
        if share <= limit and len(self.records) < self.read:
            return
        kinds = Counter(_kind(record["reason"]) for record in self.records).most_common(3)
        found = "; ".join(f"{count} x {kind}" for kind, count in kinds) or "no rows at all"
        if self.not_kept and not self.read:
            refused = ", ".join(f"{count} because of {rule}" for rule, count in self.not_kept.most_common())
            found += f" that the card's `keep` takes; left out: {refused}"
        first = f", first {self.records[0]['id']!r}: {self.records[0]['reason']}" if self.records else ""
        raise UserError(
            f"{self.source}: {len(self.records)} of {self.read} rows are malformed ({share:.1%}: {found}{first}); "
            f"more than "
            f"max_quarantined {limit:.1%}, so the model would be trained on a remainder of the source; check format "
            f"and file, or "
            "raise mixture.max_quarantined"
        )


def rows(card: SourceCard, path: str | Path | None, quarantine: Quarantine) -> Iterator[dict]:
    """Yield converted rows of a source; malformed rows and second rows with a known id go to `quarantine`,
    which also counts the rows that the card does not keep.
    """
    seen: set[str] = set()
    for split, raw in read(card, path, quarantine.not_kept):
        quarantine.read += 1
        try:
            row = convert(raw, card.format, card.name, fallback_id=f"{card.name}_{split}_{quarantine.read - 1}")
            if row["id"] in seen:
                raise RowError("the id appeared before in this source")
        except RowError as error:
            quarantine.add(split, raw.get("id") if isinstance(raw, dict) else None, str(error))
            continue
        seen.add(row["id"])
        yield {**row, "split": split}


def write(lists: Iterable[list[dict]], path: Path) -> None:
    """Write the records of all sources as JSON lines (ASCII only: an id may hold anything)."""
    with path.open("w", encoding="ascii") as out:
        for records in lists:
            out.writelines(json.dumps(record) + "\n" for record in records)


def _kind(reason: str) -> str:
    # "turn 3 (user) is empty" and "turn 5 (user) is empty" are one kind.
    return "".join("N" if char.isdigit() else char for char in reason.split(":")[0])
