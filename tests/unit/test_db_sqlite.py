"""The embedded DB backend: answers as MySQL does, is boxed, and its items can be won but not by chance.

What is expected of a statement is what MariaDB 10.11 gave back; test_db_mysql.py asks it again where it is installed.
"""

from __future__ import annotations

import sqlite3
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import db
from agenttuning.environments.db.sqlite import TOO_MUCH
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols import FOLDER
from agenttuning.protocols import db as texts
from agenttuning.protocols.messages import own
from helpers.db_items import DEV, item, step
from helpers.db_statements import HOSTILE, SAME, SLOW, WRONG

N = 60
WORDS = [
    "SELECT", "*", "FROM", "`Players`", "WHERE", "Name", "=", "'a'", "1", "(", ")", ",", "AND", "NOT", "IN", "LIKE",
    "COUNT", "GROUP BY", "ORDER BY", "LIMIT", "UPDATE", "SET", "DELETE", "INSERT INTO", "VALUES", "JOIN", "ON", "UNION",
    "CASE", "WHEN", "THEN", "END", "AS", "x", "BETWEEN", "IS NULL", "-", "/", "%", "CAST", "DISTINCT", ";", "@", "`",
    "'", '"', "--", "/*", "\0", "\ud800", "HAVING", "EXISTS", "SUM", "ROUND", "IF", "0x1", "1e9", "WITH", "RECURSIVE",
]  # fmt: skip


@pytest.fixture
def environment():
    with db.serve("sqlite") as room:
        made = room.make(item())
        made.reset()
        yield made
        made.close()


@pytest.mark.parametrize(("statement", "shown"), SAME)
def test_it_shows_what_mysql_shows(environment, statement: str, shown: str) -> None:
    assert step(environment, statement) == shown


@pytest.mark.parametrize(("statement", "code"), WRONG)
def test_errors_have_mysqls_numbers_and_change_nothing(environment, statement: str, code: str) -> None:
    before = environment.table.hash()
    result = environment.step(f"sql: {statement}")
    assert result.observation.startswith(code) and not result.valid
    assert environment.table.hash() == before


@pytest.mark.parametrize("name", [*HOSTILE, *SLOW])
def test_hostile_statements_are_refused_or_bounded(environment, name: str) -> None:
    start = time.process_time()
    shown = step(environment, {**HOSTILE, **SLOW}[name])
    assert time.process_time() - start < 6.0
    assert len(shown) <= 811 and "root:" not in shown
    assert environment.table.hash().startswith("[('")
    assert step(environment, "SELECT 1 + 1") == "[(2,)]"


def test_sqlites_own_insides_are_out_of_reach_even_past_the_translation(environment) -> None:
    connection = environment.table.connection
    for statement in (
        "SELECT * FROM sqlite_master",
        "SELECT randomblob(9)",
        "PRAGMA table_info(Players)",
        "ATTACH DATABASE ':memory:' AS x",
        "CREATE TABLE x (a)",
        "DROP TABLE Players",
        "WITH RECURSIVE c AS (SELECT 1 x UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c",
    ):
        with pytest.raises(sqlite3.DatabaseError, match="not authorized|prohibited"):
            connection.execute(statement)


def test_the_work_of_functions_is_bounded_for_each_statement(environment) -> None:
    tables = ", ".join(f"Players {name}" for name in "abcde")
    long = f"SELECT COUNT(*) FROM {tables} WHERE CONCAT(a.Name, REPEAT(e.Name, 4000)) LIKE '%x'"
    assert step(environment, long) == TOO_MUCH
    assert step(environment, "SELECT LENGTH(REPEAT('ab', 9000))") == "[(18000,)]"


