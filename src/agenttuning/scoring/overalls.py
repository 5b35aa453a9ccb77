"""The paper's overall score of each group and side, over the tasks that ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agenttuning.scoring import intervals
from agenttuning.scoring.comparison import Overall, Row
from agenttuning.scoring.published import GROUPS, Published, overall_over


def make(paper: Published, rows: Iterable[Row], side: str, model: str) -> list[Overall]:
    """One for each group. What counts is a score that has a verdict, by one protocol: the one that most of the group's
    scores are by. The divisors stay the published table's. The interval is that of the mean of independent scores, each
    divided by its fixed divisor.
    """
    by_task = {row.task: row for row in rows if row.side == side and row.verdict in ("consistent", "differs")}
    return [_overall(paper, group, side, model, by_task) for group in GROUPS]


def _overall(paper: Published, group: str, side: str, model: str, by_task: dict[str, Row]) -> Overall:
    members = paper.group(group)
    labels = Counter(by_task[task].protocol for task in members if task in by_task)
    ran = tuple(task for task in members if task in by_task and by_task[task].protocol == labels.most_common(1)[0][0])
    known = Overall(group, side, paper.overalls[group][model], ran, len(members))
    if not ran:
        return known
    scaled = [by_task[task].ours / paper.divisors[task] for task in ran]
    ends = [tuple(end / paper.divisors[task] for end in by_task[task].interval) for task in ran]
    same = overall_over(paper, {task: paper.scores[task][model] for task in ran})
    interval = intervals.mean_of(scaled, ends)
    return Overall(group, side, known.published, ran, len(members), sum(scaled) / len(ran), interval, same)
