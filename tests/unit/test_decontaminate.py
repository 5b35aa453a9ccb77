"""The contamination check on rows with planted overlaps: counts, places, hostile text, and what cannot be read."""

from __future__ import annotations

import json

import pytest

from agenttuning import cli
from agenttuning.decontaminate import decontaminate
from agenttuning.errors import UserError
from helpers.tiny_run import tiny_recipe, tiny_world

LINE = "The drawer holds a mug, a pen and two keys, and the list of the files that were found first. "


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = tiny_world(tmp_path_factory.mktemp("world"))
    row = {
        "id": "planted",
        "conversations": [
            {"from": "human", "value": f"Is it so? {LINE * 3}"},
            {"from": "gpt", "value": "It is \x1b[31mso. " + "open drawer 1 then list the files " * 3},
        ],
    }
    with (world.parents[2] / "raw" / "chats.jsonl").open("a") as out:
        out.write(json.dumps(row) + "\n")
    return world


def rows(path, *found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def test_dirty_between_and_clean_examples_are_told_apart(world, tmp_path, capsys):
    fresh = "zq vx wj kp " * 6
    path = rows(
        tmp_path / "test.jsonl",
        {"question": LINE * 3, "answer": "x", "n": 1},
        {"question": LINE + fresh, "answer": "x", "n": 2},
        {"question": fresh, "answer": "x", "n": 3},
        {"question": "keys", "answer": LINE, "n": 4},
    )
    recipe = tiny_recipe(world, tmp_path / "run")
    report = decontaminate(recipe, [f"quiz={path}"], fields=["question"])
    quiz = report["suites"]["quiz"]
    assert [quiz[kind] for kind in ("examples", "dirty", "between", "clean", "too_short")] == [4, 1, 1, 1, 1]
    assert [(one["id"], one["kind"]) for one in quiz["found"]] == [("test_0", "dirty"), ("test_1", "between")]
    first = quiz["found"][0]
    assert first["share"] > 0.95 and first["training"] == {"source": "chats", "id": "planted", "turn": 0}
    assert "two keys" in first["span"] and quiz["found"][1]["span_tokens"] < first["span_tokens"]
    assert 0 < quiz["contaminated_tokens"] < quiz["tokens"]
    assert json.loads((tmp_path / "run" / "contamination.json").read_text()) == report
    assert "test_0: dirty" in (tmp_path / "run" / "contamination.md").read_text()
    assert "quiz" in capsys.readouterr().out


def test_a_turn_that_many_rows_share_is_compared_once(world, tmp_path):
    path = rows(tmp_path / "a.jsonl", {"text": "nothing of it is there, nothing at all is there"})
    training = decontaminate(tiny_recipe(world, tmp_path / "run"), [f"a={path}"])["training"]
    assert training["conversations"] == 33 and training["different_turns"] < training["turns"]


def test_terminal_escapes_are_spelt_in_the_report(world, tmp_path, capsys):
    path = rows(
        tmp_path / "a.jsonl", {"nested": [{"deep": "It is \x1b[31mso. " + "open drawer 1 then list the files " * 3}]}
    )
    report = decontaminate(tiny_recipe(world, tmp_path / "run"), [f"e\x1b[2J={path}"])
    assert report["suites"]["e\x1b[2J"]["dirty"] == 1
    text = (tmp_path / "run" / "contamination.md").read_text() + capsys.readouterr().out
    assert "\x1b" not in text and "31m" in text


def test_our_own_suite_is_compared_by_its_name(world, tmp_path):
    report = decontaminate(tiny_recipe(world, tmp_path / "run"), ["miniature"])
    assert set(report["suites"]) == {
        "household", "database", "shop", "files", "knowledge", "arithmetic", "functions"
    }  # fmt: skip
    assert report["suites"]["household"]["examples"] == 150


@pytest.mark.parametrize(
    ("content", "fields", "words"),
    [
        ('{"a": 1}\n', [], "holds no text"),
        ('{"a": "x"}\n', ["b"], "row 0 has no field 'b'"),
        ('{"a": "x"\n', [], "line 1 is not valid JSON"),
        ("[1, 2]\n", ["a"], "has no field 'a'"),
    ],
)
def test_what_cannot_be_compared_is_no_clean_bill(world, tmp_path, content, fields, words):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        decontaminate(tiny_recipe(world, tmp_path / "run"), [f"a={tmp_path / 'a.jsonl'}"], fields=fields)


def test_an_unknown_suite_and_a_missing_file_are_named(world, tmp_path):
    recipe = tiny_recipe(world, tmp_path / "run")
    with pytest.raises(UserError, match="no suite 'mmlu'.*miniature"):
        decontaminate(recipe, ["mmlu"])
    with pytest.raises(UserError, match="does not exist"):
        decontaminate(recipe, [f"mmlu={tmp_path / 'absent.jsonl'}"])


def test_the_verb(world, tmp_path, capsys):
    path = rows(tmp_path / "a.jsonl", {"q": LINE * 2})
    words = ["decontaminate", str(world), "--against", f"a={path}", "--fields", "q", "--run-dir", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert "contamination.md" in capsys.readouterr().out
