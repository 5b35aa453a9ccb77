"""Prompts are read from the user's rows or checkout, whole and in order, or refused; nothing of a checkout is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.environments import HELD_IN
from agenttuning.errors import UserError
from agenttuning.protocols import checkout, prompts
from helpers import agentbench_checkout

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample"


def row(first: str, *, demonstration: int = 0, loss=True, acknowledged: str = "Fine.") -> dict:
    turns = [("human", None, "Do as told."), ("gpt", False, acknowledged)]
    for number in range(demonstration):
        turns += [("human", None, f"shown {number}"), ("gpt", False, f"done {number}")]
    turns += [("human", None, first), ("gpt", loss, "I act."), ("human", None, "more"), ("gpt", loss, "again")]
    return {"id": "x_1", "conversations": [{"from": who, "loss": flag, "value": text} for who, flag, text in turns]}


def test_the_prompt_is_what_the_rows_share_before_the_observation() -> None:
    rows = [row(f"Something new:\n\nproblem {number}\n\nmore of it", demonstration=2) for number in range(3)]
    prompt = prompts.from_rows("os", rows, "here")
    assert [message["content"] for message in prompt.messages] == [
        "Do as told.", "Fine.", "shown 0", "done 0", "shown 1", "done 1"
    ]  # fmt: skip
    assert prompt.lead == "Something new:\n\n" and not any(message["loss"] for message in prompt.messages)
    opening = prompt.opening("how many?")
    assert opening[-1] == {"role": "user", "content": "Something new:\n\nhow many?", "loss": False}
    assert [message["role"] for message in prompt.messages] == ["user", "assistant"] * 3


def test_tasks_without_a_lead_have_none() -> None:
    assert prompts.from_rows("db", [row("Which: a?\n\nb")], "here").lead == ""


def test_rows_that_disagree_are_refused_and_a_few_edited_ones_are_not() -> None:
    rows = [row("a: b") for _ in range(9)] + [row("a: b", acknowledged="Sure.")]
    assert prompts.from_rows("kg", rows, "here").messages[1]["content"] == "Fine."
    with pytest.raises(UserError, match="open in 2 ways"):
        prompts.from_rows("kg", rows[-3:], "here")


@pytest.mark.parametrize("bad", [{}, {"conversations": None}, {"conversations": [{"from": "gpt"}]}, "text", None])
def test_rows_without_a_trained_reply_give_no_prompt(bad) -> None:
    with pytest.raises(UserError, match="no row of db"):
        prompts.from_rows("db", [bad, row("x", loss=False)], "here")


def test_a_row_whose_turns_do_not_alternate_gives_no_prompt() -> None:
    twice = row("x")
    twice["conversations"].insert(1, twice["conversations"][0])
    with pytest.raises(UserError, match="no row of db"):
        prompts.from_rows("db", [twice], "here")


def test_a_folder_without_the_task_says_what_it_wants(tmp_path) -> None:
    with pytest.raises(UserError, match="neither db.jsonl nor a checkout"):
        prompts.load("db", tmp_path)


def test_a_folder_of_rows_is_read_by_task(tmp_path) -> None:
    for task in ("kg", "db"):
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(row(f"{task}: what?")) + "\n")
    assert prompts.load("kg", tmp_path)({}).lead == "kg: "
    assert prompts.load("db", tmp_path / "db.jsonl")({}).lead == ""


@pytest.mark.parametrize("task", HELD_IN)
def test_the_real_rows_give_each_task_its_prompt(task) -> None:
    if not SHARED.exists():
        pytest.skip("the sample rows of AgentInstruct are not beside this checkout")
    prompt = prompts.load(task, SHARED)({})
    assert len(prompt.messages) == {"os": 6, "kg": 18, "mind2web": 0}.get(task, 2)
    assert prompt.lead.endswith({"os": "problem is:\n\n", "kg": "question: ", "alfworld": "task. "}.get(task, ""))


@pytest.fixture
def agentbench(tmp_path) -> Path:
    return agentbench_checkout.write(tmp_path)


@pytest.mark.parametrize("task", HELD_IN)
@pytest.mark.parametrize("inside", [False, True])
def test_a_checkout_gives_the_prompts_of_the_evaluation(task, inside, agentbench) -> None:
    place = agentbench
    if inside:  # AgentTuning's repository has it in a folder
        place = agentbench.parent / f"{agentbench.name}-outer"
        place.mkdir()
        (place / "AgentBench.old").symlink_to(agentbench)
    prompt = prompts.load(task, place)({"kind": "pick_heat_then_place_in_recep"})
    texts, lead = agentbench_checkout.WANTED[task]
    assert [message["content"] for message in prompt.messages] == texts and prompt.lead == lead
    assert [message["role"] for message in prompt.messages] == ["user", "assistant"] * (len(texts) // 2)
    assert not any(message["loss"] for message in prompt.messages)


@pytest.mark.parametrize("task", [task for task in HELD_IN if task != "mind2web"])
@pytest.mark.parametrize("text", ["", "x = (", "def f(session):\n    session.inject({'role': 'user'})\n"])
def test_a_checkout_of_another_shape_is_refused(task, text, agentbench) -> None:
    (agentbench / checkout.SOURCES[task][0]).write_text(text)
    with pytest.raises(UserError, match="not shaped as at AgentBench's first commit"):
        prompts.load(task, agentbench)


def test_a_checkout_without_the_file_names_it(agentbench) -> None:
    (agentbench / checkout.SOURCES["mind2web"][0]).unlink()
    with pytest.raises(UserError, match="llm_prompt_cot.json is not there"):
        prompts.load("mind2web", agentbench)
