"""The grammar of an answer, and how its action is scored.

An answer is one text, `LETTER | OPERATION | VALUE`, for example `C | TYPE | New York`. VALUE is everything after the
second ` | `, so no value can break it; what is missing at the end is left out, and `-` stands for a missing part before
it. LETTER is A to F, A for "none of the above". OPERATION is CLICK, SELECT or TYPE.
"""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "ABCDEF"
OPERATIONS = ("CLICK", "SELECT", "TYPE")
NOTHING = "-"
BETWEEN = " | "


@dataclass(frozen=True)
class Answer:
    """`letter` is empty where the reply has no answer: it then counts as A, as in the original."""

    letter: str
    operation: str = ""
    value: str = ""

    @property
    def action(self) -> str:
        """As the original compares it: operation and value."""
        return f"{self.operation} {self.value}".strip()


def write_answer(answer: Answer) -> str:
    """An answer as one text; `read_answer` gives it back."""
    parts = [answer.letter or NOTHING]
    if answer.operation or answer.value:
        parts.append(answer.operation or NOTHING)
    if answer.value:
        parts.append(answer.value)
    return BETWEEN.join(parts)


def read_answer(action: str) -> Answer:
    """The answer that a text stands for. Never raises: what is not of the grammar is an answer without a letter."""
    letter, operation, value = [*action.split(BETWEEN, 2), "", ""][:3]
    known = len(letter) == 1 and letter in LETTERS
    return Answer(letter if known else "", operation if operation in OPERATIONS else "", value.strip())


def gold_action(operation: dict) -> str:
    """What an answer's action is compared with. The value counts for SELECT and TYPE only, and its first line only."""
    name, value = operation["op"], operation["value"] if operation["op"] != "CLICK" else ""
    return Answer("", name if name in OPERATIONS else "", value.split("\n")[0].strip()).action


def token_f1(predicted: str, wanted: str) -> float:
    """F1 in [0, 1] of two sets of words; two empty ones agree. AgentBench, mind2web/task.py, calculate_f1."""
    got, gold = set(predicted.split()), set(wanted.split())
    if not got or not gold:
        return float(not got and not gold)
    return 2 * len(got & gold) / (len(got) + len(gold))
