"""A database task after AgentBench's DBBench pattern: one real SQLite table, a question or an order, an answer.

A question is scored by its answer, an order (insert, update, delete) by the state of the table, as in the original.
The model's text reaches SQLite as a statement, so the connection is boxed: in memory, one table, an authorizer that
refuses everything else, and limits on work and rows.
"""

from __future__ import annotations

import random
import sqlite3

from agenttuning.environments import Move, Step, build_items, reserved
from agenttuning.environments.words import CITIES, FIRST_NAMES, JOBS, LAST_NAMES, TABLE_ADJECTIVES, TABLE_NOUNS, TEAMS

NAME = "database"
INSTRUCTION = "You have a database. Do the task with SQL. Actions: an SQL statement, answer."
ACKNOWLEDGEMENT = "Ok."
MAX_TURNS = 6
KINDS = ("lookup", "lookup", "count", "max", "update", "delete", "insert")  # lookups twice as often
VALUES = {"age": range(20, 100), "points": range(10, 100), "city": CITIES, "team": TEAMS, "job": JOBS}
ROWS = 6
MAX_WORK = 20_000  # SQLite virtual-machine steps; a statement over six rows needs some hundreds
MAX_SHOWN = 20  # result rows


def _name(rng: random.Random, test: bool) -> str:
    while True:
        first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        if reserved("name", first, last) == test:
            return f"{first} {last}"


