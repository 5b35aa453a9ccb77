"""evaluation/RESULTS.md: all that has been measured with this repository so far, made from evaluation/results/*.json.

    python -m agenttuning.report.summary                                    writes RESULTS.md again
    python -m agenttuning.report.summary recipes/agentlm-13b/sft.yaml ...   takes the results of these runs in first

What is taken in is small: of the paper's sizes the comparison, of other runs the scores with their intervals, without
items and answers. A test holds RESULTS.md to what this writes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import ablations, figures, paper, read, templating
from agenttuning.report.figures import Value
from agenttuning.report.headlines import number, span
from agenttuning.report.reading import read_json
from agenttuning.scoring import comparison, published
from agenttuning.scoring.compare import PUBLISHED_SIZE
from agenttuning.scoring.published import GROUPS

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

FOLDER = REPOSITORY / "evaluation" / "results"
PAGE = REPOSITORY / "evaluation" / "RESULTS.md"
SCHEMA = "agenttuning-result/1"
SIZES = ("7b", "13b", "70b")
SIDES = ("base", "tuned", "released")


def take(recipe: Recipe, folder: Path = FOLDER) -> Path:
    """Write what a run measured to `folder` and return the file. Raises UserError where nothing was scored."""
    path = folder / f"{recipe.name.replace('/', '-')}.json"
    if PUBLISHED_SIZE.match(recipe.name):
        made = paper.current(recipe)
        if all(row.verdict == "not run" for row in made.rows):
            raise UserError(f"nothing of {recipe.name} was run; there is no result to take; evaluate it first")
        content = {"schema": comparison.SCHEMA, **asdict(paper.public(made, recipe.run_dir))}
    else:
        content = _scores(recipe, read(recipe))
        for one in ablations.ran(recipe.run_dir).values():
            _write(folder / f"{path.stem}-ablation-{one['kind']}.json", one)
    return _write(path, content)


def _scores(recipe: Recipe, found: dict[str, dict]) -> dict[str, Any]:
    known = next(iter(found.values()))
    notes = known.get("notes") or {}
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "date": str(notes.get("date", ""))[:10],
        "machine": read_json(recipe.run_dir / "quickstart.json").get("machine", "not recorded"),
        "suite": notes.get("suite"),
        "protocol": known.get("protocol"),
        "commit": notes.get("commit"),
        "versions": notes.get("versions"),
        "models": {side: entry.get("model") for side, entry in found.items()},
        "rows": [asdict(row) for row in figures.rows(found)],
    }


def _write(path: Path, content: dict) -> Path:
    return templating.write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def text(folder: Path = FOLDER) -> str:
    """RESULTS.md from the files of `folder`."""
    files = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    runs = [one for one in files.values() if one.get("schema") == SCHEMA]
    tables = [one for one in files.values() if one.get("schema") == ablations.SCHEMA]
    made = [one for one in files.values() if one.get("schema") == comparison.SCHEMA]
    values = {
        "runs": [_run(one) for one in runs],
        "ablations": [ablations.shown(one) for one in tables],
        "sizes": [_size(size, [one for one in made if one["size"] == size]) for size in SIZES],
    }
    return templating.render("summary.md.jinja", values)


def _run(one: dict) -> dict[str, Any]:
    rows = [{**row, **{key: _value(row.get(key)) for key in ("base", "tuned", "difference")}} for row in one["rows"]]
    return {**one, "rows": rows}


def _value(found: Any) -> Value | str | None:
    return Value(**found) if isinstance(found, dict) else found


def _size(size: str, made: list[dict]) -> dict[str, Any]:
    """Published scores of one size, and ours where some run has them: one block a run, or one that says `not run`."""
    told = published.load()
    models = {side: f"agentlm-{size}" if side != "base" else f"llama-2-{size}-chat" for side in SIDES}
    nothing = [
        {"task": facts["title"], "group": GROUPS[facts["group"]], "n": facts["n"]["value"],
         "cells": {side: [number(task, told.scores[task][model]), "not run"] for side, model in models.items()}}
        for task, facts in told.tasks.items()
    ]  # fmt: skip
    runs = [{"name": one["recipe"], "date": one["date"][:10], "rows": _rows(one)} for one in made]
    return {"size": size, "runs": runs or [{"name": "", "date": "", "rows": nothing}]}


def _rows(made: dict) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in made["rows"]:
        if row.get("beside"):
            continue
        name, group, ours = row["task"], GROUPS.get(row["group"], row["group"]), "not run"
        task = {"task": row["title"], "group": group, "n": row["published_n"], "cells": {}}
        if row["ours"] is not None:
            told = f"{span(name, row['interval'])}, n = {row['n']:,}"
            ours = f"{number(name, row['ours'])} ({told}): {row['verdict']}"
        found.setdefault(name, task)["cells"][row["side"]] = [number(name, row["published"]), ours]
    return list(found.values())


def main(paths: list[str]) -> int:
    """Take the results of the recipes, write RESULTS.md, return the exit status."""
    from agenttuning.recipe import load

    try:
        for path in paths:
            print(f"written: {take(load(path))}")
        print(f"written: {templating.write(PAGE, text())}")
    except UserError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
