"""The folder of a collection: rows, data card and statistics, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from agenttuning.data.folders import alone_in
from agenttuning.errors import UserError

PRACTICE = "practice items"  # what a task was played on, in the statistics
STATS = Path("meta") / "stats.json"  # not beside the rows: a reader of the folder would take it for a split


def check_place(out: Path) -> None:
    """Raise UserError when there is something at `out` that is no collection."""
    if out.exists() and not (out / STATS).is_file():
        raise UserError(f"{out} exists and is no collection; it would be replaced; choose another `out` or remove it")


def write(out: Path, rows: dict[str, list[dict]], stats: dict) -> None:
    """Write the folder; an older collection there is replaced."""
    # Written beside `out` and renamed, so that `out` is never half a collection.
    temporary, old = (out.with_name(f".{out.name}.{kind}") for kind in ("new", "old"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(out.parent):
        _settle(temporary, old, out)  # after a kill
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
            _settle(temporary, old, out)


def _settle(temporary: Path, old: Path, out: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    if old.exists() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def card(stats: dict) -> str:
    """The data card of a collection: a Hub dataset card whose table has the columns of the paper's Table 1."""
    tasks = stats["tasks"]
    files = [
        line
        for name, task in tasks.items()
        if task["rows"]  # the Hub cannot read an empty file
        for line in (f"  - split: {name}", f"    path: {name}.jsonl")
    ]
    lines = [f"| {name} | {_cells(task)} |" for name, task in tasks.items()]
    held_in = "overlap" in stats
    return "\n".join(
        [
            "---",
            *(["license: apache-2.0"] if _all_ours(stats) else []),
            "language: en",
            "task_categories: [text-generation]",
            "tags: [agents, synthetic]",
            *(["configs:", "- config_name: default", "  data_files:", *files] if files else []),
            "---",
            "",
            *(_held_in_words(tasks) if held_in else MINIATURE_WORDS),
            "",
            "| task | instructions | kept | avg. turns | ratio |",
            "|---|---|---|---|---|",
            *lines,
            f"| **total** | {_cells(stats['total'])} |",
            "",
            *_teacher(stats["teacher"]),
            "A trajectory is kept when the episode was completed with at least the task's reward: "
            + ", ".join(f"{name} {_rule(task['threshold'])}" for name, task in tasks.items())
            + ".",
            f"Protocol {stats['protocol']}, item seed {stats['seed']}, teacher seed {stats['teacher']['seed']}"
            + ("; the same seeds give the same bytes." if "slip" in stats["teacher"] else "."),
            "",
            "A row is `{id, conversations: [{from, loss, value}]}`. `loss` is null for human turns, false for the "
            "acknowledgement",
            "of the instruction and true for the agent's own turns. The number in an id is the instruction's.",
            *(_held_in(tasks) + _overlap(stats["overlap"]) if held_in else []),
            *([] if _all_ours(stats) else ["", *NO_LICENCE]),
            "",
        ]
    )


MINIATURE_WORDS = (
    "# Miniature agent trajectories",
    "",
    "Trajectories of a scripted teacher on small generated tasks, in the record format of AgentInstruct. They",
    "stand in for AgentInstruct where a whole training must fit on a CPU; they are not a part of it.",
)
NO_LICENCE = (
    "No licence is stated: the replies, the instructions or the prompts are not all this program's own. Before you",
    "publish, see what the terms of the teacher and of the data allow, and add `license:` to the head of this card.",
)


def _all_ours(stats: dict) -> bool:
    ours = all(task.get("items", PRACTICE) == PRACTICE for task in stats["tasks"].values())
    return ours and "slip" in stats["teacher"] and stats["prompts"] == "ours"


def _held_in_words(tasks: dict[str, dict]) -> list[str]:
    made = [name for name, task in tasks.items() if task["items"] == PRACTICE]
    names = ", ".join(tasks)
    words = [
        "# Agent trajectories in the format of AgentInstruct",
        "",
        f"Trajectories of a teacher on instructions of the kinds that AgentInstruct has: {names}.",
        "They are not a part of AgentInstruct.",
    ]
    if made:
        words += [
            f"The instructions {'' if made == list(tasks) else 'of ' + ', '.join(made) + ' '}were generated, with the "
            "tables, graphs, rooms, shops and pages",
            "that they speak of; none is from a benchmark.",
        ]
    return words


