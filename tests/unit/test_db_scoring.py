"""When a DB episode is won. The hash was made by MariaDB with the original's query."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.db.scoring import answer_values, answers_match, category, table_hash


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        (' ["March 19, 1998"]', ["March 19, 1998"], True),
        (' ["b", "a", "a"]', ["a", "b"], True),  # sets
        (' ["a"]', ["a", "b"], False),
        (' ["26.0"]', ["26"], True),  # one against one: as numbers
        (" [26]", ["26.0"], True),
        (" 26", ["26"], True),
        (' ["2", "3"]', ["2.0", "3.0"], False),  # several: as they are
        (" March", ["March"], False),  # not a list: the blank stays, as in the original
        ("March", ["March"], True),
        ("", ["none"], False),
        (' ["none"]', ["none"], True),
        (" [['a'], ['b']]", ["a", "b"], False),  # not hashable
        (' "ab"', ["a", "b"], True),  # the characters of a text: the original's list(eval(...))
        (' ["nan"]', ["nan"], False),
        (" [1e400]", ["1e999"], True),
        (" [True]", ["1"], True),
        (" __import__('os').getcwd()", ["x"], False),
        (" [" + "9" * 400 + "]", ["9"], False),
    ],
)
def test_answers(answer: str, label: list[str], right: bool) -> None:
    assert answers_match(answer, label) is right


def test_no_code_runs(tmp_path) -> None:
    mark = tmp_path / "ran"
    for text in (
        f"open({str(mark)!r}, 'w')",
        f"[open({str(mark)!r}, 'w')]",
        f"[x for x in [open({str(mark)!r}, 'w')]]",
    ):
        assert answer_values(text) == [text]
    assert not mark.exists()


@given(st.text())
def test_any_text_has_values(text: str) -> None:
    assert isinstance(answer_values(text), list)


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000, "[" * 10_000 + "]" * 10_000, "-" * 20_000 + "1", "- " * 9_000 + "1", "not " * 5_000 + "1",
     "1" + "+1" * 9_000, "lambda: " * 2_000 + "1", "a" + ".a" * 9_000, "{" * 5_000, "9" * 20_000, "1" + "**9" * 6_000,
     "[1,] * 9999999999", "x" * 10**6,
     "await " * 3_000 + "x", "~+-" * 6_000 + "1", "\\" * 20_000, "f'{" * 200, "a if b else " * 1_500 + "c"],
)  # fmt: skip
def test_hostile_answers_cost_little(text: str) -> None:
    start = time.process_time()
    assert answer_values(text) == [text]
    assert time.process_time() - start < 1.0


def test_the_hash_is_the_originals() -> None:
    rows = [["a", "1"], ["b", None], ["", "é"]]
    assert table_hash(rows) == table_hash(rows[::-1])
    assert table_hash(rows) == "[('65f32bc3dd0089c48fc4c602f861aae0',)]"  # MariaDB 10.11
    assert table_hash([]) == "[(None,)]"


def test_the_hash_stops_where_group_concat_does() -> None:
    # 171 hashes with their commas are 1025 characters: what lies beyond is lost in MySQL too.
    rows = [[str(i)] for i in range(400)]
    assert (
        table_hash(rows) == "[('450387c9026423aff252d3b13dc5c4f4',)]"
    )  # MariaDB 10.11 with MySQL's group_concat_max_len


def test_categories_are_the_originals_three() -> None:
    assert [category(kind) for kind in ("INSERT", "UPDATE", "DELETE", "SELECT", "counting")] == [
        "INSERT", "UPDATE", "SELECT", "SELECT", "SELECT",
    ]  # fmt: skip
