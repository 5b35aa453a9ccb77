"""The DB task on SQLite in memory, which answers as MySQL does, mostly; boxed.

The model's text is parsed as MySQL and only what could be translated reaches SQLite. There an authorizer allows
reading and changing the one table and the functions of this package; work, rows, value sizes and pages are bounded.
Statements that make or drop tables are refused.
"""

from __future__ import annotations

import re
import sqlite3
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from sqlglot import exp

from agenttuning.environments.db import functions
from agenttuning.environments.db.dialect import Plan, Translator
from agenttuning.environments.db.episode import SHOWN_CHARS, Result, quoted
from agenttuning.environments.db.expressions import Type
from agenttuning.environments.db.messages import SQLError, syntax_error
from agenttuning.environments.db.scoring import table_hash

STATEMENT_CHARS = 20_000
STEPS = 2_000_000  # of SQLite's machine for one statement; over a hundred rows it needs some thousands
STEPS_AT_ONCE = 10_000
PAGES = 2_000  # of 4 kB, the table's most
TOO_MUCH = "3024 (HY000): Query execution was interrupted, maximum statement execution time exceeded"
READ_ROWS = 20_000
DIGITS = 65  # of a DECIMAL
_WIDE = Context(prec=2 * DIGITS)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 200_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
}
_BUILT_IN = {"count", "sum", "avg", "min", "max", "coalesce", "row_number", "rank", "dense_rank"}
_NAME = r"(?:(?:`(?:[^`]|``)+`|\w+)\.)?(`(?:[^`]|``)+`|\w+)"
_DESCRIBE = re.compile(
    rf"\s*(?:DESC|DESCRIBE|EXPLAIN|SHOW\s+(?:FULL\s+)?(?:COLUMNS|FIELDS)\s+(?:FROM|IN))\s+{_NAME}\s*;?\s*", re.I
)
_SHOW = re.compile(r"\s*SHOW\s+(?:FULL\s+)?(TABLES|DATABASES|SCHEMAS|WARNINGS|ERRORS)\s*;?\s*", re.I)
# A column's name in quotes is a text, which MySQL does not take in this place.
_QUOTED_NAMES = re.compile(rf"\s*(?:INSERT|REPLACE)\s+(?:IGNORE\s+)?(?:INTO\s+)?{_NAME}\s*\([^)]*?(['\"].*)", re.I)
_NOTHING = re.compile(r"\s*(?:COMMIT|ROLLBACK|BEGIN|START\s+TRANSACTION)\s*;?\s*", re.I)  # a session for each statement


