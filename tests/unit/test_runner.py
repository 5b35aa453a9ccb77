"""Every status is reached, infrastructure is never scored, and a batch plays as one by one."""

from __future__ import annotations

import logging

import pytest

from agenttuning.environments import room
from agenttuning.episodes import status
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import EpisodeStore
from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit
from agenttuning.policies.expert import expert
from agenttuning.policies.replay import replay
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own
from agenttuning.scoring.scores import score_task
from helpers import toy_task


def run(policy, items=None, **settings) -> list[dict]:
    items = toy_task.items("test", 4, 0) if items is None else items
    defaults = {"model": "m", "seed": 0, "wait_s": 0.0, "progress": False}
    return play(room(toy_task), items, policy, toy_task.PROTOCOL, own(toy_task), **{**defaults, **settings})


def says(*replies):
    """A policy that gives the same replies, turn by turn, in every episode."""
    return lambda turns: [replies[min(turn.number, len(replies) - 1)] for turn in turns]


def one(policy, **item) -> dict:
    return run(policy, [{"id": "toy_0", "target": 5, **item}], retries=1)[0]


def different(turns):
    return [f"Action: sub {turn.number}" for turn in turns]


def counting(turns):
    return [f"Thought: {turn.number}\nAction: add 0" for turn in turns]


@pytest.mark.parametrize(
    ("policy", "item", "wanted", "turns"),
    [
        (says("Action: add 9"), {}, status.COMPLETED, 1),
        (counting, {}, status.TASK_LIMIT, 6),
        (says("Thought: hm"), {}, status.INVALID_FORMAT, 1),
        (says(""), {}, status.INVALID_FORMAT, 1),
        (different, {}, status.INVALID_ACTION, 4),
        (says("Action: add 0"), {}, status.REPETITION, 3),
        (says("I'm sorry, I cannot do this."), {}, status.REFUSAL, 1),
        (says("Action: add 1", ContextLimit(100, 90)), {}, status.CONTEXT_LIMIT, 1),
        (says(None), {}, status.AGENT_ERROR, 0),
        (expert, {"breaks": "reset"}, status.ENVIRONMENT_ERROR, 0),
        (expert, {"breaks": "step"}, status.ENVIRONMENT_ERROR, 1),
        (says("Action: add 9"), {"breaks": "score"}, status.ENVIRONMENT_ERROR, 1),
    ],
)
def test_status(policy, item, wanted, turns) -> None:
    record = one(policy, **item)
    assert (record["status"], record["turns"]) == (wanted, turns)
    assert record["reward"] == (0.0 if status.is_result(wanted) else None)
    assert (record["error"] is not None) == (not status.is_result(wanted))


def test_the_last_of_equal_replies_is_played_and_may_win() -> None:
    won = one(says("Action: add 1"), target=3)
    assert (won["status"], won["reward"]) == (status.COMPLETED, 1.0)
    assert one(says("Action: add 1"), target=4)["status"] == status.REPETITION


def test_an_invalid_action_is_reported_and_the_episode_goes_on() -> None:
    record = one(says("Action: sub 1", "Action: add 2", "Action: add 1"), target=3)
    assert record["reward"] == 1.0
    assert [step["valid"] for step in record["steps"]] == [False, True, True]
    assert [m["content"] for m in record["messages"]][3:6] == ["Action: sub 1", "No.", "Action: add 2"]


def test_the_record_ends_with_the_last_reply() -> None:
    record = one(expert, target=2)
    assert [m["role"] for m in record["messages"]] == ["user", "assistant", "user", "assistant", "user", "assistant"]
    assert [m["loss"] for m in record["messages"]] == [False, False, False, True, False, True]
    assert record["last"] == "At 2."


def test_the_environment_gets_at_most_the_allowed_characters() -> None:
    record = one(says("Action: add " + "9" * 1000, "Action: add 9"))
    assert record["steps"][0] == {"action": "add " + "9" * 16, "valid": False, "cut": True, "error": None}


def test_a_lone_surrogate_becomes_text() -> None:
    record = one(says("Action: \ud800", "Action: add 9"))
    assert record["messages"][3]["content"] == "Action: ?"


def test_a_failing_close_does_not_change_the_result() -> None:
    record = one(says("Action: add 9"), target=9, breaks="close")
    assert record["reward"] == 1.0
    assert "close" in record["error"]


