"""Scores of one model from its episode records.

    scores.json = {schema, model, protocol, tasks: {task: score}, groups: {held_in: score, held_out: score}}

A task's score: `score` (the protocol's headline metric), `interval`, `mean_reward`, `reward_interval`, `success_rate`,
`success_interval`, all x 100; `categories` (success rate, interval and n of each, where episodes say theirs); `metrics`
(the mean of each further number that episodes have, x 100); `n` (episodes scored), `asked` (episodes of the protocol),
`lost` (to infrastructure), `statuses`, `errors`, `void` (why there is no score, or null), `group`, `metric`, and
`rewards` by item, which paired comparisons need. `score` and the rates are null when void. Episodes lost to
infrastructure are in no rate.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from agenttuning.episodes import status
from agenttuning.errors import UserError
from agenttuning.protocols import Protocol
from agenttuning.scoring import errors, intervals

SCHEMA = 1
FILE = "scores.json"
METRICS = {"acc": "accuracy", "pass_at_1": "pass@1"}  # names of lm-eval's that are no words


def metric_words(metric: str) -> str:
    """A metric's name for a reader."""
    return METRICS.get(metric, metric.replace("_", " "))


def score_records(records: list[dict], protocol: Protocol, notes: dict | None = None) -> dict:
    """The content of scores.json from the records of one model (any tasks, the newest record of an item counts).

    `notes` (commit, model revision, settings) are taken over as they are. Raises UserError when the records are of
    several models, or were played by another protocol or version.
    """
    models = {record["model"] for record in records}
    labels = {record["protocol"] for record in records}
    if len(models) != 1 or labels != {protocol.label}:
        raise UserError(
            f"the records are of models {sorted(models)} under protocols {sorted(labels)}, the rules given are "
            f"{protocol.label}; one mean over them would mean nothing; score each by itself"
        )
    by_task: dict[str, dict[str, dict]] = {}
    for record in records:
        by_task.setdefault(record["task"], {})[record["item"]] = record
    tasks = {name: score_task(list(by_task[name].values()), protocol) for name in protocol.tasks if name in by_task}
    unknown = set(by_task) - set(tasks)
    if unknown:
        protocol.rules(min(unknown))
    groups = {name: group(tasks, name) for name in ("held_in", "held_out")}
    scores = {"schema": SCHEMA, "model": models.pop(), "protocol": protocol.label, "tasks": tasks, "groups": groups}
    return {**scores, "notes": notes} if notes else scores


def score_task(records: list[dict], protocol: Protocol) -> dict:
    """The score of one task; see the module for its keys. `records` hold one record an item."""
    rules = protocol.rules(records[0]["task"])
    scored = sorted((r for r in records if status.is_result(r["status"])), key=lambda r: r["item"])
    lost = len(records) - len(scored)
    rewards = [record["reward"] for record in scored]
    entry = {
        "group": rules.group,
        "metric": rules.metric,
        "n": len(scored),
        "asked": rules.n,
        "lost": lost,
        "statuses": dict(sorted(Counter(record["status"] for record in records).items())),
        "void": None,
        "rewards": {record["item"]: record["reward"] for record in scored},
        **dict.fromkeys(("score", "interval", "mean_reward", "reward_interval", "success_rate", "success_interval")),
    }
    share = lost / len(records)
    if share > protocol.void_above or not scored:
        entry["void"] = (
            f"{lost} of {len(records)} episodes lost to infrastructure, {protocol.void_above:.0%} are allowed"
        )
        return entry
    won = sum(reward >= 1.0 for reward in rewards)
    entry["mean_reward"] = 100 * sum(rewards) / len(rewards)
    entry["reward_interval"] = _percent(intervals.mean_interval(rewards))
    entry["success_rate"] = 100 * won / len(rewards)
    entry["success_interval"] = _percent(intervals.wilson(won, len(rewards)))
    entry |= _further(scored)
    if rules.metric == "category_accuracy":
        entry["score"], entry["interval"] = _over_categories(entry["categories"])
    else:
        chosen = {"success_rate": ("success_rate", "success_interval"), "reward": ("mean_reward", "reward_interval")}
        entry["score"], entry["interval"] = (entry[name] for name in chosen[rules.metric])
    entry["errors"] = errors.rates(scored)
    return entry


def _further(scored: list[dict]) -> dict:
    """Categories and further metrics of the episodes; empty for tasks that have none."""
    by_category: dict[str, list[float]] = {}
    numbers: dict[str, list[float]] = {}
    for record in scored:
        for name, value in record.get("metrics", {}).items():
            if name == "category":
                by_category.setdefault(value, []).append(record["reward"])
            elif isinstance(value, int | float):
                numbers.setdefault(name, []).append(float(value))
    categories = {}
    for name, rewards in sorted(by_category.items()):
        won = sum(reward >= 1.0 for reward in rewards)
        interval = _percent(intervals.wilson(won, len(rewards)))
        categories[name] = {"success_rate": 100 * won / len(rewards), "interval": interval, "n": len(rewards)}
    return {"categories": categories, "metrics": {k: 100 * sum(v) / len(v) for k, v in sorted(numbers.items())}}


def _over_categories(categories: dict[str, dict]) -> tuple[float, list[float]]:
    """The plain mean of the categories' success rates: dbbench weighs SELECT, INSERT and UPDATE alike, whatever their
    n (AgentBench.old, overall_cat_accuracy).
    """
    if not categories:
        raise UserError(
            "the protocol scores this task by category and no episode names one; the score would be of something else; "
            "play the task's own items, or choose success_rate"
        )
    values = [one["success_rate"] for one in categories.values()]
    return sum(values) / len(values), list(intervals.mean_of(values, [one["interval"] for one in categories.values()]))


def group(tasks: dict[str, dict], name: str) -> dict:
    """Macro average: tasks weigh the same, whatever their n. Null when one of the group is void or none was played."""
    members = [task for task, entry in tasks.items() if entry["group"] == name]
    good = [tasks[task] for task in members if tasks[task]["void"] is None]
    if not members or len(good) < len(members):
        return {"tasks": members, "score": None, "interval": None}
    values = [entry["score"] for entry in good]
    interval = intervals.mean_of(values, [entry["interval"] for entry in good])
    return {"tasks": members, "score": sum(values) / len(values), "interval": list(interval)}


def _percent(interval: intervals.Interval) -> list[float]:
    return [100 * end for end in interval]


def write(scores: dict, folder: str | Path) -> Path:
    """Write scores.json into `folder`, whole or not at all, and return its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / FILE, folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def read(path: str | Path) -> dict:
    """Read a scores.json. Raises UserError when it is unreadable or of another schema."""
    try:
        scores = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); its numbers would be missing; run the evaluation again"
        ) from None
    if not isinstance(scores, dict) or scores.get("schema") != SCHEMA or not isinstance(scores.get("tasks"), dict):
        raise UserError(f"{path} is no scores file of schema {SCHEMA}; its numbers would be misread; evaluate again")
    return scores
