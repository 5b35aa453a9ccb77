"""Conversations of AgentInstruct's alfworld split, played again: every answer of the engine is the one recorded.

The replies go through the protocol, so that the mapping by BLEU is part of what is held to the record. A conversation
of our own of the same form is played where the real ones are not at hand.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from agenttuning.environments import alfworld
from agenttuning.protocols.alfworld import LEAD, read
from helpers.alfworld_rows import game_of

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample" / "alfworld.jsonl"

OURS = [
    ("Do it.", "Ok."),
    (
        f"{LEAD}You are in the middle of a room. Looking quickly around you, you see a drawer 3, a drawer 2, "
        "a drawer 1, a microwave 1, and a sinkbasin 1.\nYour task is to: heat some egg and put it in drawer.",
        "THOUGHT: an egg.\n ACTION: go to drawer 2",
    ),
    ("The drawer 2 is closed.", "ACTION: open drawer 2"),
    ("You open the drawer 2. The drawer 2 is open. In it, you see a egg 2, and a egg 1.", "ACTION: go to drawer 3"),
    ("On the drawer 1, you see a pen 1.", "ACTION: go to drawer 2"),  # drawer 3 shares the place of drawer 2
    ("The drawer 2 is open. In it, you see a egg 2, and a egg 1.", "ACTION: take egg 2 from drawer 2"),
    ("You pick up the egg 2 from the drawer 2.", "ACTION: go to microwave 1"),
    ("The microwave 1 is closed.", "ACTION: heat egg 2 with microwave 1"),
    ("You heat the egg 2 using the microwave 1.", "ACTION: go to drawer 1"),
    ("On the drawer 1, you see a pen 1.", "ACTION: put the egg 2 in/on drawer 1"),  # mapped: `the` is too much
]


def conversation() -> list[dict]:
    return [{"value": text} for pair in OURS for text in pair]


def rows() -> list:
    real = [json.loads(line) for line in REAL.read_text().splitlines()] if REAL.is_file() else []
    return [
        pytest.param(conversation(), id="ours"),
        *(pytest.param(row["conversations"], id=row["id"]) for row in real),
    ]


def replay(conversations: list[dict]) -> tuple[list[str], float]:
    """The engine's messages to the model and the reward, for the conversation's replies."""
    env = alfworld.Environment({"id": "row", "kind": "pick_and_place", "game": game_of(conversations)})
    said, reward = [LEAD + env.reset()], 0.0
    for reply in conversations[3::2]:
        step = env.step(read(reply["value"], 20_000, env.actions).action)
        said.append(step.observation)
        reward = env.score()
        assert step.done == bool(reward)
    return said, reward


@pytest.mark.parametrize("conversations", rows())
def test_a_recorded_conversation_is_played_again_word_for_word(conversations):
    said, reward = replay(conversations)
    recorded = [message["value"] for message in conversations[2::2]]
    assert said[: len(recorded)] == recorded
    assert len(said) == len(recorded) + 1  # the closing answer is not in the rows
    assert said[-1].startswith("You put the ")
    assert reward == 1.0  # only rewarded conversations are in AgentInstruct


def test_a_changed_answer_is_noticed():
    changed = copy.deepcopy(conversation())
    changed[12]["value"] = changed[12]["value"].replace("pick up", "take")
    said, _ = replay(changed)
    assert said[:-1] != [message["value"] for message in changed[2::2]]


@pytest.mark.skipif(not REAL.is_file(), reason="the sample of AgentInstruct's alfworld split is not here")
def test_all_real_rows_are_played():
    assert len(rows()) == 6
