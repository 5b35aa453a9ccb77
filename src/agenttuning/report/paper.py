"""What the report of one of the paper's sizes shows, gathered into one mapping for its page and its RESULTS.md.

All numbers are those of the comparison (`agenttuning compare`); it is made anew where a score is newer.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.report import ablations, bars, drill, error_figure, headlines, page, rated
from agenttuning.report.curves import curve
from agenttuning.report.headlines import number, span
from agenttuning.report.reading import read_json
from agenttuning.report.templating import public_name, public_text
from agenttuning.scoring import compare, comparison, scores
from agenttuning.scoring.comparison import Comparison, Pair, Row
from agenttuning.scoring.published import GROUPS

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

MARKS = {"consistent": "=", "differs": "\u2260", "not comparable": "\u2013", "not run": "\u25cb"}  # not by colour alone
DASH = "\u2013"


def gather(recipe: Recipe, made: Comparison) -> dict[str, Any]:
    """Everything the templates need; writes the pages of items."""
    training = read_json(recipe.run_dir / "train.json")
    made = public(made, recipe.run_dir)
    return {
        "name": recipe.name,
        "size": made.size.upper(),
        **tables(made),
        "chart": bars.chart(made),
        "ablations": ablations.of_paper(recipe.run_dir, made.size),
        "rated": rated.find(recipe.run_dir),
        "panels": error_figure.panels(error_figure.find(recipe.run_dir)),
        "curve": curve(training.get("log")),
        "runs": curve(training.get("log"), logs(recipe.run_dir)),
        "mixture": read_json(recipe.run_dir / "data" / "mixture.json").get("sources", {}),
        "shelves": drill.write(recipe.run_dir),
        "provenance": provenance(recipe, made, training),
        "commands": page.commands(recipe),
    }


def current(recipe: Recipe) -> Comparison:
    """The run's comparison, made and written anew where there is none or a score is newer. Raises as `compare` does."""
    path = recipe.run_dir / comparison.FILE
    made = comparison.read(recipe.run_dir)
    judged = [file.stat().st_mtime_ns for file in recipe.run_dir.glob(f"eval/**/{scores.FILE}")]
    if made is not None and max(judged, default=0) <= path.stat().st_mtime_ns:
        return made
    if made is not None:
        print(f"a score is newer than {path}: compared anew, without folders that --results had named", flush=True)
    with redirect_stdout(io.StringIO()):  # what it prints, this page shows
        compare.compare(recipe)
    return comparison.read(recipe.run_dir)


def public(made: Comparison, run_dir: Path) -> Comparison:
    """The comparison as others may read it: commands and files without a path of this machine."""
    rows = [
        replace(row, why=public_text(row.why), scores=row.scores and public_name(row.scores)) for row in made.rows
    ]
    return replace(made, rows=tuple(rows))


def tables(made: Comparison) -> dict[str, Any]:
    """The parts that are the comparison's alone, with every number as text."""
    notes: dict[str, int] = {}
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in made.rows:
        groups.setdefault(row.group, {}).setdefault(row.task, []).append(row)
    shown = [
        {"title": GROUPS.get(group, group), "tasks": [_task(rows, notes) for rows in tasks.values()]}
        for group, tasks in groups.items()
    ]
    backends, pairs = _split(made.pairs)
    return {
        "headline": headlines.sentences(made),
        "marks": MARKS,
        "groups": shown,
        "notes": list(notes),
        "released": [task for group in shown for task in group["tasks"] if _ran(task, "released")],
        "overalls": [_overall(one, made.size) for one in made.overalls],
        "pairs": pairs,
        "backends": backends,
    }


def _ran(task: dict[str, Any], side: str) -> bool:
    return any(row["side"] == side and row["verdict"] != "not run" for row in task["rows"])


def _task(rows: list[Row], notes: dict[str, int]) -> dict[str, Any]:
    first = rows[0]
    unverified = "" if first.verified else "; published score not verified"
    told = f"{first.metric.replace('_', ' ')}, published n = {first.published_n:,}{unverified}"
    return {"title": first.title, "task": first.task, "told": told, "rows": [_row(row, notes) for row in rows]}


