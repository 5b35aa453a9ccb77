"""AgentBench's dbbench items, read from the user's files with their schema checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from agenttuning.environments.db.scoring import CHANGES
from agenttuning.errors import UserError

NAMES = ("standard.jsonl", "dev.jsonl")  # in AgentBench.old/data/dbbench; the paper's is the first
HASH = re.compile(r"\[\((?:'[0-9a-f]{32}'|None),\)\]")
NAME_CHARS = 64  # MySQL's limit of identifiers


def load(path: str | Path) -> list[dict]:
    """The items of a dbbench file (dev.jsonl, standard.jsonl), or of the standard.jsonl of a folder.

    Each has id ("dbbench-dev_17": the file's name and the row from 0), kind (SELECT, INSERT, UPDATE or DELETE), type
    (the original's: "counting", ...), description, add_description, table, columns, rows (of str), and label (the
    answer's values) or answer_md5; gold is the SQL that makes the wanted table, None for a question, as the published
    SQL of questions does not run. Raises UserError for a file that is missing or has another shape.
    """
    path = _file(Path(path))
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(x) for x in text.split("\n") if x.strip()]
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as dbbench items ({error}); nothing could be played from it"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: has no dbbench items; nothing could be played from it")
    return [_item(row, f"dbbench-{path.stem}_{number}", f"{path}: row {number}") for number, row in enumerate(rows)]


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in NAMES:
        for folder in (path, path / "data" / "dbbench", path / "dbbench"):
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"{path}: has neither {' nor '.join(NAMES)}; name dbbench's file, or the folder that it is in")


def _item(row: Any, name: str, where: str) -> dict:
    kind = _get(row, "type", list, where, each=str)[0]
    table = _get(row, "table", dict, where)
    info = _get(table, "table_info", dict, where)
    columns = [
        _get(column, "name", str, f"{where}: columns") for column in _get(info, "columns", list, where, each=dict)
    ]
    rows = _get(info, "rows", list, where)
    cells = [[_cell(cell, where) for cell in row] if isinstance(row, list) else [] for row in rows]
    if not all(len(row) == len(columns) for row in cells):
        raise UserError(f"{where}: a row has not as many values as there are columns; the table would be another one")
    title = _get(table, "table_name", str, where)
    if not 0 < len(title) <= NAME_CHARS or "\0" in title:
        raise UserError(f"{where}: {title[:80]!r} is not a name that MySQL takes; the database could not be made")
    label = _get(row, "label", list, where)
    changes = kind in CHANGES
    item = {
        "id": name,
        "kind": kind if changes else "SELECT",
        "type": kind,
        "description": _get(row, "description", str, where),
        "add_description": _get(row, "add_description", str, where),
        "table": title,
        "columns": columns,
        "rows": cells,
        "gold": None,
    }
    if not changes:
        return {**item, "label": label}
    wanted = _get(row, "answer_md5", str, where)
    if not HASH.fullmatch(wanted):
        raise UserError(f"{where}: answer_md5 is {wanted[:60]!r}, not \"[('<md5>',)]\"; every answer would be wrong")
    gold = label[0].replace("\n", " ").strip() if label and isinstance(label[0], str) else None
    return {**item, "answer_md5": wanted, "gold": gold}


def _cell(value: Any, where: str) -> str:
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: a table holds {value!r}; only text and numbers can be put in, as text")
    return str(value)  # the original's escape(): all columns are TEXT


def _get(row: Any, key: str, kind: type, where: str, each: type | None = None) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    good = isinstance(value, kind) and (each is None or (value and all(isinstance(part, each) for part in value)))
    if not good:
        shape = kind.__name__ if each is None else f"{kind.__name__} of {each.__name__}"
        raise UserError(f"{where}: {key!r} is {str(value)[:60]!r}, a {shape} was wanted; this is not dbbench's format")
    return value
