"""AgentBench's own items, from the user's files: `dev.json`, a folder of such files, or a whole checkout.

    data/os_interaction/data/dev.json           26 items, scripts in data/os_interaction/scripts/dev
    data/os_interaction/data/{1..7}/*.json      the 144 of the paper, scripts in data/os_interaction/scripts/{1..7}

An item becomes a dict: id (os-dev_3, os-std_17), source (its file and its number there), description, image,
init [[language, code]], start, match or check, example, labels. An item that needs a script which is not there keeps
its place and says so under `unplayable`: whoever plays it is told.
"""

from __future__ import annotations

import json
from pathlib import Path

from agenttuning.errors import UserError

DATA = Path("data") / "os_interaction"


class _Lacking(ValueError):
    pass


def load(path: Path, checkout: Path | None = None) -> list[dict]:
    """The items of a file or folder, in AgentBench's order: by file, in each those with `match` first.

    Scripts that items name are read from `checkout` (a folder of AgentBench), else from beside the data. Raises
    UserError for what is no such file.
    """
    path = Path(path)
    if (path / DATA).is_dir():
        path = path / DATA / "data"
    if path.is_dir():
        if (path / "data").is_dir() and not list(path.glob("*.json")):
            path = path / "data"
        files = sorted(file for file in path.glob("*/*.json*") if file.suffix in (".json", ".jsonl"))
        files = files or sorted(path.glob("*.json"))
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(
            f"{path} holds no AgentBench items of the os task; there is nothing to play; give "
            "data/os_interaction/data/dev.json, the folder data/os_interaction/data, or an AgentBench checkout"
        )
    single = files[0].stem if len(files) == 1 else "std"
    items: list[dict] = []
    for file in files:
        start = len(items)
        parsed = [
            _item(
                raw,
                f"os-{single}_{start + number}",
                f"{file.parent.name}/{file.name} {number}",
                _scripts(file, checkout),
            )
            for number, raw in enumerate(_rows(file))
        ]
        items += [item for item in parsed if item["match"]] + [item for item in parsed if not item["match"]]
    return items


def _rows(file: Path) -> list[dict]:
    try:
        text = file.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as JSON ({error}); its items would be missing; restore the file"
        ) from error
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "description" in row for row in rows):
        raise UserError(f"{file} is not a list of AgentBench's os items, which have a description; nothing was loaded")
    return rows


def _scripts(file: Path, checkout: Path | None) -> Path:
    if file.stem == "dev":
        root, name = file.parent.parent, "dev"
    else:
        root, name = file.parent.parent.parent, file.parent.name
    return (Path(checkout) / DATA if checkout is not None else root) / "scripts" / name


def _item(raw: dict, name: str, source: str, scripts: Path) -> dict:
    # `create` is once a list, by a slip of AgentBench; there the original finds no image and no script in it.
    create = raw.get("create") if isinstance(raw.get("create"), dict) else {}
    evaluation = raw.get("evaluation") or {}
    item = {
        "id": name,
        "source": source,
        "description": raw["description"],
        "image": create.get("image") or create.get("local") or "default",
        "init": [],
        "start": None,
        "match": None,
        "check": None,
        "example": None,
        "labels": list(raw.get("labels", [])),
    }
    try:
        item["init"] = [_script(script, scripts) for script in _flat(create.get("init", []))]
        item["start"] = _script(raw["start"], scripts) if "start" in raw else None
        if "match" in evaluation:
            match = evaluation["match"]
            item["match"] = {"answer": match, "strip": True} if isinstance(match, str) else dict(match)
            if not {"answer", "regex"} & set(item["match"]):
                raise _Lacking("its match has neither an answer nor a pattern")
        elif "check" in evaluation:
            chain = _flat(evaluation["check"], nulls=True)
            item["check"] = [None if script is None else _script(script, scripts) for script in chain]
            if not chain or (None in chain and "example" not in evaluation):
                raise _Lacking("its check names an example script that it does not have")
            item["example"] = _example(evaluation, scripts, needed=None in chain)
        else:
            raise _Lacking("it has neither match nor check")
    except _Lacking as error:
        item["unplayable"] = str(error)
    return item


def _example(evaluation: dict, scripts: Path, needed: bool) -> list[str] | None:
    if "example" not in evaluation:
        return None
    try:
        return _script(evaluation["example"], scripts)
    except _Lacking:
        if needed:
            raise
        return None  # only the oracle would use it


def _flat(value: object, nulls: bool = False) -> list:
    """Scripts of a list, or of lists in lists as a few items have, or of a single one."""
    if isinstance(value, list):
        return [script for entry in value for script in _flat(entry, nulls)]
    return [value] if value is not None or nulls else []


def _script(script: object, scripts: Path) -> list[str]:
    if isinstance(script, str):
        return ["bash", script]
    if not isinstance(script, dict):
        raise _Lacking(f"a script of it is a {type(script).__name__}")
    language = script.get("language", "bash")
    if language not in ("bash", "python", "c", "c++"):
        raise _Lacking(f"a script of it is in {language!r}")
    if "code" in script:
        return [language, script["code"]]
    if "file" not in script:
        raise _Lacking("a script of it has neither code nor file")
    file = scripts / script["file"]
    if not file.resolve().is_relative_to(scripts.resolve()):
        raise _Lacking(f"its script {script['file']} lies outside of {scripts}")
    try:
        return [language, file.read_text(encoding="utf-8")]
    except OSError:
        raise _Lacking(f"its script {script['file']} is not in {scripts.parent.name}/{scripts.name}") from None
