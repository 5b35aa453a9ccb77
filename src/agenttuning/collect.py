"""Trajectories from a teacher, filtered by reward, in AgentInstruct's own format.

    teacher: {slip: 0.1, give_up: 0.05, seed: 0}
    tasks: {household: {items: 800, threshold: 1.0}, ...}    # threshold: the least reward that is kept; 0: no filter
    seed: 0                                                  # draws the training items
    out: data/agentinstruct-mini

`out` becomes README.md (the data card), a <task>.jsonl for each task and meta/stats.json. The same file gives the same
bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from agenttuning import protocols
from agenttuning.episodes import status
from agenttuning.errors import UserError
from agenttuning.recipe.schema import build
from agenttuning.recipe.yaml_io import read_mapping

STATS = Path("meta") / "stats.json"  # not beside the rows: a reader of the folder would take it for a split
SPEAKER = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class _Teacher:
    slip: float
    give_up: float
    seed: int


@dataclass(frozen=True)
class _Task:
    items: int
    threshold: float


@dataclass(frozen=True)
class _File:
    teacher: dict
    tasks: dict
    out: str
    seed: int = 0


def collect(path: str | Path, out: str | Path | None = None, progress: bool = True) -> Path:
    """Play the training items of a collection file with its teacher, write what the filter keeps, return the folder.

    `out` overrides the file's, which is relative to the current directory. An older collection there is replaced, whole
    or not at all. Raises UserError for a bad file, for an `out` that holds something else, and when more episodes were
    lost to infrastructure than the protocol allows.
    """
    from agenttuning.environments import TASKS, room
    from agenttuning.episodes.runner import play
    from agenttuning.policies.teacher import teacher
    from agenttuning.protocols.messages import own

    path = Path(path)
    plan = build(_File, read_mapping(path), str(path))
    tasks = {name: build(_Task, task, f"{path}: tasks.{name}") for name, task in plan.tasks.items()}
    settings = build(_Teacher, plan.teacher, f"{path}: teacher")
    _check(tasks, TASKS, path)
    out = Path(out or plan.out)
    _check_place(out)
    protocol, policy = protocols.load(), teacher(settings.slip, settings.give_up, settings.seed)
    model = f"teacher(slip={settings.slip}, give_up={settings.give_up}, seed={settings.seed})"
    rows, stats = {}, {}
    for name, task in tasks.items():
        module = TASKS[name]
        items = module.items("train", task.items, plan.seed)
        records = play(
            room(module), items, policy, protocol, own(module), model=model, seed=plan.seed, progress=progress
        )
        rows[name] = _kept(name, records, task.threshold)
        stats[name] = _statistics(records, rows[name], task.threshold)
        _check_lost(name, stats[name], protocol)
    summary = {"teacher": vars(settings), "seed": plan.seed, "protocol": protocol.label, "tasks": stats}
    _write(out, rows, {**summary, "total": _total(stats)})
    return out


def conversation(messages: list[dict]) -> list[dict]:
    """Messages as AgentInstruct's turns: loss null for human, false for the acknowledgement, true for the agent."""
    return [
        {
            "from": SPEAKER[message["role"]],
            "loss": None if message["role"] == "user" else message["loss"],
            "value": message["content"],
        }
        for message in messages
    ]


def _kept(name: str, records: list[dict], threshold: float) -> list[dict]:
    # The number is the instruction's, not the row's: a row leads back to the item it was played on.
    return [
        {"id": f"{name}_{number}", "conversations": conversation(_answered(record["messages"]))}
        for number, record in enumerate(records)
        if _passes(record, threshold)
    ]


def _passes(record: dict, threshold: float) -> bool:
    if threshold == 0:  # no filter: whatever the teacher ended with, but not what the infrastructure broke
        return status.is_result(record["status"])
    return record["status"] == status.COMPLETED and record["reward"] >= threshold


def _answered(messages: list[dict]) -> list[dict]:
    """Without a last observation that the agent had no more room or turns to answer."""
    return messages[:-1] if messages[-1]["role"] == "user" else messages


def _statistics(records: list[dict], rows: list[dict], threshold: float) -> dict:
    turns = sum(turn["loss"] is True for row in rows for turn in row["conversations"])
    return {
        "instructions": len(records),
        "kept": len(rows),
        "turns": turns,
        "avg_turns": round(turns / len(rows), 2) if rows else None,
        "ratio_percent": round(100 * len(rows) / len(records), 2),
        "threshold": threshold,
        "statuses": dict(sorted(Counter(record["status"] for record in records).items())),
    }


