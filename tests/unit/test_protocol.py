"""The protocol file is read strictly; the parser reads what render writes and survives everything else."""

from __future__ import annotations

import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import TASKS
from agenttuning.errors import UserError
from agenttuning.protocols import react
from agenttuning.protocols.messages import Reading, assistant, own


@pytest.mark.parametrize(
    ("reply", "thought", "action"),
    [
        ("Thought: go.\nAction: go to sink", "go.", "go to sink"),
        ("THOUGHT: a\nb\nACTION:   go  to sink  \n", "a\nb", "go  to sink"),
        ("Action: x", "", "x"),
        ("Action:\n\n  search[red hat]\nmore", "", "search[red hat]"),
        ("Thought: t\nAction: a\nObservation: o\nThought: u\nAction: b", "t", "a"),
        ("Thought: my Action: is\n action: b\r", "my Action: is", "b"),
        ("Thought: nothing to do", "nothing to do", None),
        ("Thought: t\nAction:", "t", None),
        ("Thought: t\nAction:  \n \n", "t", None),
        ("", "", None),
        ("Reaction: no\nActions: no", "Reaction: no\nActions: no", None),
    ],
)
def test_parse(reply: str, thought: str, action: str | None) -> None:
    assert react.read(reply, 100) == Reading(thought, action)


def test_a_long_action_is_cut_and_says_so() -> None:
    assert react.read("Action: abc def", 4) == Reading("", "abc", cut=True)
    assert react.read("Action: abcd", 4) == Reading("", "abcd", cut=False)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(), max_size=200),  # lone surrogates included
        st.lists(st.sampled_from(["Action:", "action:", "Thought:", "\n", "\r", "\x00", " ", "x", "\u2028"])).map(
            "".join
        ),
    ),
    st.integers(1, 30),
)
def test_parse_never_raises(reply: str, limit: int) -> None:
    parsed = react.read(reply, limit)
    if parsed.action is not None:
        assert 0 < len(parsed.action) <= limit
        assert parsed.action == parsed.action.strip()
        assert "\n" not in parsed.action
        assert parsed.action in reply
    assert react.is_refusal(reply) in (True, False)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=50), st.text(max_size=50))
def test_render_is_read_back_or_refused(thought: str, action: str) -> None:
    try:
        reply = react.write(thought, action)
    except ValueError:
        return
    assert react.read(reply, 1000).action == action


def test_render_refuses_what_would_be_read_otherwise() -> None:
    for thought, action in (("t", "two\nlines"), ("t", " x"), ("t", ""), ("t\nAction: other", "x")):
        with pytest.raises(ValueError, match="cannot be written"):
            react.write(thought, action)


def test_parsing_is_linear() -> None:
    start = time.perf_counter()
    react.read("Action:\n" * 200_000 + " " * 1_000_000, 100)
    react.is_refusal("i am " * 200_000)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I'm sorry, but I cannot do that.", True),
        ("I’m sorry.", True),
        ("As an AI, I have no hands.", True),
        ("I apologize for the confusion.", True),
        ("I cannot reach it.\nAction: go to sink", False),
        ("Thought: I do not know how to go on. I give up.", False),
        ("x" * 400 + " I'm sorry", False),
        ("", False),
    ],
)
def test_refusal(reply: str, refused: bool) -> None:
    assert react.is_refusal(reply) is refused


def test_opening_trains_on_nothing() -> None:
    messages = own(SimpleNamespace(INSTRUCTION="I", ACKNOWLEDGEMENT="Ok."))({}).opening("O")
    assert [(m["role"], m["content"], m["loss"]) for m in messages] == [
        ("user", "I", False),
        ("assistant", "Ok.", False),
        ("user", "O", False),
    ]
    assert assistant("x")["loss"] is True


def test_the_committed_protocol_names_every_task_with_its_turns() -> None:
    protocol = protocols.load()
    assert {name: rules.max_turns for name, rules in protocol.tasks.items()} == {
        name: module.MAX_TURNS for name, module in TASKS.items()
    }
    assert protocol.label == "miniature@1"


def _content() -> dict:
    protocol = asdict(protocols.load())
    return {**protocol, "tasks": dict(protocol["tasks"])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(versoin=2), "version"),
        (lambda c: c.pop("void_above"), "void_above"),
        (lambda c: c["limits"].update(repetitions=3), "repetition"),
        (lambda c: c["limits"].update(repetition=1), "at least 2"),
        (lambda c: c["limits"].update(action_chars="many"), "action_chars"),
        (lambda c: c["decoding"].update(temperature=-1.0), "temperature"),
        (lambda c: c.update(void_above=1.5), "share"),
        (lambda c: c["tasks"]["shop"].update(group="other"), "held_in"),
        (lambda c: c["tasks"]["shop"].update(max_turns=0), "max_turns"),
    ],
)
def test_a_bad_protocol_file_is_refused(tmp_path, change, message) -> None:
    content = _content()
    change(content)
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        protocols.load(path)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="household"):
        protocols.load().rules("alfworld")
