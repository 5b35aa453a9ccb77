"""Known defects are found by structure, counted whether kept or dropped, and a sound row of the same shape has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.data import defects
from agenttuning.data.convert import convert

SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/agentinstruct_sample"


def conversation(*turns: str) -> list[dict]:
    """User and assistant in turn, every assistant turn trained."""
    return [
        {"role": "assistant" if place % 2 else "user", "content": text, "loss": bool(place % 2)}
        for place, text in enumerate(turns)
    ]


PAGE = "<button id=0> Oven </button> <input id=1 recipe>\nTask: Bake a lemon cake\n\nA. None\nB. Oven\nC. <input>"


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("Thought: The cake goes into the oven.\nAnswer: B.\nAction: CLICK", False),
        ("Thought: I name the cake.\nAnswer: C.\nAction: TYPE\nValue: lemon", False),
        ("Answer: B.\nAction: CLICK", False),
        ("Thought: The cake goes into the oven.\nAnswer: D.\nAction: CLICK", True),
        ("Thought: The cake goes into the oven.\nAnswer: B.\nAction: SET\nValue: lemon", True),
        ("Thought: I name the cake.\nAnswer: C.\nAction: TYPE\nValue: Paris", True),
        ("Thought: The flight leaves on Monday.\nAnswer: B.\nAction: CLICK", True),
    ],
)
def test_an_answer_of_another_page(answer, wrong):
    assert defects.find(conversation(PAGE, answer)) == (["mismatched_answer"] if wrong else [])
    untrained = conversation(PAGE, answer)
    untrained[1]["loss"] = False
    assert defects.find(untrained) == []


def test_the_objects_of_another_task():
    task = "You see a shelf 1.\nYour task is to: put two mugs in cabinet."
    assert defects.find(conversation(task, "ACTION: take mug 1 from shelf 1", "ok", "ACTION: open cabinet 2")) == []
    assert defects.find(conversation(task, "ACTION: take apple 1", "ok", "ACTION: heat apple 1 with microwave 1")) == [
        "mismatched_answer"
    ]


def test_terminal_escapes_count_in_observations_only():
    for code in ("\x1b[0m", "\x1b]0;root\x07", "\x9b1m"):
        assert defects.find(conversation("ls", "Act: bash", f"a{code}b", "done")) == ["terminal_escapes"]
        assert defects.find(conversation("ls", f"printf '{code}'")) == []
    assert defects.find(conversation("ls\r\n\ttab", "done")) == []


def test_an_option_that_was_asked_and_offered_but_not_chosen():
    item = "[SEP] a rug of size: 3 x 5 ft, and price lower than 9 dollars [SEP] 2 x 3 ft [SEP] 3 x 5 ft [SEP] Buy Now"
    right = conversation(item, "Action:\nclick[3 x 5 ft]", item, "Action:\nclick[Buy Now]")
    wrong = conversation(item, "Action:\nclick[2 x 3 ft]", item, "Action:\nclick[Buy Now]")
    other = conversation(item.replace(" [SEP] 3 x 5 ft", ""), "Action:\nclick[Buy Now]")
    found = [defects.find(messages) for messages in (right, wrong, other, wrong[:2])]
    assert found == [[], ["option_not_chosen"], [], []]


def test_the_filter_counts_kept_and_dropped_rows_alike():
    good = {"id": "g", "split": "os", "messages": conversation("ls", "done")}
    bad = {"id": "b", "split": "os", "messages": conversation("a\x1b[0m", "done")}
    for drop, reasons in ((False, [None, None]), (True, [None, "defect: terminal_escapes"])):
        look = defects.Defects("s", drop)
        assert [look(row) for row in (good, bad)] == reasons
        assert look.found == {"terminal_escapes": 1}
        assert look.records == [{"source": "s", "split": "os", "id": "b", "defects": ["terminal_escapes"]}]


def test_the_summary_names_what_there_is():
    sources = {
        "a": {"defects": {"terminal_escapes": 1200}, "dropped": {"defect: terminal_escapes": 1200}},
        "b": {"defects": {}, "dropped": {}},
    }
    assert defects.summary({"sources": sources}).splitlines() == [
        "a: rows with known defects: 1,200 terminal_escapes; see defects.jsonl",
        "a: dropped 1,200 rows (defect: terminal_escapes)",
    ]
    assert defects.summary({"sources": {"b": sources["b"]}}) == ""


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real rows is not part of the repository")
def test_real_rows():
    found = {}
    for file in sorted(SAMPLE.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[file.stem] = [row["id"] for row in rows if defects.find(convert(row, "agentinstruct")["messages"])]
    # Of the five mind2web rows only mind2web_110 answers its own prompt (read by eye; agent-data-protocol issue 221).
    assert set(found["mind2web"]) == {"mind2web_96", "mind2web_46", "mind2web_72", "mind2web_118"}
    assert len(found["os"]) == 5
    assert [found[name] for name in ("alfworld", "db", "db_more", "kg", "webshop")] == [[]] * 5
