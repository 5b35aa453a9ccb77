"""Known defects of the released AgentInstruct data, found in a row by its structure and counted per source.

mismatched_answer: prompt and answer come from different samples (mind2web, and reported for alfworld; AgentTuning
    issues 58 and 63). Only what the row itself proves: a chosen letter that was not offered, an action outside CLICK,
    TYPE and SELECT, a typed value that neither the prompt nor the page holds, a thought without one content word of the
    prompt; in alfworld a task of whose objects the agent names fewer than half. A row may be wrong without being found.
terminal_escapes: an observation holds raw terminal escape codes (os).
option_not_chosen: the webshop instruction asks for "size: X" (or another named option), the page offered X, and the
    agent bought without choosing it.

The list of available actions that alfworld's instruction promises is missing from every row and from the paper's
evaluation alike, so it separates no row from another and is not counted here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

NAMES = ("mismatched_answer", "terminal_escapes", "option_not_chosen")
ACTIONS = {"CLICK", "TYPE", "SELECT"}  # the three of Mind2Web
_ESCAPE = re.compile(r"[\x1b\x9b]|\x07")  # ESC and the one-byte CSI begin an escape code, BEL ends a window title
_CHOICE = re.compile(r"^([A-Z])\. ", re.MULTILINE)
_ANSWER = re.compile(r"^Answer: ([A-Z])\b.*\n+Action: (\w+)(?:\s*\nValue: (.*))?", re.MULTILINE)
_TASK = re.compile(r"task is to: ([^\n]+)")
_OPTION = re.compile(r"\b(size|color|style|flavor name|scent): ([^,\[\]]+)")
_CLICK = re.compile(r"click\[(.+?)\]")
# Words that say nothing about which page or task a thought belongs to.
_EMPTY = set(
    re.findall(
        "[a-z]+",
        "a about action already an and are as at be been by can click do find first for from get has have i in into is "
        "it looking me my need new next now of on one option or out page search select set should so some that the "
        "them then there they this to two type under up use want was we which will with you",
    )
)


@dataclass
class Defects:
    """A filter: counts the defects of the rows it sees, lists them in `records`, and with `drop` refuses those rows."""

    source: str
    drop: bool = False
    found: Counter = field(default_factory=Counter)
    records: list[dict] = field(default_factory=list)

    def __call__(self, row: dict) -> str | None:
        """None to keep the row, else the reason to drop it."""
        names = find(row["messages"])
        if not names:
            return None
        self.found.update(names)
        self.records.append({"source": self.source, "split": row["split"], "id": row["id"], "defects": names})
        return f"defect: {', '.join(names)}" if self.drop else None


def find(messages: list[dict]) -> list[str]:
    """The names of the defects of one converted conversation, in the order of NAMES."""
    found = {
        "mismatched_answer": _answer_of_another_page(messages) or _objects_of_another_task(messages),
        "terminal_escapes": any(
            message["role"] == "user" and _ESCAPE.search(message["content"]) for message in messages
        ),
        "option_not_chosen": _option_not_chosen(messages),
    }
    return [name for name in NAMES if found[name]]


def summary(mixture: dict) -> str:
    """What was found and dropped, one line per source that has something to say; empty when none has."""
    lines = []
    for name, source in mixture["sources"].items():
        counts = ", ".join(f"{count:,} {defect}" for defect, count in source["defects"].items())
        if counts:
            lines.append(f"{name}: rows with known defects: {counts}; see defects.jsonl")
        lines += [f"{name}: dropped {count:,} rows ({reason})" for reason, count in source["dropped"].items()]
    return "\n".join(lines)


def _answer_of_another_page(messages: list[dict]) -> bool:
    """Whether a trained multiple-choice answer cannot belong to the prompt before it."""
    for prompt, reply in zip(messages, messages[1:], strict=False):
        answer = _ANSWER.search(reply["content"]) if reply["loss"] else None
        choices = set(_CHOICE.findall(prompt["content"])) if answer else set()
        if len(choices) < 2:
            continue
        letter, action, value = answer.groups()
        known = words(prompt["content"])
        thought = words(reply["content"][: answer.start()]) - {"thought"}
        strange = bool(value) and action == "TYPE" and not words(value) & known
        if letter not in choices or action not in ACTIONS or strange or (thought and not thought & known):
            return True
    return False


def _objects_of_another_task(messages: list[dict]) -> bool:
    """Whether the agent names fewer than half of the task's objects ("put two spraybottle in toilet")."""
    tasks = [match for message in messages if message["role"] == "user" for match in _TASK.findall(message["content"])]
    if not tasks:
        return False
    verbs = {"put", "clean", "cool", "heat", "hot", "examine", "look"}
    objects = words(tasks[-1]) - verbs
    said = words(" ".join(message["content"] for message in messages if message["loss"]))
    return bool(objects) and 2 * len(objects & said) < len(objects)


def _option_not_chosen(messages: list[dict]) -> bool:
    clicked = [_plain(click) for message in messages if message["loss"] for click in _CLICK.findall(message["content"])]
    if "buy now" not in clicked:
        return False
    pages = [message["content"] for message in messages if message["role"] == "user" and "[SEP]" in message["content"]]
    offered = {_plain(part) for page in pages for part in page.split("[SEP]")}
    asked = {_plain(value) for page in pages for _, value in _OPTION.findall(page)}
    return any(value in offered and value not in clicked for value in asked if value)


def words(text: str) -> set[str]:
    """Lower-case words and numbers of a text, without those that fit any text. A plural counts as its singular."""
    found = {word.rstrip("s") or word for word in re.findall(r"[a-z]+|[0-9]+", text.lower())}
    return {word for word in found if len(word) > 1 or word.isdigit()} - _EMPTY


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9.]+", text.lower()))