def _draw(rng: random.Random, test: bool) -> dict | None:
    table = f"{rng.choice(TABLE_ADJECTIVES)}_{rng.choice(TABLE_NOUNS)}"
    if reserved("table", table) != test:
        return None
    columns = ["name", *rng.sample(list(VALUES), 2)]
    numeric = [column for column in columns[1:] if column in ("age", "points")]
    kind = rng.choice(KINDS)
    if kind == "max" and not numeric:
        return None
    names: dict[str, None] = {}
    while len(names) < ROWS + 1:
        names[_name(rng, test)] = None
    *present, absent = names
    # Numbers differ from row to row, so that the largest one is unique.
    pools = {c: rng.sample(VALUES[c], ROWS) if c in numeric else rng.choices(VALUES[c], k=ROWS) for c in columns[1:]}
    rows = [[name, *(pools[column][i] for column in columns[1:])] for i, name in enumerate(present)]
    column = rng.choice(numeric if kind == "max" else columns[1:])
    task = {"kind": kind, "column": column, "name": absent if kind == "insert" else rng.choice(present)}
    if kind in ("count", "update"):
        task["value"] = (
            rng.choice([row[columns.index(column)] for row in rows]) if kind == "count" else rng.choice(VALUES[column])
        )
    if kind == "insert":
        task["values"] = [rng.choice(VALUES[column]) for column in columns[1:]]
    return {"table": table, "columns": columns, "rows": rows, **task}


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` items of a split; test items use table names and person names that training never shows."""
    return build_items(NAME, split, n, seed, _draw)


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _gold_sql(item: dict) -> str:
    table, column, name = item["table"], item["column"], item["name"]
    match item["kind"]:
        case "lookup":
            return f"SELECT {column} FROM {table} WHERE name = '{name}'"
        case "count":
            return f"SELECT COUNT(*) FROM {table} WHERE {column} = {_literal(item['value'])}"
        case "max":
            return f"SELECT name FROM {table} ORDER BY {column} DESC LIMIT 1"
        case "update":
            return f"UPDATE {table} SET {column} = {_literal(item['value'])} WHERE name = '{name}'"
        case "delete":
            return f"DELETE FROM {table} WHERE name = '{name}'"
        case "insert":
            return f"INSERT INTO {table} VALUES ( '{name}', {', '.join(map(_literal, item['values']))} )"
    raise ValueError(f"unknown kind {item['kind']!r}")


def _question(item: dict) -> str:
    column, name = item["column"], item["name"]
    match item["kind"]:
        case "lookup":
            return f"what is the {column} of '{name}'?"
        case "count":
            return f"how many have {column} {_literal(item['value'])}?"
        case "max":
            return f"who has most {column}?"
        case "update":
            return f"set the {column} of '{name}' to {_literal(item['value'])}."
        case "delete":
            return f"delete '{name}'."
        case "insert":
            return f"add '{name}', {', '.join(map(_literal, item['values']))}."
    raise ValueError(f"unknown kind {item['kind']!r}")


_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
}
_FUNCTIONS = {"count", "max", "min", "sum", "avg", "abs", "lower", "upper", "length"}


def _connect(item: dict) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    columns = ", ".join(
        f'"{column}" {"INTEGER" if column in ("age", "points") else "TEXT"}' for column in item["columns"]
    )
    connection.execute(f'CREATE TABLE "{item["table"]}" ({columns})')
    marks = ", ".join("?" * len(item["columns"]))
    connection.executemany(f'INSERT INTO "{item["table"]}" VALUES ({marks})', item["rows"])

    def authorize(code: int, first: str | None, second: str | None, *_: object) -> int:
        if code == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_OK if (second or "").lower() in _FUNCTIONS else sqlite3.SQLITE_DENY
        known = code in _ALLOWED and (code == sqlite3.SQLITE_SELECT or first == item["table"])
        return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY

    connection.set_authorizer(authorize)
    # Called once each MAX_WORK virtual-machine steps: returning non-zero interrupts the statement.
    connection.set_progress_handler(lambda: 1, MAX_WORK)
    return connection


class Environment:
    """One table and one task; `answer X` ends the episode."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.connection: sqlite3.Connection | None = None

    def reset(self) -> str:
        """The task, the table's name and its columns."""
        self.close()
        self.connection = _connect(self.item)
        self.answer: str | None = None
        self.result: str | None = None
        self.wanted_rows, self.wanted_answer = self._gold()
        columns = ", ".join(self.item["columns"])
        return f"Task: {_question(self.item)} Table {self.item['table']}: {columns}."

    def _gold(self) -> tuple[list, str]:
        # The wanted end state is made by running the reference statement on a table of its own.
        gold = _connect(self.item)
        try:
            result = gold.execute(_gold_sql(self.item)).fetchall()
            rows = gold.execute(f'SELECT * FROM "{self.item["table"]}"').fetchall()
        finally:
            gold.close()
        return sorted(rows, key=repr), str(result[0][0]) if result else "done"

    def step(self, action: str) -> Step:
        """An SQL statement, or `answer X`."""
        text = action.strip()
        if text.startswith("answer "):
            self.answer = text.removeprefix("answer ").strip()
            return Step("Thank you.", done=True)
        if not text.split() or text.split()[0].upper() not in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            return Step("Nothing happens.", valid=False)
        before = self.connection.total_changes
        try:
            rows = self.connection.execute(text).fetchmany(MAX_SHOWN)
        except (sqlite3.Error, sqlite3.Warning, ValueError, UnicodeError):
            return Step("Error.", valid=False)
        if self.connection.total_changes != before or text[:6].upper() != "SELECT":
            self.result = "done"
        else:
            self.result = ", ".join(" ".join(map(str, row)) for row in rows) or "nothing"
        return Step(f"Result: {self.result}.")

    def _rows(self) -> list:
        return sorted(self.connection.execute(f'SELECT * FROM "{self.item["table"]}"').fetchall(), key=repr)

    def score(self) -> float:
        """1.0 for the right answer (question) or the right table (order), else 0.0."""
        rows = self._rows()
        if self.item["kind"] in ("lookup", "count", "max"):
            return float(self.answer == self.wanted_answer and rows == self.wanted_rows)
        return float(self.answer is not None and rows == self.wanted_rows)

    def oracle(self) -> Move:
        """State the plan, run the reference statement, then answer with its result."""
        # Only what the last statement showed may be answered, also after somebody else's slip.
        if self.result != self.wanted_answer or self._rows() != self.wanted_rows:
            return Move(_plan(self.item), _gold_sql(self.item))
        return Move(f"the result is {self.wanted_answer}.", f"answer {self.wanted_answer}")

    def actions(self) -> list[str]:
        """Some statements that run, and some answers."""
        table, columns = self.item["table"], self.item["columns"]
        return [f"SELECT {c} FROM {table}" for c in columns] + [f"answer {row[1]}" for row in self.item["rows"][:3]]

    def close(self) -> None:
        """Drop the table with its connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _plan(item: dict) -> str:
    match item["kind"]:
        case "lookup":
            return f"select {item['column']} of '{item['name']}'."
        case "count":
            return f"count {item['column']} {_literal(item['value'])}."
        case "max":
            return f"order by {item['column']}."
        case "update":
            return f"update {item['column']} of '{item['name']}'."
        case "delete":
            return f"delete '{item['name']}'."
        case "insert":
            return f"insert '{item['name']}'."
    raise ValueError(f"unknown kind {item['kind']!r}")
