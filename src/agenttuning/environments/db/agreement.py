"""How often the embedded backend answers as a real server does, by kind of statement.

    python -m agenttuning.environments.db.agreement [--items dev.jsonl] [--instruct db.jsonl ...] [--dsn mysql://...]

The statements are drawn over the items' tables (without --items: practice tables), and taken from the SQL of
AgentInstruct's db rows, each on a table made from its own columns and literals. A statement agrees when the model would
be shown the same text (of errors: the same error number) and the table is left in the same state.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments.db import load, practice, serve
from agenttuning.environments.db.episode import Environment, quoted
from agenttuning.errors import UserError
from agenttuning.protocols.db import read

CHANGES = ("insert", "update", "delete")
INSTRUCT_ROWS = 12


def text(value: str) -> str:
    """A value as MySQL's string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def drawn(item: dict, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, statement) over an item's table: lookups, conditions, aggregates, order, functions, changes, errors."""
    table = quoted(item["table"])
    names = [name for name in item["columns"] if name]

    def column() -> str:
        return quoted(rng.choice(names))

    def value(name: str) -> str:
        return rng.choice(item["rows"])[item["columns"].index(name[1:-1].replace("``", "`"))]

    def literal(name: str) -> str:
        found = value(name)
        return found if re.fullmatch(r"\d{1,15}(\.\d{1,4})?", found) and rng.random() < 0.5 else text(found)

    a, b, c = column(), column(), column()
    word = (value(a).split() or ["x"])[0].replace("%", "").replace("_", "")[:12].replace("\\", "")
    some = rng.choice(("=", "<>", ">", "<", ">=", "<="))
    number = rng.choice((0, 1, 3, 10, 100, 1990, 2.5))
    yield "lookup", f"SELECT {b} FROM {table} WHERE {a} = {text(value(a))}"
    yield "lookup", f"SELECT {b}, {c} FROM {table} WHERE {a} = {text(value(a).upper())} AND {b} <> {text(value(b))}"
    yield "all", f"SELECT * FROM {table} LIMIT {rng.randint(1, 5)}"
    yield "distinct", f"SELECT DISTINCT {a} FROM {table}"
    yield "compare", f"SELECT {a} FROM {table} WHERE {b} {some} {number}"
    yield "compare", f"SELECT {a} FROM {table} WHERE {b} {some} {literal(b)}"
    yield "compare", f"SELECT COUNT(*) FROM {table} WHERE {b} BETWEEN {literal(b)} AND {literal(b)}"
    yield "compare", f"SELECT {a} FROM {table} WHERE {b} IN ({literal(b)}, {literal(b)}) OR {c} IS NULL"
    yield "like", f"SELECT {b} FROM {table} WHERE {a} LIKE {text('%' + word.lower() + '%')}"
    yield "like", f"SELECT COUNT(*) FROM {table} WHERE {a} NOT LIKE {text(word[:1] + '_%')}"
    yield "count", f"SELECT COUNT(*), COUNT(DISTINCT {a}) FROM {table} WHERE {b} = {literal(b)}"
    yield "aggregate", f"SELECT SUM({a}), AVG({a}) FROM {table}"
    yield "aggregate", f"SELECT MIN({a}), MAX({b}) FROM {table}"
    yield (
        "aggregate",
        f"SELECT MAX(CAST({a} AS SIGNED)), AVG(CAST({a} AS SIGNED)), SUM(CAST({b} AS UNSIGNED)) FROM {table}",
    )
    yield "aggregate", f"SELECT ROUND(AVG({a}), 2), SUM(CASE WHEN {b} > {number} THEN 1 ELSE 0 END) FROM {table}"
    yield "order", f"SELECT {a}, {b} FROM {table} ORDER BY {a} {rng.choice(('ASC', 'DESC'))}, {b} LIMIT 5"
    yield "order", f"SELECT {a} FROM {table} ORDER BY CAST({b} AS DECIMAL(10,2)) DESC, {a} LIMIT 3"
    yield "order", f"SELECT {a} FROM {table} ORDER BY {b} + 0 DESC, {a} LIMIT {rng.randint(0, 3)}, 2"
    yield "group", f"SELECT {a}, COUNT(*) AS n FROM {table} GROUP BY {a} ORDER BY n DESC, {a} LIMIT 4"
    yield "group", f"SELECT {a}, SUM({b}) FROM {table} GROUP BY {a} HAVING COUNT(*) > 1 ORDER BY {a}"
    yield "nested", f"SELECT {a} FROM {table} WHERE {b} = (SELECT MAX({b}) FROM {table})"
    yield "nested", f"SELECT COUNT(*) FROM (SELECT {a}, COUNT(*) AS n FROM {table} GROUP BY {a}) AS x WHERE n > 1"
    yield (
        "nested",
        f"SELECT x.{a} FROM {table} x JOIN {table} y ON x.{b} = y.{b} WHERE y.{a} = {text(value(a))} ORDER BY 1",
    )
    yield "function", f"SELECT UPPER({a}), LENGTH({b}), CHAR_LENGTH({b}) FROM {table} LIMIT 3"
    yield "function", f"SELECT SUBSTRING_INDEX({a}, ' ', 1), CONCAT({b}, '-', {c}), LEFT({a}, 3) FROM {table} LIMIT 3"
    yield "function", f"SELECT REPLACE({a}, ',', ''), CAST(REPLACE({a}, ',', '') AS UNSIGNED) FROM {table} LIMIT 3"
    yield (
        "function",
        f"SELECT IF({a} > {number}, {b}, 'no'), IFNULL({b}, 0), TRIM({a}), REVERSE({c}) FROM {table} LIMIT 2",
    )
    yield "function", f"SELECT LOCATE('a', {a}), SUBSTRING({a}, 2, 4), MD5({b}), YEAR({c}) FROM {table} LIMIT 3"
    yield "arithmetic", f"SELECT {a} + 1, {a} * 2, {b} / 4, {a} - {b} FROM {table} LIMIT 3"
    x, y, z = rng.randint(1, 99), rng.randint(2, 9), rng.randint(1, 9999) / 100
    yield (
        "arithmetic",
        f"SELECT {x} / {y}, {x} DIV {y}, {x} % {y}, {z} * {y}, ROUND({z}), ROUND({z}, 1), {x} + '{y}a', {x} > {y}",
    )
    yield "group_concat", f"SELECT GROUP_CONCAT({a} SEPARATOR ';') FROM {table} WHERE {b} = {text(value(b))}"
    yield "describe", f"DESCRIBE {table}"
    yield "describe", rng.choice((f"SHOW COLUMNS FROM {table}", "SHOW TABLES"))
    yield "error", f"SELECT `No such`, {a} FROM {table}"
    yield "error", f"SELECT {a} FROM `{rng.choice(('Nowhere', 'table', 'my table'))}`"
    yield "error", f"SELECT {a} FRM {table} WHERE"
    yield "error", f"SELECT {a} FROM {table} WHERE {b} = 1; SELECT 1"
    row = ", ".join(text(value(quoted(name))) for name in item["columns"])
    yield "insert", f"INSERT INTO {table} VALUES ({row})"
    yield "insert", f"INSERT INTO {table} ({a}) VALUES ({number}), ({text(value(a))}), (NULL)"
    yield "update", f"UPDATE {table} SET {a} = {literal(a)} WHERE {b} = {literal(b)}"
    yield "update", f"UPDATE {table} SET {a} = {a} + {rng.randint(1, 9)} WHERE {b} LIKE '%1%'"
    yield "update", f"UPDATE {table} SET {a} = {text(value(b))}, {c} = 2.50 WHERE {b} > {number}"
    yield "delete", f"DELETE FROM {table} WHERE {a} {some} {literal(a)}"
    yield "delete", f"DELETE FROM {table} WHERE {b} LIKE {text(word + '%')} ORDER BY {a} LIMIT 1"


def instructed(paths: Iterable[str | Path]) -> Iterator[tuple[dict, list[tuple[str, str]]]]:
    """(item, statements) from AgentInstruct's db rows: the statements over one table, which is made up to fit them."""
    for path in paths:
        try:
            rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
            turns = [
                (row["id"], turn["value"]) for row in rows for turn in row["conversations"] if turn["from"] == "gpt"
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is not AgentInstruct's db split as JSON lines ({error!r}); nothing compared"
            ) from error
        for name, value in turns:
            action = read(value, 20_000).action or ""
            if action.startswith("sql: ") and (made := _fitting(name, action[5:])):
                yield made, [("instruct", action[5:])]


