"""`agenttuning compare`: a run's scores beside the published ones, or base beside tuned where nothing was published.

results finds what was scored; rows, pairs and overalls judge it; comparison is its shape on disk; compare_text prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.scoring import before_after, compare_text, comparison, overalls, pairs, published, rows
from agenttuning.scoring.before_after import paired
from agenttuning.scoring.comparison import SIDES, Comparison
from agenttuning.scoring.results import Result, gather, other_labels
from agenttuning.scoring.text_table import table

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

__all__ = ["PUBLISHED_SIZE", "compare", "make", "paired", "published_lines", "table"]

PUBLISHED_SIZE = re.compile(r"agentlm-(7b|13b|70b)/")


def compare(recipe: Recipe, elsewhere: Iterable[str] = (), as_json: bool = False) -> str:
    """Print the comparison of a run and return the text. For the paper's sizes also write results/comparison.json.

    elsewhere: folders with results besides the run's own (results.gather). as_json: print what the file holds. Raises
    UserError when nothing was measured, unless the recipe is one of the paper's, whose published numbers are then shown
    alone; and for folders and files that results.gather refuses.
    """
    results = gather(recipe.run_dir, elsewhere)
    if size := PUBLISHED_SIZE.match(recipe.name):
        text = _with_published(recipe, size[1], results, as_json)
    elif as_json:
        raise UserError(
            f"--json prints the comparison with the published numbers, and there are none for {recipe.name}; its "
            f"scores are in {recipe.run_dir / 'eval'}; leave --json out"
        )
    else:
        found = before_after.read(recipe.run_dir)
        if not found and not results:
            raise UserError(
                f"there is no {recipe.run_dir / 'eval/base/scores.json'} and no "
                f"{recipe.run_dir / 'eval/tuned/scores.json'}; there is nothing to compare; evaluate this recipe first"
            )
        text = before_after.text(recipe.name, found, results)
    print(text)
    return text


def _with_published(recipe: Recipe, size: str, results: list[Result], as_json: bool) -> str:
    from agenttuning.plan import evaluation
    from agenttuning.run_record import commit

    made = make(recipe.name, size, results, partial(evaluation.not_run, recipe), commit(recipe.root))
    path = comparison.write(made, recipe.run_dir)
    if as_json:
        return json.dumps(asdict(made), indent=1)
    jobs = {side: evaluation.jobs(recipe, side, compare_text.tasks_not_run(made, side)) for side in SIDES}
    said = compare_text.remarks(results, other_labels(recipe.run_dir))
    base = str(recipe.values["model_name_or_path"])
    if f"llama-2-{size}-chat" not in base.lower():
        said.append(f"this recipe starts from {base}; the published base is llama-2-{size}-chat: are they the same?")
    lines = compare_text.text(made, jobs, said)
    return f"{lines}\nwritten: {path}"


def make(
    name: str, size: str, results: list[Result], not_run: Callable[[str, str], str], commit: str | None = None
) -> Comparison:
    """The comparison of results with the published numbers of a size. not_run(side, task): why there is no score."""
    paper = published.load()
    made = {side: rows.of_side(paper, size, side, results, partial(not_run, side)) for side in SIDES}
    models = rows.columns(size)
    return Comparison(
        recipe=name,
        size=size,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        rows=tuple(row for side in SIDES for row in made[side]),
        overalls=tuple(one for side in SIDES for one in overalls.make(paper, made[side], side, models[side])),
        pairs=tuple(pairs.make(results)),
    )


def published_lines(name: str, tasks: Iterable[str]) -> list[str]:
    """For a recipe of the paper's sizes: what was published for some of its tasks, before and after tuning."""
    if not (size := PUBLISHED_SIZE.match(name)):
        return []
    paper, models = published.load(), (f"llama-2-{size[1]}-chat", f"agentlm-{size[1]}")
    return [
        f"published, {task}: " + "; ".join(f"{model} {_cell(paper, task, model)}" for model in models)
        for task in tasks
        if task in paper.tasks
    ]


def _cell(paper: published.Published, task: str, model: str) -> str:
    score, interval, digits = paper.scores[task][model], paper.interval(task, model), published.decimals(task)
    return f"{score:.{digits}f} {before_after.in_brackets(interval, digits)}" if interval else f"{score:.{digits}f}"