class SQLiteTable:
    """One episode's table."""

    def __init__(self, item: dict) -> None:
        self.name, self.columns = item["table"], item["columns"]
        self.work = functions.Work()
        self._steps = 0
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        functions.install(self.connection, self.work)
        self.exists = _possible(self.columns)
        if self.exists:
            columns = ", ".join(f"{quoted(column)} TEXT COLLATE mysql" for column in self.columns)
            self.connection.execute(f"CREATE TABLE {quoted(self.name)} ({columns})")
            marks = ", ".join("?" * len(self.columns))
            self.connection.executemany(f"INSERT INTO {quoted(self.name)} VALUES ({marks})", item["rows"])
        self.connection.execute(f"PRAGMA max_page_count = {PAGES}")
        for limit, value in _LIMITS.items():
            self.connection.setlimit(limit, value)
        self.connection.set_authorizer(self._authorize)
        self.connection.set_progress_handler(self._progress, STEPS_AT_ONCE)

    def _authorize(self, code: int, first: str | None, second: str | None, *_: object) -> int:
        if code == sqlite3.SQLITE_FUNCTION:
            known = (second or "").lower() in _BUILT_IN or (second or "").startswith("my_")
        elif code in (sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE):
            known = not (first or "").lower().startswith("sqlite_")
        else:
            known = code in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION)
        return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY

    def _progress(self) -> int:
        self._steps += STEPS_AT_ONCE
        return int(self._steps > STEPS)

    def execute(self, statement: str) -> Result:
        """Run one statement."""
        statement = statement.encode("utf-8", "replace").decode()
        try:
            if len(statement) > STATEMENT_CHARS:
                raise SQLError("1153 (08S01): Got a packet bigger than 'max_allowed_packet' bytes")
            about = self._about(statement)
            if about is not None:
                return Result(str(about))
            return Result(self._run(Translator(self.name, self.columns).translate(statement)))
        except SQLError as error:
            return Result(str(error), failed=True)

    def _about(self, statement: str) -> list[tuple] | None:
        if found := _DESCRIBE.fullmatch(statement):
            name = found[1][1:-1].replace("``", "`") if found[1].startswith("`") else found[1]
            if name != self.name or not self.exists:
                raise SQLError(f"1146 (42S02): Table '{self.name}.{name}' doesn't exist")
            return [(column, "text", "YES", "", None, "") for column in self.columns]
        if found := _SHOW.fullmatch(statement):
            return {
                "TABLES": [(self.name,)] if self.exists else [],
                "DATABASES": [(self.name,), ("information_schema",)],
                "SCHEMAS": [(self.name,), ("information_schema",)],
            }.get(found[1].upper(), [])
        if (found := _QUOTED_NAMES.match(statement)) and "values" not in statement[: found.start(2)].lower():
            raise syntax_error(found[2])
        return [] if _NOTHING.fullmatch(statement) else None

    def _run(self, plan: Plan) -> str:
        self._steps = 0
        self.work.renew()
        try:
            cursor = self.connection.execute(plan.sql)
            if not plan.rows:
                return "[]"
            return self._rows(cursor, plan)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise self._refusal(error, plan) from error

    def _rows(self, cursor: sqlite3.Cursor, plan: Plan) -> str:
        types = _spread(plan, len(cursor.description))
        shown, chars = [], 0
        for row in cursor:
            shown.append(repr(tuple(_shown(value, kind) for value, kind in zip(row, types, strict=True))))
            chars += len(shown[-1]) + 2
            if chars > SHOWN_CHARS + 2:
                break
        cursor.close()
        return f"[{', '.join(shown)}]"

    def _refusal(self, error: Exception, plan: Plan) -> SQLError:
        text = str(error)
        if self.work.exhausted or "interrupted" in text:
            return SQLError(TOO_MUCH)
        if found := re.match(r"no such table: (.*)", text):
            return SQLError(f"1146 (42S02): Table '{self.name}.{found[1].removeprefix('main.')}' doesn't exist")
        if found := re.match(r"(?:no such column: (.*)|table .* has no column named (.*))", text, re.DOTALL):
            name = found[1] or found[2]
            return SQLError(f"1054 (42S22): Unknown column '{name}' in '{_clause(plan.tree, name)}'")
        if found := re.match(r"ambiguous column name: (.*)", text, re.DOTALL):
            return SQLError(f"1052 (23000): Column '{found[1]}' in {_clause(plan.tree, found[1])} is ambiguous")
        if found := re.match(r"misuse of (?:aggregate|window)", text):
            return SQLError("1111 (HY000): Invalid use of group function")
        if "database or disk is full" in text:
            return SQLError(f"1114 (HY000): The table '{self.name}' is full")
        if "string or blob too big" in text:
            return SQLError(
                "1301 (HY000): Result of function was larger than max_allowed_packet (16777216) - truncated"
            )
        return SQLError(f"1064 (42000): You have an error in your SQL syntax ({text})")

    def hash(self) -> str:
        """See `scoring.table_hash`."""
        if not self.exists:
            return f"1146 (42S02): Table '{self.name}.{self.name}' doesn't exist"
        self._steps = 0
        columns = ", ".join(quoted(column) for column in self.columns)
        return table_hash(self.connection.execute(f"SELECT {columns} FROM {quoted(self.name)}"))

    def close(self) -> None:
        """Drop it with its connection."""
        self.connection.close()


def _possible(columns: list[str]) -> bool:
    # What MySQL refuses for a column's name: the original then plays without a table.
    good = all(column and column[-1] != " " and len(column) <= 64 for column in columns)
    return good and len({column.lower() for column in columns}) == len(columns)


def _spread(plan: Plan, width: int) -> list[Type]:
    if plan.star is None:
        return list(plan.types) if len(plan.types) == width else [None] * width
    if plan.star < 0:
        return [None] * width
    return [*plan.types[: plan.star], *[None] * (width - len(plan.types) + 1), *plan.types[plan.star + 1 :]]


def _shown(value: Any, kind: Type) -> Any:
    if value is None:
        return None
    if kind == "text":
        return functions.text_of(value)
    if kind == "double":
        return float(value)
    if isinstance(kind, int) and isinstance(value, int | float):
        return _decimal(value, kind)
    return value


def _decimal(value: float, scale: int) -> Decimal | None:
    # MySQL's DECIMAL has 65 digits; what does not fit is the largest that does
    if value != value:
        return None
    step = Decimal(1).scaleb(-scale)
    most = _WIDE.subtract(Decimal(1).scaleb(DIGITS - scale), step)
    exact = min(max(Decimal(repr(value)), most.copy_negate()), most)
    return exact.quantize(step, ROUND_HALF_UP, context=_WIDE)


def _clause(tree: exp.Expression, name: str) -> str:
    bare = name.rpartition(".")[2].lower()
    names = {
        exp.Where: "where clause",
        exp.Order: "order clause",
        exp.Group: "group statement",
        exp.Having: "having clause",
    }
    for column in tree.find_all(exp.Column):
        if column.name.lower() == bare:
            place = column.find_ancestor(exp.Where, exp.Order, exp.Group, exp.Having, exp.Join, exp.Select)
            return "on clause" if isinstance(place, exp.Join) else names.get(type(place), "field list")
    return "field list"
