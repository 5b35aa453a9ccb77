"""As test_paper_protocol.py, for alfworld, webshop and mind2web."""

from __future__ import annotations

import random

import pytest

from agenttuning.environments import alfworld, mind2web, webshop
from agenttuning.environments.webshop.catalogue import Catalogue, Product
from agenttuning.environments.webshop.reward import guessed_nouns
from agenttuning.episodes import status
from helpers import alfworld_game
from helpers.transcripts import whole

# --- alfworld ---------------------------------------------------------------------------------------------------------

GAME = {"kind": "pick_heat_then_place", "game": alfworld_game.content()}
HOUSE = ["House.", "Fine.", "Here is one example.\nheat room\n", "ACTION: heat\n",
         "Here is your task. You are in the middle of a room. Looking quickly around you, you see a drawer 2, a "
         "drawer 1, a fridge 1, a microwave 1, a shelf 1, a sinkbasin 1, and a table 1.\n"
         "Your task is to: put a hot egg in table."]  # fmt: skip


def test_alfworld_is_shown_what_alfworld_shows(played) -> None:
    """alfworld/task.py, alfworld_run, and utils.py: the demonstration of the task's kind, the first observation without
    its welcome line, no list of actions, "You arrive at loc" left out; the nearest command is played for another.
    """
    turns = [
        ("THOUGHT: the egg.\nACTION: go to table 1\n", "On the table 1, you see a egg 1, a mug 1, and a window 1."),
        ("Action: heat it", "Nothing happens."),  # no ACTION: the whole reply, like no command
        ("", "Nothing happens."),
        ("ACTION: Take Egg 1 From Table 1", "You pick up the egg 1 from the table 1."),
        ("ACTION: GO TO SINKBASIN 1", "On the sinkbasin 1, you see nothing."),
        ("ACTION: please go to microwave", "The microwave 1 is closed."),  # BLEU
        ("ACTION: heat egg 1 with microwave 1\nACTION: look", "You heat the egg 1 using the microwave 1."),
        ("go to table 1", "On the table 1, you see a mug 1, and a window 1."),
        ("ACTION: put egg 1 in/on table 1", "You put the egg 1 in/on the table 1."),
    ]
    shown, record = played("alfworld", alfworld.Environment, GAME, *(said for said, _ in turns))
    conversation = [*HOUSE, *(text for turn in turns for text in turn)]
    assert shown == whole(conversation[:-1], 5)
    assert (record["status"], record["reward"]) == (status.COMPLETED, 1.0)


@pytest.mark.parametrize(
    ("replies", "turns", "ended"),
    [
        (["ACTION: look"] * 9, 4, status.REPETITION),  # from the fourth turn on
        (["a", "ACTION: look", "ACTION: look", "ACTION: look", "b"], 4, status.REPETITION),
        (["ACTION: look", "ACTION: look "] * 20, 35, status.TASK_LIMIT),  # replies are compared, not actions
    ],
)
def test_alfworld_gives_up_after_three_identical_replies_or_35_steps(replies, turns, ended, played) -> None:
    """alfworld_run: `len(log) > 3` and the last three outputs are one; max_step 35 (configs/.../std.yaml)."""
    shown, record = played("alfworld", alfworld.Environment, GAME, *replies)
    assert (len(shown), record["status"], record["reward"]) == (turns, ended, 0.0)


# --- webshop ----------------------------------------------------------------------------------------------------------

GOAL = {"asin": "B1", "instruction": "i want a red mug", "attributes": ["red"], "options": [], "price_upper": 20.0,
        "name": "mug", "query": "mug", "product_category": "kitchen"}  # fmt: skip
SEARCH = ("Observation:\nWebShop [SEP] Instruction: [SEP] i want a red mug [SEP] Search\n\n"
          "Available Actions:\n{'has_search_bar': True, 'clickables': ['search']}")  # fmt: skip
RESULTS = ("Observation:\nInstruction: [SEP] i want a red mug [SEP] Back to Search [SEP] Page 1 (Total results: 1) "
           "[SEP] Next > [SEP] B1 [SEP] red mug [SEP] $9.5\n\n"
           "Available Actions:\n{'has_search_bar': False, 'clickables': ['back to search', 'next >', 'b1']}"
           )  # fmt: skip
ITEM = ("Observation:\nInstruction: [SEP] i want a red mug [SEP] Back to Search [SEP] < Prev [SEP] red mug [SEP] "
        "Price: $9.5 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now\n\n"
        "Available Actions:\n{'has_search_bar': False, 'clickables': ['back to search', '< prev', 'description', "
        "'features', 'reviews', 'buy now']}")  # fmt: skip
SHOP = ["Shop.", "Fine.", "page", "Action: \nsearch[a]"]


def shop(item: dict) -> webshop.Environment:
    product = Product("B1", "red mug", "$9.5", "", [""], {}, ["red"], "kitchen", "mug", "kitchen")
    catalogue = Catalogue([(product, [9.5])], random.Random(0))
    return webshop.Environment(item, catalogue, guessed_nouns)


