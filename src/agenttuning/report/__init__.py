"""The results of a run to look at: a table on the terminal, RESULTS.md, and one self-contained page, report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.report import figures, page, table, templating
from agenttuning.scoring import scores

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

PAGE, SUMMARY = "report.html", "RESULTS.md"


def report(recipe: Recipe) -> Path:
    """Print the table of a run, write RESULTS.md and report.html into its folder, return the path of the page.

    Reads eval/base/scores.json and eval/tuned/scores.json (one of them suffices), and, where they exist, the episodes
    beside them, train.json and data/mixture.json. Raises UserError when nothing was scored, or when the two sides were
    judged by different suites.
    """
    found = read(recipe)
    run = page.gather(recipe, found)
    print(table.text(recipe.name, found))
    templating.write(recipe.run_dir / SUMMARY, templating.render("results.md.jinja", run))
    path = templating.write(recipe.run_dir / PAGE, templating.render("page.html.jinja", run))
    print(f"\nwritten: {path}, {recipe.run_dir / SUMMARY}", flush=True)
    return path


def read(recipe: Recipe) -> dict[str, dict]:
    """The scores of the two sides that exist, by side."""
    paths = {side: recipe.run_dir / "eval" / side / scores.FILE for side in figures.SIDES}
    found = {side: scores.read(path) for side, path in paths.items() if path.exists()}
    if not found:
        raise UserError(
            f"there is no {paths['base']} and no {paths['tuned']}; there is nothing to report; run "
            f"`agenttuning eval {recipe.path}` first, and with --model {recipe.values['model_name_or_path']} for the "
            "model it started from"
        )
    rules = {side: [entry.get("protocol"), entry.get("notes", {}).get("suite")] for side, entry in found.items()}
    if len({str(rule) for rule in rules.values()}) > 1:
        raise UserError(
            f"the sides were judged by different rules ({rules}); their difference would mix the rules with the "
            "training; evaluate both again"
        )
    return found
