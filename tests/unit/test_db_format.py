"""The DB task's format: read as the original reads, which is written here as its regular expressions."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.protocols import db
from agenttuning.protocols.messages import own

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample"
MANY = 10**7


def original(reply: str) -> str | None:
    """AgentBench.old's rules; quadratic, so only for short replies."""
    action = re.search(r"Action: (.*?)\n", reply)
    if action and action.group(1) == "Operation":
        block = re.search(r"```sql\n([\s\S]*?)\n```", reply)
        return "sql: " + block.group(1).strip().replace("\n", " ") if block else None
    final = re.search(r"\nFinal Answer:(.*)", reply)
    return "answer:" + final.group(1) if final else None


PIECES = st.sampled_from(
    ["Action: ", "Operation", "Answer", "\n", "```sql\n", "\n```", "```", "\nFinal Answer:", "Final Answer: ",
     " ", "x", "\r", "SELECT 1", "Action:", "\u2028", "\ud800", "é"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join) | st.text())
def test_any_reply_is_read_as_the_original_reads_it(reply: str) -> None:
    assert db.read(reply, MANY).action == original(reply)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("I look.\nAction: Operation\n```sql\nSELECT *\nFROM `t`;\n```", "sql: SELECT * FROM `t`;"),
        ('Done.\nAction: Answer\nFinal Answer: ["a", "b"]', 'answer: ["a", "b"]'),
        ("Action: Operation\n```sql\nSELECT 1\n```\n```sql\nSELECT 2\n```", "sql: SELECT 1"),
        ("Action: Operation \n```sql\nSELECT 1\n```", None),  # not equal to "Operation"
        ("Action: operation\n```sql\nSELECT 1\n```", None),
        ("Action: Operation\n```SQL\nSELECT 1\n```", None),
        ("Action: Operation\nFinal Answer: 3", None),  # an operation without a statement is no answer
        ("Final Answer: 3", None),  # nothing before it: the original wants a line break
        ("so\nFinal Answer:", "answer:"),
        ("Action: Answer\nFinal Answer: 3\nAction: Operation\n```sql\nx\n```", "answer: 3"),
        ("", None),
        ("I cannot do this.", None),
    ],
)
def test_replies(reply: str, action: str | None) -> None:
    assert db.read(reply, MANY).action == action


def test_a_long_action_is_cut_and_said_to_be() -> None:
    reading = db.read("Action: Operation\n```sql\n" + "x" * 100 + "\n```", 20)
    assert reading.action == "sql: " + "x" * 15 and reading.cut


@pytest.mark.parametrize(
    "piece", ["Action: ", "```sql\n", "\nFinal Answer:", "\n```", "Action: Operation\n", "a", "\n", " "]
)
def test_a_megabyte_is_read_in_a_moment(piece: str) -> None:
    start = time.process_time()
    db.read(piece * (2**20 // len(piece)), 20_000)
    assert time.process_time() - start < 1.0


@given(st.text(), st.text().filter(lambda text: "\n" not in text))
def test_what_is_written_is_read_back(thought: str, text: str) -> None:
    for action in (f"sql: {text}", f"answer:{text}"):
        try:
            reply = db.write(thought, action)
        except ValueError:
            continue
        assert db.read(reply, MANY).action == action


def test_writing_refuses_what_would_be_read_otherwise() -> None:
    assert db.write("I look.", "sql: SELECT 1") == "I look.\nAction: Operation\n```sql\nSELECT 1\n```"
    for thought, action in (("", "sql: a\nb"), ("Action: Answer\n", "sql: x"), ("", "look"), ("", "answer: a\nb")):
        with pytest.raises(ValueError, match="cannot be written"):
            db.write(thought, action)


def test_the_thought_is_what_stands_before() -> None:
    assert db.read(db.write("First I look.", "sql: SELECT 1"), MANY).thought == "First I look."
    assert db.read(db.write("I know.", "answer: 3"), MANY).thought == "I know."


def test_our_own_prompt_shows_both_forms_in_a_way_that_is_read() -> None:
    messages = own(db)({}).messages
    assert [message["loss"] for message in messages] == [False, False]
    text = messages[0]["content"]
    assert db.read(text, MANY).action.startswith("sql: SELECT")
    assert "Action: Answer\nFinal Answer: [" in text


@pytest.mark.skipif(not (SHARED / "db.jsonl").exists(), reason="AgentInstruct's sample rows are not here")
def test_every_trained_turn_of_agentinstruct_is_read() -> None:
    turns = 0
    for path in (SHARED / "db.jsonl", SHARED / "db_more.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            for turn in json.loads(line)["conversations"]:
                if turn["from"] == "gpt" and turn["loss"]:
                    reading = db.read(turn["value"], 20_000)
                    assert reading.action == original(turn["value"]) is not None and not reading.cut
                    turns += 1
    assert turns > 500