def test_a_table_cannot_grow_without_end(environment) -> None:
    for _ in range(14):
        environment.step("sql: INSERT INTO Players SELECT * FROM Players")
    assert step(environment, "INSERT INTO Players SELECT a.* FROM Players a, Players b").startswith(("3024", "1114"))
    assert environment.table.connection.execute("SELECT COUNT(*) FROM Players").fetchone()[0] < 200_000


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            WORDS
        ),
        max_size=14,
    ).map(" ".join)
    | st.text(max_size=60)
)  # fmt: skip
def test_any_statement_has_a_result(statement: str) -> None:
    with db.serve("sqlite") as room:
        made = room.make(item())
        made.reset()
        assert isinstance(made.step(f"sql: {statement}").observation, str)
        made.close()


def test_a_result_is_cut_as_the_original_cuts(environment) -> None:
    assert step(environment, "SELECT REPEAT('a', 795)") == f"[('{'a' * 795}',)]"[:800] + "[TRUNCATED]"
    assert step(environment, "SELECT REPEAT('a', 793)") == f"[('{'a' * 793}',)]"
    shown = step(environment, "SELECT a.Name, b.Name FROM Players a, Players b, Players c, Players d")
    assert len(shown) == 811 and shown.endswith("[TRUNCATED]")


def test_a_table_that_mysql_cannot_make_is_not_there() -> None:
    with db.serve("sqlite") as room:
        made = room.make(item(columns=["a", "", "c", "d"]))
        made.reset()
        assert step(made, "SELECT * FROM Players") == "1146 (42S02): Table 'Players.Players' doesn't exist"
        assert made.score() == 0.0
        made.close()


def played(policy, items) -> list[dict]:
    protocol = protocols.load(FOLDER / "practice.yaml")
    with db.serve("sqlite") as room:
        assert not room.backend.comparable
        return play(room, items, policy, protocol, own(texts), model="m", seed=3, wait_s=0, progress=False)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_wins_every_practice_item(split: str) -> None:
    records = played(expert, db.items(split, N, 3))
    assert [record["reward"] for record in records] == [1.0] * N
    assert all(step["valid"] for record in records for step in record["steps"])
    assert max(record["turns"] for record in records) <= 3
    assert {record["metrics"]["category"] for record in records} == {"SELECT", "INSERT", "UPDATE"}


def test_neither_chance_nor_silence_wins() -> None:
    records = played(random_policy(0), db.items("test", N, 3))
    assert sum(record["reward"] for record in records) / N < 0.1
    assert sum(record["reward"] for record in played(lambda turns: [""] * len(turns), db.items("test", N, 3))) == 0


def test_an_order_counts_however_the_episode_ended_and_a_question_does_not() -> None:
    items = db.items("train", N, 3)
    silent_after_gold = {x["id"]: x["gold"] for x in items}

    def policy(turns):
        return [
            turn.write("", f"sql: {silent_after_gold[turn.item]}") if turn.number == 0 else "no more" for turn in turns
        ]

    for record, played_item in zip(played(policy, items), items, strict=True):
        assert record["status"] == "invalid_format"
        assert record["reward"] == float(played_item["kind"] != "SELECT")


def test_fifteen_statements_are_run_and_one_answer_more_is_taken(environment) -> None:
    for _ in range(15):
        assert environment.step("sql: SELECT 1").observation == "[(1,)]"
    before = environment.table.hash()
    last = environment.step("sql: DELETE FROM Players")
    assert last.done and environment.table.hash() == before
    question = item()
    records = played(lambda turns: [
        t.write("", "sql: SELECT 1" if t.number < 15 else 'answer: ["bob"]') for t in turns
    ], [question])  # fmt: skip
    assert (records[0]["turns"], records[0]["reward"], records[0]["status"]) == (16, 1.0, "completed")


@pytest.mark.skipif(not DEV.exists(), reason="AgentBench's dev items are not here")
def test_the_published_hashes_of_the_dev_items() -> None:
    items = db.load(DEV)
    records = played(expert, items)
    changed = [record["reward"] for record, x in zip(records, items, strict=True) if x["kind"] != "SELECT"]
    assert len(changed) == 40 and sum(changed) >= 38
    assert all(record["reward"] == 1.0 for record, x in zip(records, items, strict=True) if x["kind"] == "SELECT")
