"""The tournament of Mind2Web: what is asked, what is won, what is read of a reply."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import held_in, mind2web, reserved
from agenttuning.environments.mind2web.answer import Answer, gold_action, read_answer, token_f1, write_answer
from agenttuning.environments.mind2web.page import parse
from agenttuning.environments.mind2web.ranker import ranks
from agenttuning.environments.mind2web.sites import KINDS
from agenttuning.environments.mind2web.synthetic import _values
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols import mind2web as texts
from agenttuning.protocols.messages import own

N = 60
PRACTICE = protocols.load(protocols.FOLDER / "practice.yaml")


def page(count: int) -> str:
    buttons = "".join(f'<button backend_node_id="{n}" name="b{n}"/>' for n in range(1, count + 1))
    return f'<html backend_node_id="0"><div backend_node_id="99"><text>x</text>{buttons}</div></html>'


def step(count: int = 10, right: int = 3, op: str = "CLICK", value: str = "", **more: object) -> dict:
    """A step with `count` candidates, of which `right` is the right one."""
    ranked = [[str(n), n - 1] for n in range(1, count + 1)]
    item = {"id": "s", "task": "press", "previous_actions": [], "html": page(count)}
    item["positive"] = [pair for pair in ranked if pair[0] == str(right)]
    item["negative"] = [pair for pair in ranked if pair[0] != str(right)]
    return item | {"operation": {"op": op, "value": value}} | more


def opened(item: dict) -> mind2web.Environment:
    environment = mind2web.Environment(item)
    environment.reset()
    return environment


def letter_of(environment: mind2web.Environment, element: str) -> str | None:
    choices = environment.question.choices
    return "BCDEF"[choices.index(element)] if element in choices else None


@pytest.fixture(scope="module")
def practice() -> list[dict]:
    return mind2web.items("test", N, 0)


def test_the_face():
    assert held_in("mind2web") is mind2web
    assert [(backend.name, backend.comparable) for backend in mind2web.BACKENDS] == [
        ("agentbench", True),
        ("embedded", False),
    ]
    assert mind2web.missing("embedded") == []
    assert "data_std" in mind2web.missing("agentbench")[0].what
    assert mind2web.missing("agentbench", "/nowhere")[0].what == "the folder /nowhere"
    for where in ({"backend": "docker"}, {"backend": "agentbench"}, {"backend": "embedded", "data_std": "."}):
        with pytest.raises(UserError), mind2web.serve(**where):
            pass


# ------------------------------------------------------------------------------------------------ practice items


def test_the_expert_wins_every_practice_step_and_a_player_without_sense_does_not(practice: list[dict]):
    with mind2web.serve("embedded") as room:
        won = play(room, practice, expert, PRACTICE, own(texts), model="expert", seed=0, progress=False)
        lost = play(room, practice, random_policy(0), PRACTICE, own(texts), model="random", seed=0, progress=False)
    assert {(record["status"], record["reward"]) for record in won} == {("completed", 1.0)}
    assert {record["metrics"]["step_success"] for record in won} == {1.0}
    assert sum(record["reward"] for record in lost) <= 0.1 * N


def test_each_question_is_shown_alone_after_the_prompt(practice: list[dict]):
    seen = []

    def watched(turns):
        seen.extend([message["role"] for message in turn.messages] + [turn.messages[-1]["content"]] for turn in turns)
        return expert(turns)

    with mind2web.serve("embedded") as room:
        play(room, practice[:3], watched, PRACTICE, own(texts), model="expert", seed=0, progress=False)
    assert len(seen) == 6
    assert all(roles == ["user", "assistant", "user"] for *roles, _ in seen)
    assert all(question.startswith("'''\n<html>") for *_, question in seen)


def test_items_are_the_same_for_the_same_seed_and_other_for_another(practice: list[dict]):
    assert mind2web.items("test", N, 0) == practice
    assert mind2web.items("test", N, 1) != practice
    assert json.loads(json.dumps(practice)) == practice


def test_the_splits_share_no_site_and_no_value_of_a_large_pool(practice: list[dict]):
    train = mind2web.items("train", N, 0)
    assert not {item["website"] for item in train} & {item["website"] for item in practice}
    assert not {item["task"] for item in train} & {item["task"] for item in practice}
    for item in practice:
        if item["operation"]["op"] == "TYPE":
            assert reserved("value", item["operation"]["value"])
    with pytest.raises(ValueError, match="split is 'dev'"):
        mind2web.items("dev", 1, 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_pool_has_enough_values_for_both_splits(kind):
    for test in (False, True):
        assert len(_values(kind.entries, test)) >= 3
        assert all(len(_values(place.values, test)) >= 2 for place in kind.fields if place.operation != "CLICK")


def test_practice_steps_are_pages_of_the_data_sets_form(practice: list[dict]):
    assert {item["operation"]["op"] for item in practice} == {"CLICK", "SELECT", "TYPE"}
    for item in practice:
        ids = {node.attrib["backend_node_id"] for node in parse(item["html"]).iter("*")}
        ranked = item["positive"] + item["negative"]
        assert {identity for identity, _ in ranked} <= ids
        assert sorted(rank for _, rank in ranked) == list(range(len(ranked)))
        assert item["positive"][0][1] < 10 <= len(ranked)


def test_what_was_done_before_stands_in_the_page(practice: list[dict]):
    later = [item for item in practice if any("-> TYPE: " in told for told in item["previous_actions"])]
    assert later
    for item in later:
        values = [told.split("-> TYPE: ")[1] for told in item["previous_actions"] if "-> TYPE: " in told]
        assert all(f'input_value="{value}"' in item["html"] for value in values)


def test_the_ranker_finds_the_words_of_the_task():
    assert ranks("find blue hats", ["red coat", "a blue hat", "help", "blue"]) == [2, 0, 3, 1]
    assert ranks("nothing here", ["a", "b"]) == [0, 1]
    assert ranks("x", []) == []


# ----------------------------------------------------------------------------------------------- the tournament


def test_ten_candidates_need_three_questions_of_five_when_both_rounds_have_a_winner():
    environment = opened(step(10))
    first = list(environment.question.choices)
    assert len(first) == 5
    environment.step("B | CLICK")
    second = list(environment.question.choices)
    assert not set(first) & set(second)
    environment.step("C | CLICK")
    assert set(environment.question.choices) == {first[0], second[1]}
    assert environment.step("B | CLICK").done
    assert environment.asked == 3


def test_the_last_choice_is_the_prediction_with_the_action_of_its_reply():
    environment = opened(step(10, op="TYPE", value="New York"))
    while not environment.over:
        letter = letter_of(environment, "3")
        result = environment.step(f"{letter} | TYPE | New York" if letter else "A")
    assert result.done and result.valid
    assert environment.metrics() == {
        "element_accuracy": 1.0, "action_f1": 1.0, "step_success": 1.0, "in_top_10": 1.0,
    }  # fmt: skip
    assert environment.score() == 1.0


def test_a_winner_that_is_turned_down_later_leaves_nothing():
    environment = opened(step(5))
    environment.step("A")
    assert environment.over
    assert environment.metrics()["element_accuracy"] == 0.0
    environment = opened(step(7))
    environment.step("B | CLICK")
    assert environment.step("A").done
    assert environment.score() == 0.0
    assert environment.metrics()["action_f1"] == 0.0


def test_the_right_element_with_another_action_is_half_a_success():
    environment = opened(step(5, op="SELECT", value="Extra Large"))
    environment.step(f"{letter_of(environment, '3')} | SELECT | Large")
    metrics = environment.metrics()
    assert metrics["element_accuracy"] == 1.0
    assert metrics["action_f1"] == pytest.approx(0.8)
    assert environment.score() == 0.0


def test_another_element_with_the_right_action_is_no_success():
    environment = opened(step(5))
    wrong = next(c for c in environment.question.choices if c != "3")
    environment.step(f"{letter_of(environment, wrong)} | CLICK")
    assert environment.metrics() == {
        "element_accuracy": 0.0, "action_f1": 1.0, "step_success": 0.0, "in_top_10": 1.0,
    }  # fmt: skip


def test_a_step_without_a_right_element_in_the_top_ten_is_lost_and_nothing_is_asked():
    environment = mind2web.Environment(step(10) | {"positive": [["3", 10]]})
    assert environment.reset() == ""
    assert environment.over
    assert set(environment.metrics().values()) == {0.0}
    assert environment.step("B | CLICK").done
    assert environment.score() == 0.0


def test_a_model_is_not_asked_about_a_step_that_is_lost_before():
    with mind2web.serve("embedded") as room:
        lost = step(10) | {"positive": []}
        (record,) = play(room, [lost], _unasked, PRACTICE, own(texts), model="m", seed=0, progress=False)
    assert (record["status"], record["reward"], record["turns"]) == ("completed", 0.0, 0)
    assert record["metrics"]["in_top_10"] == 0.0


def _unasked(turns):
    raise AssertionError("asked")


def test_a_single_candidate_is_never_asked_about_as_in_the_original():
    environment = mind2web.Environment(step(1, right=1))
    assert environment.reset() == ""
    assert environment.over and environment.score() == 0.0 and environment.metrics()["in_top_10"] == 1.0


def test_the_sixth_candidate_is_not_asked_about_when_five_are_turned_down():
    environment = opened(step(6))
    assert environment.step("A").done
    assert environment.score() == 0.0


def test_candidates_beyond_the_top_ten_do_not_play():
    environment = opened(step(14))
    seen = set(environment.question.choices)
    while not environment.step("A").done:
        seen |= set(environment.question.choices)
    assert seen == {str(n) for n in range(1, 11)}


@pytest.mark.parametrize("action", ["-", "- | CLICK", "", "B", "hello", "G | CLICK", "b | CLICK", " B | CLICK"])
def test_an_answer_without_a_known_letter_counts_as_none_of_the_above(action: str):
    environment = opened(step(7))
    first = set(environment.question.choices)
    result = environment.step(action)
    if action == "B":  # a letter alone is an answer, without an action
        assert result.valid
        return
    assert not result.valid
    assert not set(environment.question.choices) & first if not environment.over else True
    assert environment.chosen is None


def test_the_letter_of_no_choice_counts_as_none_of_the_above():
    environment = opened(step(4))
    assert environment.question.letters == "ABCDE"
    result = environment.step("F | CLICK")
    assert result.done and not result.valid
    assert environment.score() == 0.0


def test_the_order_of_the_candidates_is_the_items_own_and_not_that_of_play():
    first = opened(step(10)).queue
    opened(step(10) | {"id": "another"})
    assert opened(step(10)).queue == first
    orders = {tuple(opened(step(10) | {"id": f"s{n}"}).queue) for n in range(20)}
    assert len(orders) > 10


def test_reset_begins_again():
    environment = opened(step(5))
    environment.step("B | CLICK")
    assert environment.over
    environment.reset()
    assert not environment.over and environment.chosen is None and environment.asked == 1


# ------------------------------------------------------------------------------------------- answers and replies


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ({"op": "CLICK", "value": "ignored"}, "CLICK"),
        ({"op": "TYPE", "value": " New York \nmore"}, "TYPE New York"),
        ({"op": "SELECT", "value": ""}, "SELECT"),
        ({"op": "HOVER", "value": "x"}, "x"),
    ],
)
def test_the_action_that_is_wanted(operation: dict, action: str):
    assert gold_action(operation) == action


@pytest.mark.parametrize(
    ("predicted", "wanted", "f1"),
    [("CLICK", "CLICK", 1), ("", "", 1), ("", "CLICK", 0), ("TYPE a b", "TYPE b a a", 1), ("TYPE a", "CLICK", 0)],
)
def test_the_action_f1(predicted: str, wanted: str, f1: float):
    assert token_f1(predicted, wanted) == f1


values = st.text(st.characters(exclude_characters="\n"), max_size=40).map(str.strip)


@given(st.sampled_from(["", *"ABCDEF"]), st.sampled_from(["", "CLICK", "SELECT", "TYPE"]), values)
@example("B", "TYPE", "x | y")
@example("B", "TYPE", "-")
@example("", "", "-")
@example("C", "", "| x |")
def test_no_value_breaks_an_answer(letter: str, operation: str, value: str):
    answer = Answer(letter, operation, value)
    assert read_answer(write_answer(answer)) == answer


@given(st.text(max_size=60))
def test_any_text_is_an_action(action: str):
    environment = opened(step(10))
    environment.step(action)
    assert environment.asked >= 1


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Thought: so.\nAnswer: C.\nAction: SELECT\nValue: Pickup", "C | SELECT | Pickup"),
        ("Thought: so.\nAnswer: A.", "A"),
        ("Answer: D.\nAction: CLICK", "D | CLICK"),
        ("Answer: Because\nAction: TYPE\nValue: ", "B | TYPE"),
        ("Action: TYPE\nValue: x", "- | TYPE | x"),
        ("Answer: B. Answer: C. Action: CLICK Action: TYPE", "B | CLICK"),
        ("Answer: B.\nAction: SET\nValue: $5\nValue: $6", "B | - | $5"),
        ("Answer:B\nanswer: C", "-"),
        ("Answer: G.", "-"),
        ("", "-"),
        ("Value: a | b\r\nAnswer: F", "F | - | a | b"),
        ("Value:\nAnswer: F.\nValue:  7 ", "F | - | 7"),
    ],
)
def test_a_reply_is_read_as_the_original_reads_it(reply: str, action: str):
    assert texts.read(reply, 100).action == action


def test_a_long_value_is_cut_and_said_to_be():
    reading = texts.read("Answer: B.\nAction: TYPE\nValue: " + "x" * 50, 20)
    assert reading.action == "B | TYPE | " + "x" * 9 and reading.cut
    assert not texts.read("Answer: B.", 1).cut


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=300) | st.text("Answer: BCTYPEVlu\n|.", max_size=120))
@example("\ud800Answer: B\nValue: \udfff")
def test_reading_never_raises_and_always_gives_an_action(reply: str):
    reading = texts.read(reply, 50)
    assert reading.action and len(reading.action) <= 50


@pytest.mark.parametrize("piece", ["Answer: ", "Value: ", "Action: CLIC", "Answer: B\nValue: x", "\n", " ", "x"])
def test_a_megabyte_is_read_in_no_time(piece: str):
    reply = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    texts.read(reply, 20_000)
    assert time.perf_counter() - start < 1.0


def test_what_is_written_is_read_back_or_refused():
    for action in ("A", "B | CLICK", "F | TYPE | a | b", "C | SELECT | -"):
        assert texts.read(texts.write("so.", action), 100).action == action
    for thought, action in (("so.", "hello"), ("Answer: B", "C | CLICK"), ("so.", "B | TYPE | a\nb")):
        with pytest.raises(ValueError, match="cannot be written"):
            texts.write(thought, action)
    assert texts.read(texts.write("so.", "B | CLICK"), 100).thought == "so."
