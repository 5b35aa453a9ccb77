"""What the runs of an ablation take, and which of them are there already: said before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agenttuning import plan, run_record
from agenttuning.ablation.variants import Variant, data_for
from agenttuning.plan.evaluation import jobs, span
from agenttuning.recipe import Recipe
from agenttuning.scoring.compare import table
from agenttuning.training.checkpoints import sealed


@dataclass(frozen=True)
class Cost:
    """One run: its plan, and what is there already: "finished", "begun (checkpoint-N)", "" or why it cannot be made."""

    variant: Variant
    plan: plan.Plan
    state: str

    @property
    def left(self) -> bool:
        """Whether it is still to be trained."""
        return self.state != "finished" and not self.variant.lacks


def costs(runs: list[Variant], data: Mapping[str, Path]) -> list[Cost]:
    """The plan of each run. Raises UserError as plan.make does."""
    found = []
    for one in runs:
        made = plan.make(one.recipe, data_for(one.recipe, data))
        found.append(Cost(one, made, f"not run: {one.lacks}" if one.lacks else state(one.recipe)))
    return found


def state(recipe: Recipe) -> str:
    """What is in the run's folder: "finished" is a model of this very record from these very starting weights."""
    if run_record.finished(recipe):
        return "finished"
    checkpoints = sealed(recipe.run_dir)
    return f"begun ({checkpoints[0].name})" if checkpoints else ""


def page(found: list[Cost]) -> str:
    """The table: a line a run, the total, and what of it is left to do. A run that two variants share counts once."""
    where = found[0].plan.target
    machine = f"{where.gpus} x {where.name}" if where.gpus else where.name
    rows = [["variant", "seed", "steps", "tokens", "GPU-hours", "hours", "cost", "run", "there already"]]
    for one in found:
        planned = one.plan
        head = [one.variant.name, str(one.variant.seed), f"{planned.settings['max_steps']:,}", _tokens(planned.tokens)]
        figures = [_number(planned.gpu_hours), _number(planned.wall_hours), _dollars(planned.usd)]
        rows.append([*head, *figures, planned.run_dir, one.state or "-"])
    single = list({one.plan.run_dir: one for one in found}.values())
    able = [one for one in single if not one.variant.lacks]
    rows += [_sum("in all", able), _sum("left to train", [one for one in able if one.left])]
    head = f"{found[0].plan.recipe}: hours on {machine}, estimates (`agenttuning plan` says how)"
    return "\n".join([head, "", *table(rows)])


def evaluation(main: Recipe, tasks: list[str], found: list[Cost]) -> str:
    """What judging every run takes, beside the training; for the paper's tasks alone, the twin's take minutes."""
    runs = len({one.plan.run_dir for one in found if not one.variant.lacks})
    each = jobs(main, "tuned", tasks)
    if not each or any(job.hours is None for job in each):
        return "the table is of training alone; what judging takes is not reckoned"
    hours, gpu_hours = sum(job.hours for job in each), sum(job.hours * job.gpus for job in each)
    price = "" if any(job.usd is None for job in each) else f", ${runs * sum(job.usd for job in each):,.2f}"
    return (
        f"the table is of training alone; judging takes {span(hours)} a run on {each[0].gpus} {each[0].gpu_name}, "
        f"{span(runs * gpu_hours)} of a GPU for {runs} runs{price} (reckoned, not measured): {', '.join(tasks)}"
    )


def _sum(name: str, runs: list[Cost]) -> list[str]:
    def total(key: str) -> float | None:
        values = [getattr(one.plan, key) for one in runs]
        return None if None in values else sum(values)

    steps = sum(one.plan.settings["max_steps"] for one in runs)
    head = [f"{name}: {len(runs)} runs", "", f"{steps:,}", _tokens(sum(one.plan.tokens for one in runs))]
    return [*head, _number(total("gpu_hours")), _number(total("wall_hours")), _dollars(total("usd")), "", ""]


def _tokens(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"${value:,.0f}"