def test_infrastructure_is_never_scored_as_wrong() -> None:
    items = toy_task.items("test", 8, 0)
    good = score_task(run(expert, items), toy_task.PROTOCOL)
    items[0]["breaks"] = "step"
    mixed = score_task(run(expert, items), toy_task.PROTOCOL)
    assert (good["score"], good["n"], good["lost"]) == (100.0, 8, 0)
    assert (mixed["score"], mixed["n"], mixed["lost"]) == (100.0, 7, 1)
    for item in items[:2]:
        item["breaks"] = "reset"
    void = score_task(run(expert, items), toy_task.PROTOCOL)
    assert void["score"] is None
    assert "2 of 8" in void["void"]


def test_a_poisonous_turn_does_not_take_its_neighbours_along(caplog) -> None:
    asked = []

    def policy(turns):
        asked.append(len(turns))
        if any(turn.item == "toy_test_1" for turn in turns):
            raise RuntimeError("cannot encode this")
        return expert(turns)

    with caplog.at_level(logging.WARNING):
        records = run(policy, retries=1)
    assert [record["status"] for record in records] == ["completed", "agent_error", "completed", "completed"]
    assert records[1]["error"] == "RuntimeError: cannot encode this"
    assert asked[:6] == [4, 4, 1, 1, 1, 1]
    assert "attempt 2 of 2" in caplog.text


def test_a_policy_that_comes_back_is_waited_for() -> None:
    failures = [ConnectionError("down"), ConnectionError("down")]

    def policy(turns):
        if failures:
            raise failures.pop()
        return expert(turns)

    assert [record["status"] for record in run(policy, retries=2)][:2] == ["completed", "completed"]


def test_a_dead_policy_is_not_asked_for_every_turn() -> None:
    asked = []

    def policy(turns):
        asked.append(len(turns))
        raise ConnectionError("down")

    records = run(policy, toy_task.items("test", 50, 0), retries=2)
    assert {record["status"] for record in records} == {status.AGENT_ERROR}
    assert len(asked) == 3 + 3
    assert score_task(records, toy_task.PROTOCOL)["void"]


@pytest.mark.parametrize("answer", [[], ["x"] * 5, None, [3] * 4])
def test_a_policy_with_a_wrong_answer_is_an_agent_error(answer) -> None:
    assert {record["status"] for record in run(lambda turns: answer, retries=0)} == {status.AGENT_ERROR}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no such checkpoint")])
def test_an_interruption_is_recorded_as_cancelled_and_played_on_resume(tmp_path, error) -> None:
    def policy(turns):
        if turns[0].number == 2:
            raise error
        return expert(turns)

    items = toy_task.items("test", 4, 0)
    with EpisodeStore(tmp_path) as store, pytest.raises(type(error)):
        run(policy, items, store=store)
    lines = [record["status"] for record in _read(tmp_path)]
    assert sorted(lines) == ["cancelled", "cancelled", "completed", "completed"]
    with EpisodeStore(tmp_path) as store:
        resumed = run(teacher(0.0, 0.0, 0), items, store=store)
    assert resumed == run(teacher(0.0, 0.0, 0), items)
    assert len(_read(tmp_path)) == 6


def _read(folder):
    from agenttuning.episodes.store import FILE, read

    return read(folder / FILE)


@pytest.mark.parametrize("width", [1, 3, 160])
def test_a_batch_plays_as_one_by_one(width) -> None:
    items = toy_task.items("test", 12, 0)
    policy = teacher(slip=0.4, give_up=0.1, seed=3)
    alone = [run(policy, [item])[0] for item in items]
    assert run(policy, items, width=width) == alone
    assert len({record["status"] for record in alone}) >= 2


def test_a_replay_gives_the_same_episodes() -> None:
    records = run(teacher(slip=0.4, give_up=0.1, seed=3))
    assert run(replay(records)) == records
    missing = run(replay(records[:1]), retries=0)
    assert [record["status"] for record in missing[1:]] == [status.AGENT_ERROR] * 3


def test_equal_item_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        run(expert, [{"id": "a", "target": 1}] * 2)


def test_environments_are_closed(monkeypatch) -> None:
    made = []
    original = toy_task.Environment.__init__
    monkeypatch.setattr(
        toy_task.Environment, "__init__", lambda self, item: (original(self, item), made.append(self))[0]
    )
    run(teacher(slip=0.4, give_up=0.1, seed=3))
    assert len(made) == 4
    assert all(environment.closed for environment in made)


def test_every_status_has_a_side_and_an_agentbench_name() -> None:
    names = {value for name, value in vars(status).items() if name.isupper() and isinstance(value, str)}
    assert names == {*status.MODEL, *status.INFRASTRUCTURE} == set(status.AGENTBENCH)
    assert not set(status.MODEL) & set(status.INFRASTRUCTURE)
    with pytest.raises(ValueError, match="unknown status"):
        status.is_result("finished")
