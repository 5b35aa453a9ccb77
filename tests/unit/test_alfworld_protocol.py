"""ALFWorld's replies: read as AgentBench.old reads them, mapped by BLEU as nltk computes it."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.protocols import format_of
from agenttuning.protocols.alfworld import ACKNOWLEDGEMENT, FORMAT, INSTRUCTION, LEAD, Sentence, nearest, read, write

CHOICES = ["go to cabinet 1", "go to cabinet 10", "go to microwave 1", "inventory", "look", "take mug 1 from shelf 1"]
WORDS = ["go", "to", "cabinet", "1", "2", "12", "the", "microwave", "take", "mug", "from", "put", "in/on", "with"]


def mapped(reply: str) -> str:
    return read(reply, 1000, lambda: CHOICES).action


@pytest.mark.parametrize(
    ("reply", "action", "thought"),
    [
        ("ACTION: go to shelf 1", "go to shelf 1", ""),
        ("THOUGHT: a mug?\n ACTION: Go To Shelf 1\n", "go to shelf 1", "a mug?"),
        ("I think so.\nACTION:look\nmore", "look", "I think so."),
        ("THOUGHT: x ACTION: look ACTION: inventory", "look action: inventory", "x"),
        ("ACTION: look\nACTION: inventory\n", "look", ""),
        ("ACTION: look\nACTION: inventory", "look", ""),
        ("  look  \nthen more", "look  ", ""),  # stripped before its lines are parted
        ("action: look", "action: look", ""),  # the original's search is by case
        ("ACTION:\nlook", "", ""),
        ("", "", ""),
        ("ACTION: go\rto", "go\rto", ""),
    ],
)
def test_a_reply_is_read_as_the_original_reads_it(reply, action, thought):
    reading = read(reply, 1000, None)
    assert (reading.action, reading.thought, reading.cut) == (action, thought, False)


def original(reply: str) -> str:
    """What process_action does before it maps, in its own words' order: two searches, then the first line."""
    import re

    found = re.search("ACTION:(.*)\n", reply) or re.search("ACTION:(.*)", reply)
    return (found[1] if found else reply).strip().lower().split("\n")[0]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["ACTION:", "\n", " ", "THOUGHT:", "Go", "x", "\r", "İ", "\u2028"]), max_size=12))
def test_reading_agrees_with_the_originals_two_searches(parts):
    reply = "".join(parts)
    assert read(reply, 10_000, None).action == original(reply)


def test_the_nearest_admissible_command_is_taken_the_first_of_equals():
    assert mapped("ACTION: look") == "look"
    assert mapped("ACTION: go to cabinet 4") == "go to cabinet 1"  # as in AgentInstruct's alfworld_56
    assert mapped("ACTION: take the mug 1 from the shelf 1") == "take mug 1 from shelf 1"
    assert mapped("ACTION: microwave") == "go to microwave 1"
    assert mapped("ACTION: sing a song") == "sing a song"  # like nothing
    assert mapped("") == ""
    assert mapped("I do not know what to do here.").startswith("go to")  # one shared word is enough for the original
    assert nearest("anything", []) == "anything"


def test_bleu_is_nltks_bit_for_bit():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    method = bleu.SmoothingFunction().method4
    rng = random.Random("bleu")
    for _ in range(1500):
        candidate = [rng.choice(WORDS) for _ in range(rng.randint(0, 9))]
        reference = [rng.choice(WORDS) for _ in range(rng.randint(1, 7))]
        wanted = bleu.sentence_bleu([reference], candidate, smoothing_function=method)
        assert Sentence(" ".join(candidate)).bleu(" ".join(reference)) == wanted, (candidate, reference)


def test_mapping_is_the_originals():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    method = bleu.SmoothingFunction().method4
    rng = random.Random("mapping")
    for _ in range(300):
        action = " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 8)))
        scores = [bleu.sentence_bleu([one.split()], action.split(), smoothing_function=method) for one in CHOICES]
        best = max(range(len(CHOICES)), key=lambda place: (scores[place], -place))
        taken = action in CHOICES or scores[best] <= 0.01
        assert nearest(action, CHOICES) == (action if taken else CHOICES[best])


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None), max_size=200))
def test_reading_never_raises(reply):
    reading = read(reply, 50, lambda: CHOICES)
    assert reading.action is not None
    assert len(reading.action) <= 150  # lower-casing may lengthen a letter


@pytest.mark.parametrize("piece", ["ACTION:", "ACTION: ", "go to ", "\n", " ", "a", "ACTION:\ud800 ", "THOUGHT: "])
def test_reading_a_megabyte_is_quick(piece):
    reply = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    reading = read(reply, 20_000, lambda: CHOICES)
    assert time.perf_counter() - start < 2
    assert len(reading.action) <= 20_000


def test_a_long_action_is_cut_and_said_so():
    reading = read("ACTION: " + "x" * 30, 10, lambda: CHOICES)
    assert (reading.action, reading.cut) == ("x" * 10, True)


@given(st.text("abc 12/", min_size=1).map(str.strip).filter(bool), st.text("abc .\n"))
def test_what_is_written_is_read(action, thought):
    reading = read(write(thought, action), 1000, lambda: [action])
    assert reading.action == action
    assert reading.thought == thought.strip()


@pytest.mark.parametrize(("thought", "action"), [("", "a\nb"), ("", " a"), ("ACTION: no", "a"), ("", "Go")])
def test_what_could_not_be_read_is_not_written(thought, action):
    with pytest.raises(ValueError, match="cannot be written"):
        write(thought, action)


def test_the_texts_are_there():
    assert format_of("alfworld") is FORMAT
    assert all(isinstance(text, str) and text for text in (INSTRUCTION, ACKNOWLEDGEMENT, LEAD))