def _row(row: Row, notes: dict[str, int]) -> dict[str, Any]:
    task = row.task
    note = notes.setdefault(row.why, len(notes) + 1) if row.why else None
    return {
        "side": row.side,
        "beside": row.beside,
        "published": number(task, row.published),
        "published_span": span(task, row.published_interval),
        "ours": DASH if row.ours is None else number(task, row.ours),
        "ours_span": "" if row.ours is None else span(task, row.interval),
        "n": DASH if row.n is None else f"{row.n:,}",
        "difference": DASH if row.difference is None else number(task, row.difference, "+"),
        "difference_span": "" if row.difference is None else span(task, row.difference_interval, "+"),
        "detectable": DASH if row.detectable is None else number(task, row.detectable),
        "by": ", ".join(filter(None, (row.protocol, row.backend))) or DASH,
        "verdict": row.verdict,
        "mark": MARKS.get(row.verdict, "?"),
        "note": note,
    }


def _overall(one: comparison.Overall, size: str) -> dict[str, str]:
    return {
        "group": GROUPS.get(one.group, one.group),
        "side": one.side,
        "published": f"{one.published:.2f}",
        "ours": "not run" if one.ours is None else f"{one.ours:.2f}",
        "span": "" if one.ours is None else headlines.overall_span(one),
        "over": f"{len(one.tasks)} of {one.of}",
        "same": DASH if one.published_same is None or not one.tasks else f"{one.published_same:.2f}",
    }


def _split(pairs: tuple[Pair, ...]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Differences between backends of one side, and all other pairs."""
    backends = [_pair(one) for one in pairs if one.what.startswith(tuple(f"{side}: " for side in comparison.SIDES))]
    return backends, [told for one in pairs if (told := _pair(one)) not in backends]


def _pair(one: Pair) -> dict[str, str]:
    return {
        "what": one.what,
        "task": one.task,
        "by": one.protocol,
        "n": f"{one.n:,}",
        "difference": number(one.task, one.difference, "+"),
        "span": span(one.task, one.interval, "+"),
        "p": f"{one.p:.3f}" if one.p >= 0.001 else "< 0.001",
    }


def logs(run_dir: Path) -> dict[str, Any]:
    """{name: log} of the runs of the ablations, of one seed each."""
    found = {}
    for one in ablations.ran(run_dir).values():
        for row in one["rows"]:
            folders = row.get("run_dirs") if isinstance(row, dict) else None
            if isinstance(folders, list) and folders and Path(str(folders[0])).resolve() != run_dir.resolve():
                found[str(row.get("name"))] = read_json(Path(str(folders[0])) / "train.json").get("log")
    return found


def provenance(recipe: Recipe, made: Comparison, training: dict) -> dict[str, str]:
    """Where the numbers come from, as label and text."""
    facts = {"recipe": f"{recipe.name}, record {recipe.hash[:16]}"}
    commit = f", commit {made.commit[:12]}" if made.commit else ""
    facts["comparison"] = f"made {made.date}{commit}, with arXiv 2310.12823 (evaluation/published.yaml)"
    for path in sorted(recipe.run_dir.glob(f"eval/**/{scores.FILE}")):
        found = scores.read(path)
        notes = found.get("notes") or {}
        parts = [f"model {found.get('model')}", f"protocol {found.get('protocol')}", f"judged {notes.get('date', '?')}"]
        if notes.get("commit"):
            parts.append(f"commit {str(notes['commit'])[:12]}")
        if notes.get("recipe_hash") and not recipe.is_record(notes["recipe_hash"]):
            parts.append(f"under another recipe record, {str(notes['recipe_hash'])[:16]}")
        facts[path.parent.relative_to(recipe.run_dir).as_posix()] = "; ".join(parts)
    if training:
        facts["training"] = page.training_facts(recipe, training)
    return facts
