"""Items and rows for the tests of the DB task; written for them."""

from __future__ import annotations

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DEV = SHARED / "agentbench" / "dbbench" / "dev.jsonl"

COLUMNS = ["Name", "Town", "Points", "Since"]
ROWS = [
    ["Élodie", "Montréal", "12", "2001-05-06"],
    ["bob", "Oslo", "9", "1999-01-02"],
    ["Carl", "oslo", "10.5", ""],
    ["dora", "Lima", "abc", "2010-12-31"],
]


def item(table: str = "Players", **changes) -> dict:
    """An item as `load` gives it; its tables are the four rows above."""
    made = {"id": f"x_{table}", "kind": "SELECT", "type": "other", "description": "Who?", "add_description": "A table.",
            "table": table, "columns": COLUMNS, "rows": ROWS, "label": ["bob"], "gold": None}  # fmt: skip
    return {**made, **changes}


def raw(kind: str = "other", **changes) -> dict:
    """A row of a dbbench file."""
    row = {
        "description": "Who?",
        "add_description": "A table.",
        "type": [kind],
        "label": ["bob"],
        "table": {
            "table_name": "Players",
            "table_info": {"columns": [{"name": name, "type": "INT"} for name in COLUMNS], "rows": ROWS},
        },
    }
    return {**row, **changes}


def step(environment, statement: str) -> str:
    """What a statement shows; its round is not counted."""
    shown = environment.step(f"sql: {statement}").observation
    environment.rounds = 0
    return shown