def _teacher(teacher: dict) -> list[str]:
    if "slip" not in teacher:
        return [
            f"The teacher is {teacher['model']}, asked at temperature {teacher['temperature']:g} for at most "
            f"{teacher['max_new_tokens']} tokens a turn."
        ]
    if not (teacher["slip"] or teacher["give_up"]):
        return ["The teacher is a program that plays the expert's moves."]
    return [
        "The teacher is a program that plays the expert's move, but slips with probability "
        f"{teacher['slip']} and gives up with {teacher['give_up']} at each turn."
    ]


def _held_in(tasks: dict[str, dict]) -> list[str]:
    split = [f"{name} {one['kept']:,} episodes in {one['rows']:,} rows" for name, one in tasks.items()
             if one["rows"] != one["kept"]]  # fmt: skip
    return [
        *([f"Questions that are asked alone are rows of their own: {', '.join(split)}."] if split else []),
        "",
        "| task | instructions | played in |",
        "|---|---|---|",
        *(f"| {name} | {one['items']} | {one['backend']}: {one['played_in']} |" for name, one in tasks.items()),
    ]


def overlap_table(overlap: dict[str, dict]) -> list[str]:
    """How the evaluation items stand in the rows, as a Markdown table."""
    return [
        "| task | items | the same | clean | between | dirty | too short to tell |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {one['items']} | {one['same']} | {one['clean']} | {one['between']} | {one['dirty']} | "
            f"{one['too_short']} |"
            for name, one in overlap.items()
        ),
    ]


def _overlap(overlap: dict[str, dict]) -> list[str]:
    found = same_in(overlap)
    return [
        "",
        "Overlap with evaluation items. The same: an item's first observation stands whole in a row. The others by the",
        "paper's rule (10 equal words, then up to 4 that differ; dirty: more than 80 % of an item's words, clean: less",
        "than 20 %). It counts what pages and rooms have in common as well, so that generated items of one kind are",
        "mostly dirty, and are other items all the same.",
        "",
        *overlap_table(overlap),
        *(["", f"**Evaluation items are in the rows: {found}**; a model that learned them has no score"] * bool(found)),
    ]


def same_in(overlap: dict[str, dict]) -> str:
    """Which tasks have evaluation items in the rows, e.g. "db 20 of 60"; empty for none."""
    return ", ".join(f"{name} {one['same']} of {one['items']}" for name, one in overlap.items() if one["same"])


def table(folder: str | Path) -> str:
    """What a collection holds, for the terminal: the card's tables from its statistics."""
    stats = json.loads((Path(folder) / STATS).read_text(encoding="utf-8"))
    lines = [f"{'task':<10}{'instructions':>13}{'kept':>7}{'rows':>7}{'avg. turns':>12}{'ratio':>9}  how they ended"]
    for name, one in [*stats["tasks"].items(), ("total", stats["total"])]:
        turns = "-" if one["avg_turns"] is None else f"{one['avg_turns']:.2f}"
        ended = ", ".join(f"{kind} {n}" for kind, n in one.get("statuses", {}).items())
        numbers = f"{one['instructions']:>13,}{one['kept']:>7,}{one['rows']:>7,}{turns:>12}"
        numbers += f"{one['ratio_percent']:>7.1f} %"
        lines.append(f"{name:<10}{numbers}  {ended}".rstrip())
    if none := [name for name, one in stats["tasks"].items() if not one["kept"]]:
        lines.append(f"nothing was kept of {', '.join(none)}")
    if "overlap" in stats:
        compared = sum(one["items"] for one in stats["overlap"].values())
        found = same_in(stats["overlap"])
        lines.append(
            f"evaluation items that stand whole in a row: {found or f'none of {compared}'}"
            + ("; do not score a model that learned them there (ids: meta/stats.json)" if found else "")
        )
    return "\n".join(lines)


def _rule(threshold: float) -> str:
    return f"{threshold:g}" if threshold else "no filter (all are kept, however they ended)"


def _cells(task: dict) -> str:
    turns = "-" if task["avg_turns"] is None else f"{task['avg_turns']:.2f}"
    return f"{task['instructions']:,} | {task['kept']:,} | {turns} | {task['ratio_percent']:.1f} %"
