"""dbbench's files are read strictly; practice items are winnable, distinct, and never the benchmark's."""

from __future__ import annotations

import json

import pytest

from agenttuning.environments import db
from agenttuning.environments.db.scoring import answers_match
from agenttuning.errors import UserError
from helpers.db_items import DEV, raw

HASH = "[('65f32bc3dd0089c48fc4c602f861aae0',)]"


def written(tmp_path, *rows, name="dev.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path) -> None:
    order = raw("INSERT", label=["INSERT INTO `Players`\n VALUES (1)"], answer_md5=HASH)
    question, change = db.load(written(tmp_path, raw("counting", label=["3"]), order))
    assert (question["id"], question["kind"], question["type"], question["gold"]) == (
        "dbbench-dev_0",
        "SELECT",
        "counting",
        None,
    )
    assert question["label"] == ["3"] and question["columns"] == ["Name", "Town", "Points", "Since"]
    assert (change["id"], change["kind"], change["answer_md5"]) == ("dbbench-dev_1", "INSERT", HASH)
    assert change["gold"] == "INSERT INTO `Players`  VALUES (1)"


def test_numbers_in_rows_become_text(tmp_path) -> None:
    row = raw()
    row["table"]["table_info"]["rows"] = [["a", 1, 2.5, "x"]]
    assert db.load(written(tmp_path, row))[0]["rows"] == [["a", "1", "2.5", "x"]]


def test_a_folder_means_its_standard_file(tmp_path) -> None:
    (tmp_path / "data" / "dbbench").mkdir(parents=True)
    written(tmp_path / "data" / "dbbench", raw())
    assert db.load(tmp_path)[0]["id"] == "dbbench-dev_0"
    written(tmp_path / "data" / "dbbench", raw(), name="standard.jsonl")
    assert db.load(tmp_path)[0]["id"] == "dbbench-standard_0"
    assert db.load(tmp_path / "data")[0]["id"] == "dbbench-standard_0"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        db.load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": []}, "'type'"),
        ({"type": "INSERT"}, "'type'"),
        ({"description": None}, "'description'"),
        ({"label": "bob"}, "'label'"),
        ({"table": {}}, "'table_info'"),
        ({"table": {"table_name": "", "table_info": {"columns": [{"name": "a"}], "rows": []}}}, "not a name"),
        ({"table": {"table_name": "x" * 65, "table_info": {"columns": [{"name": "a"}], "rows": []}}}, "not a name"),
        (
            {"table": {"table_name": "t", "table_info": {"columns": [{"name": "a"}], "rows": [["1", "2"]]}}},
            "as many values",
        ),
        ({"table": {"table_name": "t", "table_info": {"columns": [{"name": "a"}], "rows": [[None]]}}}, "None"),
        ({"table": {"table_name": "t", "table_info": {"columns": [], "rows": []}}}, "'columns'"),
        ({"type": ["UPDATE"]}, "'answer_md5'"),
        ({"type": ["UPDATE"], "answer_md5": "65f32bc3dd0089c48fc4c602f861aae0"}, "answer_md5"),
    ],
)
def test_another_shape_is_refused_by_row_and_key(tmp_path, change, said) -> None:
    with pytest.raises(UserError, match="row 1") as caught:
        db.load(written(tmp_path, raw(), raw(**change)))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "3", "\xff"])
def test_a_file_of_something_else_is_refused(tmp_path, text) -> None:
    (tmp_path / "dev.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="dev.jsonl"):
        db.load(tmp_path / "dev.jsonl")
    with pytest.raises(UserError, match="nothere"):
        db.load(tmp_path / "nothere.jsonl")


def test_practice_items_are_distinct_and_apart() -> None:
    train, test = db.items("train", 600, 0), db.items("test", 200, 0)
    assert train == db.items("train", 600, 0) != db.items("train", 600, 1)
    for part in ("table", "names"):
        seen = [
            {item["table"]} if part == "table" else {row[0] for row in item["rows"]}
            for split in (train, test)
            for item in split
        ]
        assert not set().union(*seen[:600]) & set().union(*seen[600:])
    assert {item["type"] for item in test} >= {
        "other", "counting", "comparison", "ranking", "pattern", "aggregation-SUM", "aggregation-AVG", "INSERT",
        "UPDATE", "DELETE",
    }  # fmt: skip
    assert {item["kind"] for item in test} == {"SELECT", "INSERT", "UPDATE", "DELETE"}


def test_practice_items_have_the_keys_of_the_benchmarks(tmp_path) -> None:
    loaded = {item["kind"]: set(item) for item in db.load(written(tmp_path, raw(), raw("UPDATE", answer_md5=HASH)))}
    for item in db.items("train", 50, 0):
        assert set(item) == loaded["SELECT" if item["kind"] == "SELECT" else "UPDATE"]
        assert "label" not in item or (item["label"] and answers_match(str(item["label"]), item["label"]))


@pytest.mark.skipif(not DEV.exists(), reason="AgentBench's dev items are not here")
def test_the_real_dev_items_are_read_and_are_not_practice() -> None:
    items = db.load(DEV)
    assert [sum(item["kind"] == kind for item in items) for kind in ("SELECT", "INSERT", "UPDATE")] == [20, 20, 20]
    practice = db.items("train", 600, 0) + db.items("test", 200, 0)
    assert not {item["table"] for item in practice} & {item["table"] for item in items}
    assert not {item["description"] for item in practice} & {item["description"] for item in items}