def _fitting(name: str, statement: str) -> dict | None:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(statement, read="mysql")
    except SqlglotError:
        return None
    tables = {table.name for table in tree.find_all(exp.Table)}
    aliases = {alias.alias.lower() for alias in tree.find_all(exp.Alias)}
    found = [column.name for column in tree.find_all(exp.Column) if not column.find_ancestor(exp.Values)]
    if isinstance(tree, exp.Insert) and isinstance(tree.this, exp.Schema):
        found += [part.name for part in tree.this.expressions]
    columns = list({x.lower(): x for x in found if x and x.lower() not in aliases}.values())
    if len(tables) != 1 or not columns:
        return None
    rng = random.Random(f"{name}/{statement}")
    pool = [literal.name for literal in tree.find_all(exp.Literal)] + ["7", "12.5", "Blue", "", "2015-03-04", "40"]
    rows = [[rng.choice(pool) for _ in columns] for _ in range(INSTRUCT_ROWS)]
    return {"id": name, "kind": "SELECT", "type": "other", "description": "", "add_description": "", "gold": None,
            "table": tables.pop(), "columns": columns, "rows": rows, "label": []}  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """One statement that the two answer differently."""

    kind: str
    statement: str
    real: str
    embedded: str


def compare(
    work: Iterable[tuple[dict, list[tuple[str, str]]]],
    real: Callable[[dict], Environment],
    embedded: Callable[[dict], Environment],
) -> tuple[Counter, Counter, list[Disagreement]]:
    """Numbers of statements and of agreements by kind, and the disagreements. Tables are made anew after a change."""
    asked, agreed, differ = Counter(), Counter(), []
    for item, statements in work:
        pair = [make(item) for make in (real, embedded)]
        try:
            for env in pair:
                env.reset()
            for kind, statement in statements:
                seen = [env.step(f"sql: {statement}").observation for env in pair]
                for env in pair:
                    env.rounds = 0
                first = statement.split(None, 1)[0].lower()
                if first in CHANGES:
                    seen = [f"{shown} {env.table.hash()}" for shown, env in zip(seen, pair, strict=True)]
                asked[kind] += 1
                if _number(seen[0]) == _number(seen[1]):
                    agreed[kind] += 1
                else:
                    differ.append(Disagreement(kind, statement, *seen))
                if first not in ("select", "show", "describe"):
                    for env in pair:
                        env.reset()
        finally:
            for env in pair:
                env.close()
    return asked, agreed, differ


