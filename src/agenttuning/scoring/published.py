"""The published numbers, and the overall score that the paper computes from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.recipe.schema import REPOSITORY
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring.intervals import Interval, wilson

PUBLISHED = REPOSITORY / "evaluation" / "published.yaml"
GROUPS = {"held_in": "held-in", "held_out": "held-out", "general": "general"}


@dataclass(frozen=True)
class Cell:
    """A number of the main table. verified: of the value; n_verified: of n, the items of the test."""

    task: str
    model: str
    value: float
    n: int
    metric: str
    source: str
    verified: bool
    n_verified: bool


@dataclass(frozen=True)
class Published:
    """The main table: `scores[task][model]` in the task's own unit, `overalls[group][model]`, facts about the tasks."""

    tasks: dict[str, dict]
    scores: dict[str, dict[str, float]]
    overalls: dict[str, dict[str, float]]
    divisors: dict[str, float]
    verified: bool = True
    source: str = ""

    def cell(self, task: str, model: str) -> Cell:
        """One number of the main table with all that is known of it."""
        facts = self.tasks[task]
        n, metric = facts["n"], facts["metric"]
        value = self.scores[task][model]
        return Cell(task, model, value, n["value"], metric, self.source, self.verified, n["verified"])

    def group(self, name: str) -> list[str]:
        """The tasks of a group, in the paper's order."""
        return [task for task, facts in self.tasks.items() if facts["group"] == name]

    def interval(self, task: str, model: str) -> Interval | None:
        """Wilson's interval of a published cell, in its unit; None where the metric is no proportion of n items."""
        facts, score = self.tasks[task], self.scores[task][model]
        if not facts["proportion"]:
            return None
        n = facts["n"]["value"]
        low, high = wilson(round(score / 100 * n), n)
        return 100 * low, 100 * high


def decimals(task: str) -> int:
    """How many the paper prints of a task's scores."""
    return 2 if task in ("webarena", "mt_bench") else 1


def load(path: Path = PUBLISHED) -> Published:
    """Read published.yaml. The divisors are computed, not stored: the mean over the five models, not rounded."""
    content = read_mapping(path)
    models = content["models"]
    scores, overalls = (
        {name: dict(zip(models, row, strict=True)) for name, row in content[block]["table"].items()}
        for block in ("scores", "overalls")
    )
    reference = content["divisor_models"]
    divisors = {task: sum(row[model] for model in reference) / len(reference) for task, row in scores.items()}
    table = content["scores"]
    source = content["evidence"].get(table["evidence"], table["evidence"])
    return Published(content["tasks"], scores, overalls, divisors, table["verified"], source)


def overall(published: Published, group: str, scores: dict[str, float]) -> float | None:
    """mean over the tasks of `group` of score / divisor; None unless every task of the group has a score.

    The divisors stay those of the published table, whatever is measured: with them all 24 published overalls come out
    to two decimals, with the paper's integers they do not.
    """
    tasks = published.group(group)
    if any(task not in scores for task in tasks):
        return None
    return overall_over(published, {task: scores[task] for task in tasks})


def overall_over(published: Published, scores: dict[str, float]) -> float:
    """The same over just these tasks of a group, which is another quantity unless they are all of it."""
    return sum(score / published.divisors[task] for task, score in scores.items()) / len(scores)


@dataclass(frozen=True)
class ErrorAnalysis:
    """The paper's error-analysis figure: `shares[panel][kind]` lists the share in [0, 1] of each of `models`."""

    models: list[str]
    shares: dict[str, dict[str, list[float]]]
    evidence: str


def error_analysis(path: Path = PUBLISHED) -> ErrorAnalysis:
    """Read the figure's bars from published.yaml."""
    block = read_mapping(path)["error_analysis"]
    shares = {name: value for name, value in block.items() if isinstance(value, dict)}
    return ErrorAnalysis(block["models"], shares, block["evidence"])
