"""The os task's format against the rule of AgentBench.old, on made and on real replies."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.protocols import format_of
from agenttuning.protocols.messages import own
from agenttuning.protocols.os_interaction import read, write

ROWS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample" / "os.jsonl"


def rule(reply: str) -> str | None:
    """The rule as AgentBench.old states it, with regular expressions."""
    for act in re.findall(r"Act:\s*(.+)", reply)[::-1]:
        if act.lower().startswith("bash"):
            return "bash: " + "\n\n".join(re.findall(r"```bash\n(.*?)\n```", reply, re.DOTALL))
        if act.lower().startswith("finish"):
            return "finish"
        if act.lower().startswith("answer"):
            content = act[6:].strip()
            left, right = content.find("("), content.rfind(")")
            if left != -1 and right != -1:
                return f"answer: {content[left + 1 : right]}"
    return None


def action(reply: str) -> str | None:
    return read(reply, 20_000).action


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("Think: a\n\nAct: bash\n\n```bash\nls\n```", "bash: ls"),
        ("Act: bash\n```bash\nls\n```\nand\n```bash\ncd /\npwd\n```", "bash: ls\n\ncd /\npwd"),
        ("Act: bash\n```bash\nls\n```\nThink: b\nAct: answer(3)", "answer: 3"),
        ("Act: finish\nAct: bash\n```bash\n\n```", "bash: "),
        ("Act: bash", "bash: "),
        ("Act: Answer(f(x) = (1))", "answer: f(x) = (1)"),
        ("Act: finish\nAct: answer 3", "finish"),
        ("Act: answer)3(", "answer: "),
        ("Act:\n\nFINISH now", "finish"),
        ("Act: think", None),
        ("Act:", None),
        ("I am sorry.", None),
        ("act: finish", None),
        ("```bash\nls\n```", None),
    ],
)
def test_reads_as_the_original(reply, wanted):
    assert action(reply) == wanted == rule(reply)


PIECES = [
    "Act:",
    "Think:",
    "bash",
    "finish",
    "answer",
    "(",
    ")",
    "```bash\n",
    "\n```",
    "\n",
    " ",
    "\t",
    "x",
    "İ",
    "\ud800",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_every_reply_reads_as_the_original(reply):
    assert action(reply) == rule(reply)


@given(st.text(st.characters(exclude_categories=())))
def test_reading_never_raises(reply):
    read(reply, 5)


@pytest.mark.parametrize(
    "piece", ["Act:", "Act: ", "Act: bash\n", "```bash\n", "Act: answer(", "Act: answer)\n", "Think: \n", " \n"]
)
def test_a_megabyte_is_read_at_once(piece):
    reply = piece * (1_000_000 // len(piece))
    started = time.perf_counter()
    read(reply, 20_000)
    read("Act:" + reply, 20_000)
    assert time.perf_counter() - started < 3.0


def test_thoughts_are_joined():
    assert read("Think: a\nAct: finish\nThink:\n b\nAct: finish", 10).thought == "a\nb"


def test_an_action_is_cut_and_says_so():
    reading = read("Act: answer(12345)", 3)
    assert (reading.action, reading.cut) == ("answer: 123", True)
    assert not read("Act: answer(123)", 3).cut


@given(st.text(max_size=30), st.sampled_from(["finish", "answer: ", "bash: "]), st.text(max_size=60))
def test_what_is_written_is_read_again(thought, kind, rest):
    wanted = kind if kind == "finish" else kind + rest
    try:
        reply = write(thought, wanted)
    except ValueError:
        return
    assert action(reply) == wanted


@pytest.mark.parametrize(
    "wanted", ["finish", "answer: /etc/a (b)", "answer: ", "bash: for i in 1 2; do\n  echo $i\ndone"]
)
def test_usual_actions_can_be_written(wanted):
    assert action(write("I see.", wanted)) == wanted


@pytest.mark.parametrize("wanted", ["look", "bash:", "answer: two\nlines", "bash: echo '\n```'"])
def test_what_cannot_be_read_is_not_written(wanted):
    with pytest.raises(ValueError, match="cannot be written|none of"):
        write("t", wanted)


def test_the_practice_prompt_has_a_lead():
    import agenttuning.protocols.os_interaction as texts

    opening = own(texts)({}).opening("How many?")
    assert [message["role"] for message in opening] == ["user", "assistant", "user"]
    assert opening[-1]["content"].endswith("How many?")
    assert format_of("os_interaction").read("Act: finish", 9).action == "finish"


@pytest.mark.skipif(not ROWS.is_file(), reason="no AgentInstruct rows beside the repository")
def test_every_trained_turn_reads_to_an_action():
    turns = [
        turn["value"]
        for line in ROWS.read_text(encoding="utf-8").splitlines()
        for turn in json.loads(line)["conversations"]
        if turn["from"] == "gpt" and turn["loss"]
    ]
    assert len(turns) > 10
    for turn in turns:
        reading = read(turn, 20_000)
        assert reading.action == rule(turn)
        assert reading.action is not None
        assert reading.thought
        assert action(write(reading.thought, reading.action)) == reading.action