def _number(shown: str) -> str:
    # Of an error its number; of rows the whole text.
    found = re.match(r"\d{4} \(\w{5}\): ", shown)
    return found[0][:4] if found else shown


def main(arguments: list[str] | None = None) -> int:
    """Print the agreement by kind of statement; with --show, the first disagreements too."""
    parser = argparse.ArgumentParser(
        prog="python -m agenttuning.environments.db.agreement", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--items", help="dbbench's file; without it practice tables")
    parser.add_argument("--instruct", nargs="*", default=[], help="AgentInstruct's db rows as JSON lines")
    parser.add_argument("--dsn", help="a server of yours instead of a private MariaDB")
    parser.add_argument("--rounds", type=int, default=1, help="draws over each table")
    parser.add_argument("--show", type=int, default=0, help="print so many disagreements")
    options = parser.parse_args(arguments)
    items = load(options.items) if options.items else practice.items("train", 20, 0)
    items = [item for item in items if all(item["columns"]) and item["rows"]]
    work = [
        (item, [pair for i in range(options.rounds) for pair in drawn(item, random.Random(f"{item['id']}/{i}"))])
        for item in items
    ]
    with serve("mysql", dsn=options.dsn) as real, serve("sqlite") as embedded:
        asked, agreed, differ = compare([*work, *instructed(options.instruct)], real.make, embedded.make)
    for kind in asked:
        print(f"{kind:<13}{agreed[kind]:>6} of {asked[kind]:>6}  {100 * agreed[kind] / asked[kind]:6.1f} %")
    total, same = sum(asked.values()), sum(agreed.values())
    print(f"{'all':<13}{same:>6} of {total:>6}  {100 * same / total:6.1f} %")
    for case in differ[: options.show]:
        print(f"\n[{case.kind}] {case.statement}\n  real:     {case.real[:300]}\n  embedded: {case.embedded[:300]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