def test_webshop_is_shown_what_webshop_shows(played) -> None:
    """webshop/__init__.py, predict: page and available actions in every round, as Python prints them; a click that is
    not there changes nothing; the reward is that of the purchase.
    """
    turns = [
        ("Action:\nclick[Buy Now]", SEARCH),
        ("Thought:\nI search.\n\nAction:\nsearch[red mug]", RESULTS),
        ("Action:\nclick[B2]", RESULTS),
        ("action: \n  click[B1] or click[B2]", ITEM),
        ("Action:\nclick[buy now]", ""),
    ]
    shown, record = played("webshop", shop, GOAL, *(said for said, _ in turns))
    assert shown == whole([*SHOP, SEARCH, *(text for turn in turns for text in turn)][:-1], 5)
    assert record["status"] == status.COMPLETED and record["reward"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("reply", "turns", "ended"),
    [
        ("Action: search[red mug]", 1, status.INVALID_FORMAT),  # on one line
        ("", 1, status.INVALID_FORMAT),
        ("Action:\nsearch[red mug]", 10, status.TASK_LIMIT),
    ],
)
def test_webshop_gives_nothing_for_what_is_not_bought(reply, turns, ended, played) -> None:
    """predict: no action ends it with reward 0; ten rounds; the reward of a round that buys nothing is 0."""
    shown, record = played("webshop", shop, GOAL, *[reply] * 11)
    assert (len(shown), record["status"], record["reward"]) == (turns, ended, 0.0)


# --- mind2web ---------------------------------------------------------------------------------------------------------


def page(filler: str = "x") -> str:
    buttons = "".join(f'<button backend_node_id="{n}" name="b{n}"/>' for n in range(1, 7))
    return f'<html backend_node_id="0"><div backend_node_id="99"><text>{filler}</text>{buttons}</div></html>'


def ranked(*numbers: int) -> list[list]:
    return [[str(number), number - 1] for number in numbers]


STEP = {
    "task": "press three", "previous_actions": [f"[a] {n} -> CLICK" for n in range(6)], "html": page(),
    "positive": ranked(3), "negative": ranked(1, 2, 4, 5, 6), "operation": {"op": "TYPE", "value": "New York"},
}  # fmt: skip


def question(numbers: list[int]) -> str:
    """dataloader.py, format_input_multichoice, and the message of task.py: elements in the order of the page."""
    ids = {number: f" id={place}" for place, number in enumerate(sorted(numbers))}
    tags = {number: f"<button{ids.get(number, '')} b{number} />" for number in range(1, 7)}
    choices = "\n".join(f"{letter}. {tags[number]}" for letter, number in zip("BCDEF", ids, strict=False))
    return (
        f"'''\n<html><div>x{''.join(tags.values())}</div></html>\n'''\n\n"
        "Based on the HTML webpage above, try to complete the following task:\nTask: press three\nPrevious actions:\n"
        + "".join(f"[a] {n} -> CLICK\n" for n in range(1, 6))
        + "What should be the next action? Please select from the following choices (If the correct action is not in "
        f"the page above, please select A. 'None of the above'):\n\nA. None of the above\n{choices}"
    )


def test_mind2web_asks_in_sessions_of_their_own_until_one_is_left(played) -> None:
    """mind2web/task.py, predict_single: `session.history = []` before each question; the chosen element goes to the end
    of the queue; the prediction is the last choice, scored as step success.
    """
    environment = mind2web.Environment({"id": "mind2web_0", **STEP})
    environment.reset()
    first = [int(number) for number in environment.question.choices]
    (last,) = set(range(1, 7)) - set(first)
    choice = "BCDEF"[sorted(first).index(3)] if 3 in first else "B"
    winner = 3 if 3 in first else sorted(first)[0]
    second = "BC"[sorted([last, winner]).index(3)]
    right = "Action: TYPE\nValue: New York "
    shown, record = played(
        "mind2web", mind2web.Environment, STEP, f"Answer: {choice}.\nAction: CLICK", f"so\nAnswer: {second}\n{right}"
    )
    opening = ["page 1", "Answer: B."]
    assert shown == [[*opening, question(first)], [*opening, question([last, winner])]]
    assert record["metrics"] == {"element_accuracy": 1.0, "action_f1": 1.0, "step_success": 1.0, "in_top_10": 1.0}


def test_mind2web_leaves_a_page_out_that_is_too_long_as_the_original_does(played) -> None:
    """agent.py, filter_messages: a question of 3,500 segments is dropped, and the model sees the first demonstration
    and the notice. postprocess_action_llm: a reply without an answer is A, so nobody is left.
    """
    long = {**STEP, "html": page(" ".join(["!" * 200] * 20))}
    shown, record = played("mind2web", mind2web.Environment, long, "", "")
    assert shown == [["page 1\n\n[NOTICE] 2 messages are omitted."]], "after five are turned down one is left, unasked"
    assert record["reward"] == 0.0 and record["metrics"]["action_f1"] == 0.0


def test_mind2web_counts_a_step_whose_element_is_not_among_the_ten(played) -> None:
    """predict_single and metric: nothing is asked, the prediction is empty, and the step is in every mean."""
    step = {**STEP, "positive": [["3", 10]], "negative": ranked(1, 2)}
    shown, record = played("mind2web", mind2web.Environment, step)
    assert shown == [] and record["status"] == status.COMPLETED
    assert record["metrics"] == {"element_accuracy": 0.0, "action_f1": 0.0, "step_success": 0.0, "in_top_10": 0.0}