def _total(stats: dict[str, dict]) -> dict:
    instructions, kept, turns = (
        sum(task[name] for task in stats.values()) for name in ("instructions", "kept", "turns")
    )
    return {
        "instructions": instructions,
        "kept": kept,
        "turns": turns,
        "avg_turns": round(turns / kept, 2) if kept else None,
        "ratio_percent": round(100 * kept / instructions, 2),
    }


def _check(tasks: dict[str, _Task], known: dict, path: Path) -> None:
    if not tasks:
        raise UserError(f"{path}: tasks is empty; nothing would be collected; name some of {', '.join(known)}")
    for name, task in tasks.items():
        if name not in known:
            raise UserError(
                f"{path}: there is no task {name!r}; it could not be played; choose from {', '.join(known)}"
            )
        if task.items < 1 or not 0 <= task.threshold <= 1:
            raise UserError(
                f"{path}: tasks.{name} has items {task.items} and threshold {task.threshold}; nothing would "
                "be kept, or other than what was meant; items must be at least 1, and threshold from 0 (no filter) to 1"
            )


def _check_place(out: Path) -> None:
    if out.exists() and not (out / STATS).is_file():
        raise UserError(f"{out} exists and is no collection; it would be replaced; choose another `out` or remove it")


def _check_lost(name: str, stats: dict, protocol: protocols.Protocol) -> None:
    lost = sum(n for kind, n in stats["statuses"].items() if not status.is_result(kind))
    if lost > protocol.void_above * stats["instructions"]:
        raise UserError(
            f"{name}: {lost} of {stats['instructions']} episodes were lost to infrastructure ({stats['statuses']}); "
            "the collection would be a biased part of what was asked; see the warnings above"
        )


def _write(out: Path, rows: dict[str, list[dict]], stats: dict) -> None:
    # Written beside `out` and renamed, so that `out` is never half a collection.
    temporary, old = (out.with_name(f".{out.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    try:
        (temporary / STATS).parent.mkdir(parents=True)
        for name, kept in rows.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            (temporary / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (temporary / STATS).write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(card(stats), encoding="utf-8")
        if out.exists():
            out.rename(old)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def card(stats: dict) -> str:
    """The data card of a collection: a Hub dataset card whose table has the columns of the paper's Table 1."""
    tasks = stats["tasks"]
    files = [line for name in tasks for line in (f"  - split: {name}", f"    path: {name}.jsonl")]
    lines = [f"| {name} | {_cells(task)} |" for name, task in tasks.items()]
    teacher = stats["teacher"]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "language: en",
            "task_categories: [text-generation]",
            "tags: [agents, synthetic]",
            "configs:",
            "- config_name: default",
            "  data_files:",
            *files,
            "---",
            "",
            "# Miniature agent trajectories",
            "",
            "Trajectories of a scripted teacher on small generated tasks, in the record format of AgentInstruct. They",
            "stand in for AgentInstruct where a whole training must fit on a CPU; they are not a part of it.",
            "",
            "| task | instructions | kept | avg. turns | ratio |",
            "|---|---|---|---|---|",
            *lines,
            f"| **total** | {_cells(stats['total'])} |",
            "",
            f"The teacher plays the expert's move, but slips with probability {teacher['slip']} and gives up with "
            f"{teacher['give_up']} at each turn.",
            "A trajectory is kept when the episode was completed with at least the task's reward: "
            + ", ".join(f"{name} {_rule(task['threshold'])}" for name, task in tasks.items())
            + ".",
            f"Protocol {stats['protocol']}, item seed {stats['seed']}, teacher seed {teacher['seed']}; the same seeds "
            "give the same bytes.",
            "",
            "A row is `{id, conversations: [{from, loss, value}]}`. `loss` is null for human turns, false for the "
            "acknowledgement",
            "of the instruction and true for the agent's own turns. The number in an id is the instruction's.",
            "",
        ]
    )


def _rule(threshold: float) -> str:
    return f"{threshold:g}" if threshold else "no filter (all are kept, however they ended)"


def _cells(task: dict) -> str:
    turns = "-" if task["avg_turns"] is None else f"{task['avg_turns']:.2f}"
    return f"{task['instructions']:,} | {task['kept']:,} | {turns} | {task['ratio_percent']:.1f} %"
