"""One episode of the DB task on a table of either backend; the mechanics of AgentBench.old (src/tasks/dbbench)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agenttuning.environments import Move, Step
from agenttuning.environments.db.scoring import CHANGES, answers_match, category

SHOWN_CHARS = 800  # Interaction.py, Container.execute: longer results are cut there
CUT = "[TRUNCATED]"
MAX_ROUNDS = 15  # configs/tasks/dbbench: max_round, statements that are run; one reply more may answer


@dataclass(frozen=True)
class Result:
    """What a statement led to: the text of its rows or of its error, and whether it was an error."""

    text: str
    failed: bool = False


class Table(Protocol):
    """A database with the item's table, on MySQL or SQLite."""

    def execute(self, statement: str) -> Result:
        """Run one statement. Raises for a failure of the infrastructure only."""

    def hash(self) -> str:
        """The table's state as `scoring.table_hash` has it, or the text of the error when the table is gone."""

    def close(self) -> None:
        """Drop the database."""


def shown(rows: str) -> str:
    """A result as the model sees it."""
    return rows if len(rows) <= SHOWN_CHARS else rows[:SHOWN_CHARS] + CUT


class Environment:
    """A table and a question or an order. Actions: `sql: STATEMENT`, and `answer:TEXT`, which ends the episode.

    A question is won by its answer, an order by the state of the table, whatever was answered.
    """

    def __init__(self, item: dict, open_table: Callable[[dict], Table]) -> None:
        self.item = item
        self._open = open_table
        self.table: Table | None = None

    def reset(self) -> str:
        """The question or order, and the table's name and headers."""
        self.close()
        self.table = self._open(self.item)
        self.answer = ""  # the original's, when there is none
        self.rounds = 0
        self.last = None
        return f"{self.item['description']}\n{self.item['add_description']}"

    def step(self, action: str) -> Step:
        """Run a statement, or take the answer. The statement after the last round is not run and ends the episode."""
        if action.startswith("answer:"):
            self.answer = action.removeprefix("answer:")
            return Step("", done=True)
        if not action.startswith("sql:"):
            return Step("", valid=False)
        if self.rounds >= MAX_ROUNDS:
            return Step("", done=True, valid=False)
        self.rounds += 1
        self.last = action.removeprefix("sql:").strip()
        result = self.table.execute(self.last)
        return Step(shown(result.text), valid=not result.failed)

    def score(self) -> float:
        """1.0 for the right answer (a question) or the right table (an order), else 0.0."""
        if self.item["kind"] in CHANGES:
            return float(self.table.hash() == self.item["answer_md5"])
        return float(answers_match(self.answer, self.item["label"]))

    def metrics(self) -> dict:
        """category (SELECT, INSERT, UPDATE; their mean is the headline), and the item's finer type."""
        return {"category": category(self.item["kind"]), "type": self.item["type"]}

    def oracle(self) -> Move:
        """Runs the reference statement where there is one, then answers with the label, or "done" after an order."""
        gold = self.item["gold"]
        if gold is not None and self.last != gold:
            return Move(f"The {self.item['kind']} statement for this is clear.", f"sql: {gold}")
        if self.item["kind"] in CHANGES:
            return Move("The table is as it was ordered.", 'answer: ["done"]')
        return Move("These are the values asked for.", f"answer: {self.item['label']}")

    def actions(self) -> list[str]:
        """Statements that run and change nothing that matters, and answers from the table's first rows."""
        name = quoted(self.item["table"])
        look = [f"sql: SELECT {quoted(column)} FROM {name} LIMIT 5" for column in self.item["columns"]]
        return [f"sql: SELECT * FROM {name}", *look, *(f"answer: {row[:1]}" for row in self.item["rows"][:5])]

    def close(self) -> None:
        """Drop the database."""
        if self.table is not None:
            table, self.table = self.table, None
            table.close()


def quoted(name: str) -> str:
    """A name as MySQL's identifier."""
    return "`" + name.replace("`", "``") + "`"
