"""How replies of the knowledge graph task are read: as AgentBench.old's task.py reads them, and never at a price."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agenttuning.environments.kg import tools
from agenttuning.protocols import format_of
from agenttuning.protocols.kg import NO_ACTION, read, write

ROWS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample" / "kg.jsonl"
PIECES = [
    "Thought: x", "Action: ", "Action 2:", " Action: ", "Final Answer: #", "Find Answer: #1", "Observation:", "\n",
    "\\_", "get_relations(", "get_neighbors", "(", ")", ",", " , ", "#0", "variable #1", "count", "dis", "é", "\u2028",
    "\x1c", "7",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join)


def original(reply):
    """What task.py does with a reply, by its own regular expressions: its message, and the answer or the calls."""
    message = reply.split("Observation:")[0].replace("\\_", "_")
    answers = re.findall(r"(?:Find|Final) Answer: #(\d+)", message)
    if answers:
        return message, answers[0], None
    for line in message.split("\n"):
        if re.match(r"Action.*?:", line):
            names = re.findall(r"(\w+)\(", line)
            found = [(name, re.findall(rf"{name}\((.+?)\)", line)) for name in names]
            return message, None, [(n, re.split(r"\s*,\s*", matches[0]) if matches else None) for n, matches in found]
    return message, None, None


def ours(reply):
    reading = read(reply, len(reply) + 20)
    if reading.action is None:
        assert reading.tell == NO_ACTION
        return reading.keep, None, None
    if answer := re.fullmatch(r"Final Answer: #(\d+)", reading.action):
        return reading.keep, answer[1], None
    names = tools.names(reading.action)
    return reading.keep, None, [(name, tools.arguments(name, reading.action)) for name in names]


@given(texts)
@example("Action: count()#0)")
@example("Action: get_neighbors( #0 ,  x, y )")
@example("Action: discount(#1) count(#0)")
@example("Action: é_2(#1), ((3")
def test_a_reply_is_read_as_the_original_reads_it(reply):
    assert ours(reply) == original(reply)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Thought: a\nAction: get_relations(Ada)", "get_relations(Ada)"),
        ("Action: count(#0)\nObservation: 3\nAction: count(#1)", "count(#0)"),
        ("Action 3 (of 15): get_relations(Ada)", "Action 3 (of 15): get_relations(Ada)"),  # `3 (` could be a call there
        ("Thought: done\nFind Answer: #12 or #3", "Final Answer: #12"),
        ("Action: count(#0)\nFinal Answer: #1", "Final Answer: #1"),  # an answer goes before an action
        ("Action:", ""),
        (" Action: count(#0)", None),
        ("action: count(#0)", None),
        ("I cannot do that.", None),
        ("Observation: Final Answer: #1", None),
    ],
)
def test_what_is_the_action(reply, action):
    reading = read(reply, 1000)
    assert reading.action == action and reading.tell == (NO_ACTION if action is None else None)


def test_what_the_model_played_on_by_itself_leaves_the_history():
    reading = read("Thought: x\\_y\nAction: count(#0)\nObservation: 5", 1000)
    assert reading.keep == "Thought: x_y\nAction: count(#0)\n" and reading.thought == "x_y"


@given(st.text(max_size=300) | st.text(alphabet=st.characters(), max_size=80))
def test_any_text_is_read(reply):
    reading = read(reply, 50)
    assert reading.action is None or len(reading.action) <= 50
    if reading.action is not None:
        [tools.arguments(name, reading.action) for name in tools.names(reading.action)]


@pytest.mark.parametrize(
    "piece", ["Action", "a", "(", "a(", " ,", "Final Answer: #", "Action: a(b\n", "1", "\ud800", "\n"]
)
def test_a_megabyte_is_read_at_once(piece):
    reply = "Action: " + piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    action = read(reply, len(reply)).action or ""
    calls = tools.names(action)
    for name in calls[:3]:
        tools.arguments(name, action)
    assert time.perf_counter() - start < 2


def test_an_action_that_was_cut_says_so():
    reading = read("Action: get_relations(Ada)", 5)
    assert reading.action == "get_r" and reading.cut and not read("Action: count(#0)", 100).cut


def test_writing_and_reading_agree():
    assert format_of("kg").write("x.", "count(#0)") == "Thought: x.\nAction: count(#0)"
    assert write("x.", "Final Answer: #3") == "Thought: x.\nFinal Answer: #3"
    for thought, action in (("Observation: x", "count(#0)"), ("x\nAction: y", "count(#0)"), ("x", "count(\n#0)")):
        with pytest.raises(ValueError, match="cannot be written"):
            write(thought, action)


@pytest.mark.skipif(not ROWS.is_file(), reason="needs shared/data/agentinstruct_sample/kg.jsonl")
def test_every_trained_turn_of_agentinstruct_is_an_action_or_an_answer():
    trained = failed = 0
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["conversations"]
        for turn, after in zip(turns, [*turns[1:], None], strict=True):
            if turn["from"] == "gpt" and turn["loss"]:
                trained += 1
                _, answer, calls = ours(turn["value"])
                assert (None, answer, calls) == (None, *original(turn["value"])[1:])
                assert answer is not None or (len(calls) == 1 and len(calls[0][1]) == tools.ARITY[calls[0][0]])
                if after is not None and "cannot be executed" in after["value"]:
                    failed += 1
                    assert after["value"] == tools.not_executable(*calls[0])
    assert trained >= 20 and failed >= 4
