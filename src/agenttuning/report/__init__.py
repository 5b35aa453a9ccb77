"""The results of a run to look at: a table on the terminal, RESULTS.md, and a page, report.html, with the pages of all
items beside it in report/.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.report import drill, figures, further, page, paper, table, templating
from agenttuning.scoring import scores
from agenttuning.scoring.compare import PUBLISHED_SIZE

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

PAGE, SUMMARY = "report.html", "RESULTS.md"


def report(recipe: Recipe) -> Path:
    """Print what a run has to say, write RESULTS.md, report/ and report.html into its folder, return the page's path.

    A recipe of the paper's sizes is shown beside the published scores, run or not, as its comparison has them; any
    other before and after, from eval/base/scores.json and eval/tuned/scores.json (one of them suffices). Episodes,
    train.json and data/mixture.json are shown where they exist. Raises UserError when nothing was scored that could be
    shown, and when the two sides were judged by different suites.
    """
    if PUBLISHED_SIZE.match(recipe.name):
        run = paper.gather(recipe, paper.current(recipe))
        print(f"{recipe.name}, beside the published AgentLM-{run['size']}")
        for side in run["headline"]:
            print("\n".join([f"\n{side['who']}", *(f"- {escape(text)}" for _, text in side["lines"])]))
        names = ("paper.md.jinja", "paper.html.jinja")
    else:
        found = read(recipe)
        run = page.gather(recipe, found)
        print(table.text(recipe.name, found) if found else f"{recipe.name}: its scores are on the page")
        names = ("results.md.jinja", "page.html.jinja")
    templating.write(recipe.run_dir / SUMMARY, templating.render(names[0], run))
    path = templating.write(recipe.run_dir / PAGE, templating.render(names[1], run))
    print(f"\nwritten: {path}, {recipe.run_dir / SUMMARY}, {recipe.run_dir / drill.FOLDER}", flush=True)
    return path


def read(recipe: Recipe) -> dict[str, dict]:
    """The suite's scores of the two sides that exist, by side; none where only other scores are there."""
    paths = {side: recipe.run_dir / "eval" / side / scores.FILE for side in figures.SIDES}
    found = {side: scores.read(path) for side, path in paths.items() if path.exists()}
    if not found and not further.find(recipe.run_dir):
        raise UserError(
            f"there is no {paths['base']} and no {paths['tuned']}; there is nothing to report; run "
            f"`agenttuning {'eval' if page.is_miniature(recipe) else 'eval-held-in'} {recipe.path}` first, and with "
            f"--model {recipe.values['model_name_or_path']} for the model it started from"
        )
    rules = {side: [entry.get("protocol"), entry.get("notes", {}).get("suite")] for side, entry in found.items()}
    if len({str(rule) for rule in rules.values()}) > 1:
        raise UserError(
            f"the sides were judged by different rules ({rules}); their difference would mix the rules with the "
            "training; evaluate both again"
        )
    return found
