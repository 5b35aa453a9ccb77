"""`agenttuning errors RECIPE`: the error figure of a run beside the paper's, on the terminal and as errors.html."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.report import error_figure, templating
from agenttuning.report.error_figure import Bar, Ours, Panel
from agenttuning.scoring import published
from agenttuning.scoring.compare import PUBLISHED_SIZE, table

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

PAGE = "errors.html"
RULES_ARE_OURS = (
    "The paper finds errors by rules and does not print them: every rule here is ours, and a bar of the paper may\n"
    "count something else than ours beside it."
)


def errors(recipe: Recipe, episodes: str | Path | None = None, today: str | None = None) -> Path:
    """Print the figure's numbers, write <run directory>/errors.html and return its path.

    Ours are all that was evaluated in the run's folder, or the one folder `episodes`. Raises UserError when there are
    none, unless the recipe is one of the paper's, whose published bars are then shown alone.
    """
    ours = [error_figure.read(Path(episodes).name, Path(episodes))] if episodes else error_figure.find(recipe.run_dir)
    if not ours and not PUBLISHED_SIZE.match(recipe.name):
        raise UserError(
            f"there are no episodes in {recipe.run_dir / 'eval'}; there is nothing to draw; run `agenttuning eval "
            f"{recipe.path}` first, or name a folder with --episodes"
        )
    panels = error_figure.panels(ours)
    notes = _notes(ours)
    print(text(recipe.name, panels, notes))
    values = {
        "name": recipe.name,
        "panels": panels,
        "notes": notes,
        "source": f"arXiv 2310.12823; {published.error_analysis().evidence}",
        "date": today or datetime.now(UTC).date().isoformat(),
        "command": f"agenttuning errors {templating.public_name(str(recipe.path))}",
    }
    path = templating.write(recipe.run_dir / PAGE, templating.render("errors.html.jinja", values))
    print(f"\nwritten: {path}", flush=True)
    return path


def text(name: str, panels: list[Panel], notes: list[str]) -> str:
    """The figure as tables: shares of trajectories x 100, ours with 95 % intervals and n."""
    lines = [f"{name}: trajectories with an error, of 100; ours with 95 % intervals"]
    for panel in panels:
        heads = [f"{escape(one.name)} (n={one.n})" if one.ours else f"paper, {one.name}" for one in panel.series]
        rows = [["", *heads]]
        rows += [[kind.replace("_", " "), *map(_cell, bars)] for kind, bars in panel.bars.items()]
        lines += ["", escape(panel.title), *table(rows)]
        lines += [f"  {escape(one.name)}: {escape(one.note)}" for one in panel.series if one.ours]
        if not any(one.ours for one in panel.series):
            lines.append("  ours: not measured")
    rules = {kind: rule for panel in panels for kind, rule in panel.rules.items()}
    lines += ["", RULES_ARE_OURS, *(f"  {kind.replace('_', ' ')}: {rule}" for kind, rule in rules.items())]
    return "\n".join([*lines, "", *map(escape, notes)])


def _cell(bar: Bar) -> str:
    if bar.count is None:
        return f"{100 * bar.share:.1f}"
    return f"{100 * bar.share:.1f} [{100 * bar.low:.1f}, {100 * bar.high:.1f}]"


def _notes(ours: list[Ours]) -> list[str]:
    notes = [
        f"{one.name}: model {one.model}, protocol {one.protocol}"
        + (f"; {one.lost} episodes lost to infrastructure are in no bar" if one.lost else "")
        + (f"; {one.others} episodes of another model or protocol in the file are in no bar" if one.others else "")
        for one in ours
    ]
    return [
        *notes,
        "The paper's bars are read off its figure, to about 0.1 of 100; it gives no n, so they have no interval.",
        "The figure does not say the models' sizes. Its first panel is read as all trajectories of both tasks; "
        "so is ours.",
    ]
