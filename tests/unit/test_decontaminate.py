"""The contamination check on rows with planted overlaps: counts, places, hostile text, and what cannot be read."""

from __future__ import annotations

import json

import pytest

from agenttuning import cli
from agenttuning.chat import load_tokenizer
from agenttuning.chat.tokenizer import encode_texts
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


def test_chunks_change_nothing_and_every_token_counts(world, tmp_path, monkeypatch):
    path = rows(tmp_path / "a.jsonl", {"text": LINE * 3}, {"text": "open drawer 1 then list the files " * 3})
    whole = decontaminate(tiny_recipe(world, tmp_path / "run"), [f"a={path}"])
    monkeypatch.setattr("agenttuning.decontaminate.CHUNK", 3)
    assert decontaminate(tiny_recipe(world, tmp_path / "run"), [f"a={path}"]) == whole
    tokenizer = load_tokenizer(world.parents[2] / "base")
    raw = [json.loads(line) for file in (world.parents[2] / "raw").iterdir() for line in file.open()]
    turns = [turn["value"] for row in raw for turn in row["conversations"]]
    assert whole["training"] == {
        "conversations": 33, "malformed": 0, "turns": len(turns),
        "tokens": sum(map(len, encode_texts(tokenizer, turns))), "with_part_of_dirty": 1,
    }  # fmt: skip
    assert whole["with_part_of_dirty"] == [{"source": "chats", "id": "planted"}]
    assert whole["check"]["suites"][0]["rows"] == 2 and whole["check"]["suites"][0]["files"].keys() == {"a.jsonl"}


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
        ('{"a": "x"}\n', ["b"], "row a_0 has no field 'b'"),
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
    with pytest.raises(UserError, match="no suite 'mnlu'.*did you mean `mmlu`.*miniature"):
        decontaminate(recipe, ["mnlu"])
    with pytest.raises(UserError, match="does not exist"):
        decontaminate(recipe, [f"mmlu={tmp_path / 'absent.jsonl'}"])


def test_what_all_could_not_read_is_said_everywhere(world, tmp_path, capsys):
    folder = tmp_path / "suites"
    for place in ("data/dbbench", "data/knowledgegraph", "data/os_interaction/data/1"):
        (folder / place).mkdir(parents=True)
    rows(folder / "data/dbbench/standard.jsonl", {"description": LINE, "add_description": LINE})
    (folder / "data/knowledgegraph/std.json").write_text(json.dumps([{"question": LINE}]))
    (folder / "data/os_interaction/data/1/stock.json").write_text(json.dumps({"description": LINE}))
    for name, row in (
        ("mmlu", {"question": LINE, "choices": ["a", "b"]}), ("gsm8k", {"question": LINE, "answer": "1"}),
        ("humaneval", {"prompt": LINE, "canonical_solution": "2"}), ("mt-bench", {"turns": [LINE, LINE]}),
    ):  # fmt: skip
        rows(folder / f"{name}.jsonl", row)
    report = decontaminate(tiny_recipe(world, tmp_path / "run"), [f"all={folder}"])
    assert report["suites"].keys() == {"mmlu", "gsm8k", "humaneval", "mt-bench", "db", "kg", "os"}
    assert all(suite["dirty"] == 1 for suite in report["suites"].values())
    assert report["not_compared"].keys() == {"alfworld", "webshop", "mind2web"}
    shown = capsys.readouterr().out, (tmp_path / "run" / "contamination.md").read_text()
    assert all(f"NOT compared: {name}" in text for text in shown for name in report["not_compared"])


def test_the_verb(world, tmp_path, capsys):
    path = rows(tmp_path / "a.jsonl", {"q": LINE * 2})
    words = ["decontaminate", str(world), "--against", f"a={path}", "--fields", "q", "--run-dir", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert "contamination.md" in capsys.readouterr().out
