"""The paper's ablations beside ours: the mixture (its Table 5) and the filter (Table 2), in overall scores.

Ours are read from <run directory>/results/ablation*.json (schema agenttuning-ablation/1), which `agenttuning ablation`
writes; the twin's are mean scores x 100 and stand alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.report.reading import read_json
from agenttuning.scoring.compare import PUBLISHED_SIZE
from agenttuning.scoring.published import GROUPS, PUBLISHED

SCHEMA = "agenttuning-ablation/1"
TITLES = {
    "mixture": "Agent only, general only, mixed",
    "filtering": "Trajectories filtered and not",
    "eta": "The share of agent trajectories",
}
NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """A published or a measured score of a group as text; `small` is its interval and what it is over."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Ablation:
    """One table: `rows` are (name, published cells by group, our cells by group); `made`: when and from what."""

    title: str
    rows: list[tuple[str, dict[str, Cell], dict[str, Cell]]]
    made: str = ""
    beside: bool = True  # whether published scores exist at all

    @property
    def groups(self) -> list[str]:
        """Groups that some row has a score of."""
        return [group for group in GROUPS if any(group in part for _, *parts in self.rows for part in parts)]


def of_paper(run_dir: Path, size: str) -> list[Ablation]:
    """Mixture ablation of this size, filter of 7B, and the scan of the share where it was run."""
    theirs, ours = read_mapping(PUBLISHED), ran(run_dir)
    tables = [_beside(TITLES["mixture"], theirs["mixture_ablation"][size], ours.get("mixture"))]
    if size == "7b" or "filtering" in ours:
        published = theirs["filtering_ablation"] if size == "7b" else {}
        tables.append(_beside(TITLES["filtering"], published, ours.get("filtering")))
    if "eta" in ours:
        tables.append(_beside(TITLES["eta"], {}, ours["eta"]))
    return tables


def of_twin(run_dir: Path) -> list[Ablation]:
    """The twin's ablations, in mean scores x 100; none where none was run."""
    return [_beside(TITLES[kind], {}, one, digits=1) for kind, one in ran(run_dir).items() if kind in TITLES]


def ran(run_dir: Path) -> dict[str, dict]:
    """{kind: what its file holds} of the ablations that were run."""
    found = [read_json(path) for path in sorted((run_dir / "results").glob("ablation*.json"))]
    return {
        str(one.get("kind")): one for one in found if one.get("schema") == SCHEMA and isinstance(one.get("rows"), list)
    }


def shown(one: dict) -> dict[str, Any]:
    """{"recipe", "table"} of one ablation's file, whatever its size."""
    recipe = str(next((row.get("recipe") for row in one["rows"]), "") or one.get("recipe", ""))
    digits = 2 if PUBLISHED_SIZE.match(recipe) else 1
    return {"recipe": recipe, "table": _beside(TITLES.get(one.get("kind"), "Ablation"), {}, one, digits)}


def _beside(title: str, theirs: dict[str, dict], ours: dict | None, digits: int = 2) -> Ablation:
    mine = {_plain(row.get("name")): row for row in (ours or {}).get("rows", []) if isinstance(row, dict)}
    rows = []
    for name, cells in theirs.items():
        row = mine.pop(_plain(name), None)
        shown = _ours(row, digits) if row else {group: Cell(NOT_RUN) for group in cells}
        rows.append((name.replace("_", " "), {group: _theirs(cell) for group, cell in cells.items()}, shown))
    for row in mine.values():  # of a scan some rows are the paper's, and say so themselves
        cells = row.get("published") if isinstance(row.get("published"), dict) else {}
        rows.append((str(row.get("name")), {group: _theirs(cell) for group, cell in cells.items()}, _ours(row, digits)))
    notes = [str(ours[key]) for key in ("date", "machine", "commit", "note") if ours.get(key)] if ours else []
    return Ablation(title, rows, ", ".join(notes), any(cells for _, cells, _ in rows))


def _plain(name: Any) -> str:
    return str(name).lower().replace("-", "_").replace(" ", "_")


def _theirs(cell: dict) -> Cell:
    return Cell(f"{cell['value']:.2f}", "" if cell["verified"] else "not verified")


def _ours(row: dict, digits: int) -> dict[str, Cell]:
    groups, differences = (row.get(key) if isinstance(row.get(key), dict) else {} for key in ("groups", "differences"))
    return {group: _measured(groups.get(group), differences.get(group), digits) for group in GROUPS}


def _measured(found: Any, difference: Any, digits: int) -> Cell:
    if not isinstance(found, dict) or not isinstance(found.get("score"), int | float):
        return Cell(NOT_RUN)
    tasks, of = found.get("tasks"), found.get("of")
    over = "" if tasks is None else f"{len(tasks) if isinstance(tasks, list) else tasks} of {of} tasks"
    parts = [_span(found.get("interval"), digits), over]
    if isinstance(difference, dict) and isinstance(difference.get("difference"), int | float):
        ends = _span(difference.get("interval"), digits, "+")
        parts.append(f"{_signed(difference['difference'], digits)} ({ends}) from the main mixture")
    return Cell(f"{found['score']:.{digits}f}", "; ".join(filter(None, parts)))


def _span(ends: Any, digits: int, sign: str = "") -> str:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return "no interval"
    return " to ".join(_signed(end, digits) if sign else f"{end:.{digits}f}" for end in ends)


def _signed(value: float, digits: int) -> str:
    return f"{value:+z.{digits}f}".replace("-", "\u2212")
