"""The comparison as text of at most 120 columns: verdicts first, then each side, then our models beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from agenttuning.chat.show import escape
from agenttuning.scoring.comparison import VERDICTS, Comparison, Overall, Row
from agenttuning.scoring.published import GROUPS, decimals
from agenttuning.scoring.results import Result
from agenttuning.scoring.text_table import table

if TYPE_CHECKING:
    from agenttuning.plan.evaluation import Job

WIDTH = 120
ORDER = ("released", "tuned", "base")
WHAT = {
    "released": "the authors' AgentLM weights in our harness. A miss here is the harness or the protocol, not the "
    "training: read these rows first",
    "tuned": "this run's model",
    "base": "the model it started from",
}
NOT_RELEASED = "Not scored yet: until they are, a miss of `tuned` may be the harness as well as the training."
ALIKE = "Database: every item counts alike here; its score is the mean over the categories of its items."
LEGEND = (
    "published, ours: scores with 95 % intervals, in the task's own unit. Published intervals are ours: Wilson's, from "
    "n. Where the metric is a mean (of rewards, F1 or ratings) the paper gives no spread and so no interval; ours come "
    "from a bootstrap.",
    "verdict: `differs` where the 95 % interval of ours - published leaves 0 out, else `consistent`. The test has two "
    "samples: the paper gives no results by item. Nothing is corrected for many rows: of 20 true reproductions about "
    "one `differs`.",
    "least: the smallest true difference that this n would have shown (two-sided 5 %, power 80 %). `consistent` says "
    "no more than that a larger one is unlikely.",
    "Mind2Web's steps come in tasks and are not independent: its true intervals are wider than these.",
    "overall: mean of score / divisor; the divisors are the published means of the five models that are not AgentLM, "
    "unrounded and fixed.",
)


def text(made: Comparison, jobs: Mapping[str, Iterable[Job]], remarks: Iterable[str] = ()) -> str:
    """The whole comparison. jobs: by side, the commands for what was not run; remarks: what else to know."""
    head = f"{made.recipe} beside the main table of the paper (arXiv 2310.12823)"
    lines = [head, "", *_summary(made)]
    for side in ORDER:
        lines += ["", *_side(made, side, list(jobs.get(side, ())))]
    lines += _pairs(made)
    if remarks := list(remarks):
        lines += ["", *(line for remark in remarks for line in _wrapped(f"note: {escape(remark)}"))]
    lines += ["", *(line for paragraph in LEGEND for line in _wrapped(paragraph))]
    return "\n".join(lines)


def remarks(results: list[Result], other_labels: list[str]) -> list[str]:
    """What a reader should know of the results beside their rows."""
    from agenttuning.scoring.published import load

    paper, said = load(), []
    for side in ORDER:
        models = sorted({one.model for one in results if one.side == side})
        if len(models) > 1:
            said.append(f"{side} has scores of {len(models)} models ({', '.join(models)}); were they the same weights?")
    strange = sorted({one.name for one in results if one.task not in paper.tasks})
    if strange:
        said.append(f"not in the paper's table and left out: {', '.join(strange)} (`agenttuning report` shows them)")
    for label in other_labels:
        said.append(
            f"eval/{label} is of no side and was left out; --results tuned=FOLDER (or base=, released=) adds it"
        )
    return said


def tasks_not_run(made: Comparison, side: str) -> list[str]:
    """The tasks of a side whose verdict is `not run`."""
    return [row.task for row in made.rows if row.side == side and not row.beside and row.verdict == "not run"]


def _summary(made: Comparison) -> list[str]:
    rows = [["verdicts on 16 tasks", *VERDICTS]]
    for side in ORDER:
        counted = [row.verdict for row in made.rows if row.side == side and not row.beside]
        rows.append([side, *(str(counted.count(verdict)) for verdict in VERDICTS)])
    return table(rows)


def _side(made: Comparison, side: str, jobs: list[Job]) -> list[str]:
    rows = [row for row in made.rows if row.side == side]
    main = [row for row in rows if not row.beside]
    lines = _wrapped(f"{side.upper()}, beside the published {main[0].published_model}: {WHAT[side]}.")
    nothing = all(row.verdict == "not run" for row in main)
    if side == "released" and nothing:
        lines += _wrapped(NOT_RELEASED)
    else:
        marks: dict[str, str] = {}
        lines += ["", *table([_HEAD, *(_cells(row, marks) for row in main)])]
        lines += [line for note, mark in marks.items() for line in _wrapped(f"{mark}  {escape(note)}", "   ")]
        lines += [line for one in made.overalls if one.side == side for line in _wrapped(_overall(one, made), "  ")]
    if beside := [row for row in rows if row.beside]:
        lines += [
            "further results, not compared:",
            *(line for row in beside for line in _wrapped(_further(row), "    ")),
        ]
    return lines + _not_run(main, jobs)


_HEAD = ["task", "published", "ours", "n", "ours - published", "least", "protocol", "verdict"]


def _cells(row: Row, marks: dict[str, str]) -> list[str]:
    digits = decimals(row.task)
    ours = difference = least = "-"
    if row.ours is not None:
        ours = f"{row.ours:.{digits}f} {_range(row.interval, digits)}"
    if row.difference is not None:
        difference = f"{_signed(row.difference, digits)} {_range(row.difference_interval, digits, signed=True)}"
        least = "none" if row.detectable is None else f"{row.detectable:.{digits}f}"
    n = str(row.published_n) if row.n in (None, row.published_n) else f"{row.n}/{row.published_n}"
    played = " ".join(escape(part) for part in (row.protocol, _engine(row)) if part) or "-"
    published = f"{row.published:.{digits}f} {_range(row.published_interval, digits)}".rstrip()
    return [row.title, published, ours, n, difference, least, played, _verdict(row, marks)]


def _verdict(row: Row, marks: dict[str, str]) -> str:
    """The verdict with a letter for each thing to know about it; what a note says stands below the table once."""
    if row.verdict == "not run" or not row.why:
        return row.verdict
    notes = [row.why] if row.verdict == "not comparable" else row.why.split("; ")
    letters = [marks.setdefault(note, _letter(len(marks))) for note in notes]
    return f"{row.verdict} {','.join(letters)}"


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"z{index - 25}"


def _engine(row: Row) -> str | None:
    """The backend where it is not what one expects; of held-in tasks only comparable ones have a verdict."""
    return row.backend if row.group == "general" and row.backend != "transformers" else None


def _further(row: Row) -> str:
    digits = decimals(row.task)
    score = "no score" if row.ours is None else f"{row.ours:.{digits}f} {_range(row.interval, digits)}"
    where = " in ".join(part for part in (row.protocol, row.backend) if part)
    return escape(f"  {row.title} {score} n={row.n} by {where}: {row.why}")


def _overall(one: Overall, made: Comparison) -> str:
    title, tasks = f"overall {GROUPS[one.group]}", {row.task: row.title for row in made.rows}
    if one.ours is None:
        return f"{title}: published {one.published:.2f}; no task of its {one.of} has a verdict"
    ours = f"{one.ours:.2f} {_range(one.interval, 2)}"
    if len(one.tasks) == one.of:
        return f"{title}: published {one.published:.2f}; ours {ours} over all {one.of} tasks"
    names = ", ".join(tasks[task] for task in one.tasks)
    only = f"over {len(one.tasks)} of {one.of} tasks only ({names}), one protocol, so not the paper's quantity"
    return (
        f"{title}: {only}: ours {ours}, published over the same {one.published_same:.2f} (over all {one.published:.2f})"
    )


def _not_run(main: list[Row], jobs: list[Job]) -> list[str]:
    titles = {row.task: row.title for row in main}
    lines = []
    for job in jobs:
        names = ", ".join(titles.pop(task) for task in job.tasks)
        lines += _wrapped(f"not run: {names}: {job.cost} (reckoned, not measured)", "    ")
        lines += command_lines(job.command)
    if rest := [row for row in main if row.verdict == "not run" and row.task in titles]:
        for reason in dict.fromkeys(row.why for row in rest):
            names = ", ".join(row.title for row in rest if row.why == reason)
            lines += _wrapped(f"not run: {names}: {reason}", "    ")
    return lines


def command_lines(command: str) -> list[str]:
    """A command over several lines, as a shell (and make, inside ARGS='...') takes it."""
    lines, indent = ["  "], "      "
    for word in command.replace(" --", "\n--").split("\n"):
        if len(lines[-1]) + len(word) + 3 > WIDTH and lines[-1].strip():
            lines[-1] += " \\"
            lines.append(indent)
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    return lines


def _pairs(made: Comparison) -> list[str]:
    if not made.pairs:
        return []
    titles = {row.task: row.title for row in made.rows}
    rows = [["our own results over the same items", "task", "protocol", "n", "difference", "p"]]
    for one in made.pairs:
        digits = decimals(one.task)
        difference = f"{_signed(one.difference, digits)} {_range(one.interval, digits, signed=True)}"
        name, p = escape(titles.get(one.task, one.task)), "<0.0001" if one.p < 0.0001 else f"{one.p:.4f}"
        rows.append([escape(one.what), name, escape(one.protocol), str(one.n), difference, p])
    test = (
        "p: exact McNemar where each item is right or wrong, else 10,000 random signs, seeded; not corrected for many."
    )
    weighed = [ALIKE] if any(one.task == "db" for one in made.pairs) else []
    return ["", *table(rows), test, *weighed]


def _range(interval: tuple[float, float] | None, digits: int, signed: bool = False) -> str:
    if not interval:
        return ""
    return f"[{', '.join(_signed(end, digits) if signed else f'{end:.{digits}f}' for end in interval)}]"


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: no "-0.0"


def _wrapped(line: str, indent: str = "") -> list[str]:
    kept = len(line) - len(line.lstrip())
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=" " * kept + indent, break_long_words=True, break_on_hyphens=False
    ) or [""]
