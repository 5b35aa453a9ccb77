"""MySQL's SQL as SQLite's: sqlglot parses it, then comparisons, arithmetic and functions become calls of `functions`.

MySQL's types are followed as far as they show: a sum of whole numbers is a Decimal, of a TEXT column a double, and a
number that is stored in a TEXT column is the text that MySQL would write. A type is "text", "int", "double", "null",
a number for a decimal with so many digits after the point, or None where it is not known.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

from agenttuning.environments.db.expressions import HANDLERS, WINDOWS, RowIn, Set, Stored, Type, Typed, my
from agenttuning.environments.db.messages import SQLError, syntax_error

PARSER_STEPS = (
    60_000  # a statement of 20,000 characters takes 20,000; 20 joins without ON, at which it guesses, millions
)
DEPTH = 60  # brackets; the parser's work grows with them
# The parser lets some nonsense pass as a tree with parts of the wrong kind, on which anything may fail.
_HALF_PARSED = (SqlglotError, ValueError, AttributeError, TypeError, KeyError, IndexError)

# It warns of statements that it does not know; those are answered to the model, who wrote them.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


class _Backticks(SQLite):
    # SQLite takes "name" for a text where there is no such column; between backticks it is a name, always.
    class Tokenizer(SQLite.Tokenizer):
        IDENTIFIERS = ["`"]


@dataclass(frozen=True)
class Plan:
    """A statement for SQLite: its text, whether it gives rows, the type of each output column (None: stars between)."""

    sql: str
    rows: bool
    types: tuple[Type, ...]
    star: int | None
    tree: exp.Expression


class _Endless(Exception):
    """The parser goes back and forth: its time doubles with each further word."""


class _Bounded(MySQL.Parser):
    _steps = 0

    def _advance(self, times: int = 1) -> None:
        self._steps += 1
        if self._steps > PARSER_STEPS:
            raise _Endless
        super()._advance(times)


_MYSQL = MySQL()


def parse(statement: str) -> exp.Expression:
    """The one statement of a text. Raises SQLError."""
    depth = deepest = 0
    for character in statement:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise SQLError("1436 (HY000): Thread stack overrun")
    try:
        tokens = _MYSQL.tokenize(statement)
        found = [tree for tree in _Bounded(dialect=_MYSQL).parse(tokens, statement) if tree is not None]
    except _Endless as error:
        text = "3024 (HY000): Query execution was interrupted, maximum statement execution time exceeded"
        raise SQLError(text) from error
    except SqlglotError as error:
        details = getattr(error, "errors", None)
        near = (details[0].get("highlight") or "") + (details[0].get("end_context") or "") if details else statement
        raise syntax_error(near) from error
    except (RecursionError, *_HALF_PARSED) as error:
        raise syntax_error(statement) from error
    if not found:
        raise SQLError("1065 (42000): Query was empty")
    if len(found) > 1 or isinstance(found[0], exp.Semicolon):
        raise syntax_error(statement.partition(";")[2].strip())
    return found[0]


class Translator:
    """Translates statements over one table whose columns are all TEXT."""

    def __init__(self, table: str, columns: list[str]) -> None:
        self.table, self.columns = table, {column.lower() for column in columns}
        self.named: dict[str, Type] = {}  # types of aliases

    def translate(self, statement: str) -> Plan:
        """Raises SQLError for what MySQL or this layer cannot run."""
        tree = parse(statement)
        try:
            return self._translate(tree)
        except RecursionError as error:
            raise SQLError("1436 (HY000): Thread stack overrun") from error
        except _HALF_PARSED as error:
            raise syntax_error(statement) from error

    def _translate(self, tree: exp.Expression) -> Plan:
        self.named = {}
        self._tables(tree)
        if isinstance(tree, exp.Insert):
            self._insert(tree)
        elif isinstance(tree, exp.Update | exp.Delete):
            self._change(tree)
        elif isinstance(tree, exp.Query):
            self._aliases(tree)
        else:
            what = tree.key.upper() if not isinstance(tree, exp.Command) else str(tree.this).upper()
            raise SQLError(f"1142 (42000): {what} command denied to user 'agent'@'localhost' for table '{self.table}'")
        types, star = self._output(tree) if isinstance(tree, exp.Query) else ((), None)
        done, _ = self.visit(tree)
        text = done.sql(_Backticks, identify=True, comments=False)
        return Plan(text, isinstance(tree, exp.Query), types, star, tree)

    def _tables(self, tree: exp.Expression) -> None:
        for table in tree.find_all(exp.Table):
            if table.name.lower() == "dual" and isinstance(table.parent, exp.From):
                table.parent.pop()
            elif table.args.get("db"):
                if table.db != self.table:
                    raise SQLError(f"1044 (42000): Access denied for user 'agent'@'localhost' to database '{table.db}'")
                table.set("db", None)
        for column in tree.find_all(exp.Column):
            column.set("db", None)

    def _aliases(self, tree: exp.Expression) -> None:
        # By name, in the whole statement: innermost queries are seen last and so come first in this order.
        for select in reversed(list(tree.find_all(exp.Select))):
            for shown in select.expressions:
                if isinstance(shown, exp.Alias):
                    self.named[shown.alias.lower()] = self.type_of(shown.this)

    def _output(self, tree: exp.Expression) -> tuple[tuple[Type, ...], int | None]:
        select = tree
        while not isinstance(select, exp.Select):
            select = select.this
            if not isinstance(select, exp.Query):
                return (), None
        stars = [place for place, shown in enumerate(select.expressions) if shown.is_star]
        return tuple(self.type_of(shown) for shown in select.expressions), (
            stars[0] if len(stars) == 1 else -1 if stars else None
        )

    def type_of(self, node: exp.Expression) -> Type:
        """The MySQL type of an expression."""
        return self.visit(node.copy())[1]

    # --- statements that change the table

    def _insert(self, tree: exp.Insert) -> None:
        for key in ("ignore", "conflict", "alternative", "hint"):
            tree.set(key, None)
        source = tree.expression
        if isinstance(source, exp.Values):
            width = len(tree.this.expressions) if isinstance(tree.this, exp.Schema) else len(self.columns)
            for number, row in enumerate(source.expressions, 1):
                values = [
                    exp.Null() if v.name == "DEFAULT" and isinstance(v, exp.Column) else v for v in row.expressions
                ]
                if len(values) != width:
                    raise SQLError(f"1136 (21S01): Column count doesn't match value count at row {number}")
                row.set("expressions", [self._stored(value) for value in values])
        elif isinstance(source, exp.Select) and not any(shown.is_star for shown in source.expressions):
            self._aliases(source)
            source.set("expressions", [self._stored(shown.unalias()) for shown in source.expressions])

    def _change(self, tree: exp.Update | exp.Delete) -> None:
        if tree.args.get("using") or tree.this is None or tree.this.args.get("joins"):
            raise SQLError("1235 (42000): This version of MySQL doesn't yet support 'multi-table changes'")
        tree.set("tables", None)
        for change in tree.expressions if isinstance(tree, exp.Update) else ():
            if not isinstance(change, exp.EQ) or not isinstance(change.this, exp.Column):
                raise syntax_error(change.sql("mysql"))
            change.replace(Set(this=change.this.this, expression=self._stored(change.expression)))
        if tree.args.get("limit"):  # SQLite has no LIMIT here
            rows = exp.select("rowid").from_(tree.this.copy())
            for key in ("where", "order", "limit"):
                if part := tree.args.get(key):
                    rows.set(key, part.copy())
            tree.set("where", exp.Where(this=RowIn(this=exp.column("rowid"), query=exp.Subquery(this=rows))))
            tree.set("limit", None)
        tree.set("order", None)

    def _stored(self, node: exp.Expression) -> exp.Expression:
        # All columns are TEXT: what is stored is the text of the value.
        return node if isinstance(node, exp.Null) else Stored(this=node)

    # --- expressions

    def visit(self, node: exp.Expression) -> Typed:
        """The expression for SQLite, and its MySQL type."""
        for kind in type(node).__mro__:
            if handler := HANDLERS.get(kind):
                return handler(self, node)
        if isinstance(node, exp.Func) and not isinstance(node, (exp.And, exp.Or, *WINDOWS)):
            raise SQLError(f"1305 (42000): FUNCTION {self.table}.{node.sql_name()} does not exist")
        return self.inside(node), None

    def inside(self, node: exp.Expression) -> exp.Expression:
        """The node with all its parts translated."""
        for key, value in list(node.args.items()):
            if isinstance(value, exp.Expression):
                node.set(key, self.visit(value)[0])
            elif isinstance(value, list):
                node.set(key, [self.visit(x)[0] if isinstance(x, exp.Expression) else x for x in value])
        return node

    def number(self, node: exp.Expression) -> Typed:
        """An operand of arithmetic or of a condition."""
        made, kind = self.visit(node)
        return (made, kind) if kind in ("int", "double") or isinstance(kind, int) else (my("num", made), "double")
