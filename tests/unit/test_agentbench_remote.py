"""The client of AgentBench's v0.2 controller, against a double of it that is written from the contract."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments import agentbench_remote as remote
from agenttuning.episodes import status
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.protocols import Decoding, Limits, Protocol, TaskRules, raw
from helpers.controller_double import controller

TASK = "dbbench-std"
PROTOCOL = Protocol(
    name="v0.2",
    version=1,
    decoding=Decoding(max_new_tokens=16, temperature=0.0),
    limits=Limits(repetition=None, invalid_in_a_row=None, action_chars=1000),
    void_above=0.2,
    tasks={
        "db": TaskRules(
            max_turns=20, n=4, seed=0, group="held_in", metric="success_rate", format="raw", unfinished="score"
        )
    },
)
FAST = {"answer_s": 20.0, "patience_s": 2.0, "wait_s": 0.02}


@pytest.fixture
def server():
    with controller() as state:
        yield state


def says(*replies: str):
    """A policy that gives these replies in turn, and the last one for ever."""
    return lambda turns: [replies[min(turn.number, len(replies) - 1)] for turn in turns]


def played(server, policy, count: int = 1, **settings: float) -> list[dict]:
    items = remote.items(server.url, TASK)[:count]
    with remote.serve(server.url, TASK, "db", **{**FAST, **settings}) as room:
        return play(
            room, items, policy, PROTOCOL, raw.prompts, model="m", seed=0, retries=0, wait_s=0.0, progress=False
        )


def opened(server, **settings: float) -> remote.Environment:
    client = remote.Client(server.url, **{**FAST, **settings})
    environment = remote.Environment(client, TASK, "db", {"id": "x", "index": 0})
    environment.reset()
    return environment


# ------------------------------------------------------------------------------------------------ whole episodes


def test_an_episode_is_played_and_scored_by_the_server(server):
    (record,) = played(server, says("go", "done"))
    assert (record["status"], record["reward"]) == (status.COMPLETED, 1.0)
    assert record["metrics"] == {"agentbench_status": "completed"}
    assert [(message["role"], message["content"], message["loss"]) for message in record["messages"]] == [
        ("user", "Count.", False),
        ("assistant", "Ok.", False),
        ("user", "Go 1 times.", False),
        ("assistant", "go", True),
        ("user", "At 1.", False),
        ("assistant", "done", True),
    ]
    assert record["backend"] == "agentbench-v0.2"
    assert server.paths() == ["/start_sample", "/interact", "/interact", "/calculate_overall"]
    assert server.requests[-1][1]["results"][0]["index"] == 0
    assert server.sessions == {}


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        ("go", status.TASK_LIMIT),
        ("bad", status.INVALID_ACTION),
        ("odd", status.INVALID_FORMAT),
        ("lost", status.TASK_LIMIT),
    ],
)
def test_the_servers_end_is_the_records_and_the_server_scores_it(server, reply: str, ended: str):
    (record,) = played(server, says(reply))
    assert (record["status"], record["reward"]) == (ended, 0.0)
    assert server.paths()[-1] == "/calculate_overall"
    assert "/cancel" not in server.paths()


def test_a_lost_sample_scores_nothing(server):
    (record,) = played(server, says("done"))
    assert (record["status"], record["reward"]) == (status.COMPLETED, 0.0)


def test_all_samples_are_played_side_by_side(server):
    def counts(turns):
        goals = [int(turn.messages[2]["content"].split()[1]) for turn in turns]
        return ["go" if turn.number < goal else "done" for turn, goal in zip(turns, goals, strict=True)]

    records = played(server, counts, count=4)
    assert [record["item"] for record in records] == [f"{TASK}_{index}" for index in (0, 1, 2, "three")]
    assert [record["reward"] for record in records] == [1.0] * 4
    assert server.sessions == {}


def test_a_start_is_repeated_while_no_worker_is_free(server):
    server.busy = 3
    (record,) = played(server, says("go", "done"))
    assert record["reward"] == 1.0
    assert server.paths().count("/start_sample") == 4


def test_a_start_without_a_free_worker_ends_at_last_as_infrastructure(server):
    server.busy = 1_000_000
    (record,) = played(server, says("go"), patience_s=0.2)
    assert (record["status"], record["reward"]) == (status.ENVIRONMENT_ERROR, None)
    assert "no worker of dbbench-std was free" in record["error"]
    assert server.paths().count("/start_sample") > 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("boom", "answered 501"),
        ("gone", "answered 400"),
        ("wait", "ReadTimeout"),
        ("drip", "still answering"),
        ("die", "/interact"),
        ("junk", "not JSON"),
        ("huge", "more than 16,777,216 bytes"),
        ("again", "began a new conversation"),
        ("broken", "ended as 'task error'"),
    ],
)
def test_a_failure_of_the_server_is_infrastructure_and_the_reply_is_sent_once(server, reply: str, error: str):
    start = time.monotonic()
    (record,) = played(server, says("go", reply), answer_s=0.5 if reply in ("wait", "drip") else 20.0)
    assert (record["status"], record["reward"]) == (status.ENVIRONMENT_ERROR, None)
    assert error in record["error"]
    replies = [body["agent_response"]["content"] for path, body in server.requests if path == "/interact"]
    assert replies == ["go", reply]
    assert "/calculate_overall" not in server.paths()
    assert time.monotonic() - start < 5.0


def test_a_server_that_dies_in_the_middle_ends_the_episodes_as_infrastructure(server):
    def dies(turns):
        if turns[0].number == 1:
            server.stop()
        return ["die" if turn.number == 1 else "go" for turn in turns]

    (record,) = played(server, dies)
    assert (record["status"], record["reward"]) == (status.ENVIRONMENT_ERROR, None)


def test_an_episode_that_the_model_cannot_end_is_cancelled(server):
    def fails(turns):
        if turns[0].number == 1:
            raise OSError("the model is gone")
        return ["go"] * len(turns)

    (record,) = played(server, fails)
    assert record["status"] == status.AGENT_ERROR
    assert server.paths() == ["/start_sample", "/interact", "/cancel"]
    assert server.sessions == {}


# ------------------------------------------------------------------------------------------ the environment alone


@pytest.mark.parametrize(
    ("replies", "said", "ours"),
    [
        (["go", "done"], "completed", status.COMPLETED),
        (["go"] * 5, "task limit reached", status.TASK_LIMIT),
        (["bad"], "agent invalid action", status.INVALID_ACTION),
        (["odd"], "agent validation failed", status.INVALID_FORMAT),
        (["lost"], "unknown", status.TASK_LIMIT),
    ],
)
def test_the_servers_ends_have_names_here(server, replies: list[str], said: str, ours: str):
    environment = opened(server)
    assert environment.ended is None
    for reply in replies:
        step = environment.step(reply)
    assert step.done and environment.over
    assert step.valid == (said != "agent invalid action")
    assert environment.metrics() == {"agentbench_status": said}
    assert environment.ended == ours
    environment.close()
    assert "/cancel" not in server.paths()


def test_the_names_are_those_of_the_statuses():
    for said, ours in remote.ENDS.items():
        assert ours in status.MODEL
        assert said == "unknown" or status.AGENTBENCH[ours] == said


def test_a_full_context_is_told_to_the_server(server):
    environment = opened(server)
    assert environment.context_limit().done
    assert environment.ended == status.CONTEXT_LIMIT
    assert server.requests[-1][1]["agent_response"] == {"status": "agent context limit", "content": None}


def test_closing_cancels_a_session_that_runs_and_only_once(server):
    environment = opened(server)
    assert len(server.sessions) == 1
    environment.close()
    environment.close()
    assert server.sessions == {}
    assert server.paths().count("/cancel") == 1
    environment.reset()
    environment.reset()
    assert len(server.sessions) == 1


def test_a_cancel_that_fails_is_said(server):
    environment = opened(server)
    server.sessions.clear()
    with pytest.raises(remote.ServerError, match="/cancel at .* answered 400"):
        environment.close()


def test_an_index_out_of_bounds_is_not_asked_for_twice(server):
    environment = remote.Environment(remote.Client(server.url, **FAST), TASK, "db", {"id": "x", "index": 99})
    with pytest.raises(remote.ServerError, match="Index out of bounds"):
        environment.reset()
    assert server.paths() == ["/start_sample"]


@pytest.mark.parametrize(
    "output",
    [
        None,
        3,
        {"status": "running", "history": None},
        {"status": "running", "history": 3},
        {"status": "running", "history": [3]},
        {"status": "running", "history": [{"role": "agent", "content": "x"}]},
        {"status": "running", "history": [{"role": "user", "content": None}]},
        {"status": "running", "history": [{"role": "user"}]},
        {"status": "running", "history": [{"role": "user", "content": "x"}, {"role": "agent", "content": "y"}]},
        {"status": "task error", "history": []},
        {"status": "of another kind", "history": []},
    ],
)
def test_an_answer_of_another_form_is_infrastructure(server, output):
    environment = remote.Environment(remote.Client(server.url, **FAST), TASK, "db", {"id": "x", "index": 0})
    server.start_as = {"index": 0, **output} if isinstance(output, dict) else output
    if output is None:
        server.start_as = []
    with pytest.raises(remote.ServerError):
        environment.reset()


def test_a_sample_that_is_over_at_once_is_said_to_be(server):
    environment = remote.Environment(remote.Client(server.url, **FAST), TASK, "db", {"id": "x", "index": 0})
    server.start_as = {"index": 0, "status": "unknown", "result": None, "history": None}
    environment.reset()
    assert environment.over and environment.ended == status.TASK_LIMIT
    server.overall = {"SELECT_accuracy": 0, "INSERT_accuracy": 0, "UPDATE_accuracy": 0}
    (record,) = played(server, says("never asked"))
    assert (record["status"], record["reward"], record["turns"]) == (status.TASK_LIMIT, 0.0, 0)


@pytest.mark.parametrize(
    ("kind", "found", "reward"),
    [
        ("os", {"overall": {"total": 1, "pass": 1, "acc": 1.0}}, 1.0),
        ("db", {"SELECT_accuracy": 0, "INSERT_accuracy": 0, "UPDATE_accuracy": 1.0, "overall_cat_accuracy": 0.33}, 1.0),
        ("kg", {"main": 0.4, "F1": 0.4}, 0.4),
        ("alfworld", {"overall": {"success_rate": 0.0}}, 0.0),
        ("webshop", {"reward": 0.75}, 0.75),
    ],
)
def test_each_tasks_main_metric_is_its_reward(server, kind: str, found: dict, reward: float):
    environment = opened(server)
    environment.kind = kind
    assert environment.score() == 0.0
    environment.step("done")
    server.overall = found
    assert environment.score() == reward


@pytest.mark.parametrize("found", [{}, {"main": None}, {"main": "x"}, {"main": float("nan")}])
def test_metrics_of_another_form_are_infrastructure(server, found: dict):
    environment = opened(server)
    environment.kind = "kg"
    environment.step("done")
    server.overall = found
    with pytest.raises(remote.ServerError):
        environment.score()


# ------------------------------------------------------------------------------------------------ room and format


def test_a_room_has_as_many_slots_as_the_workers(server):
    with remote.serve(server.url, TASK, "db") as room:
        assert (room.task, room.slots, room.isolation) == ("db", 4, "thread")
        assert not room.backend.comparable
    assert [item["index"] for item in remote.items(server.url + "/", TASK)] == [0, 1, 2, "three"]


def test_what_is_not_there_is_said_before_anything_is_played(server):
    with pytest.raises(UserError, match="no living worker of 'kg-std'; it knows dbbench-std"):
        remote.items(server.url, "kg-std")
    with (
        pytest.raises(UserError, match="reward of 'mind2web' is not known"),
        remote.serve(server.url, TASK, "mind2web"),
    ):
        pass
    server.capacity = 0
    with pytest.raises(UserError, match="no living worker"), remote.serve(server.url, TASK, "db"):
        pass
    address = server.url.replace("/api", "/elsewhere")
    with pytest.raises(UserError, match="start_task"), remote.serve(address, TASK, "db"):
        pass
    with pytest.raises(UserError, match="no controller"), remote.serve("http://127.0.0.1:9/api", TASK, "db"):
        pass


def test_the_server_has_no_expert(server):
    environment = opened(server)
    assert environment.actions() == []
    with pytest.raises(UserError, match="no expert"):
        environment.oracle()


@given(st.text(), st.integers(1, 30))
def test_a_reply_is_the_action_as_it_is(reply: str, most: int):
    reading = raw.read(reply, most)
    assert reading.action == reply[:most]
    assert reading.cut == (len(reply) > most)


def test_the_conversation_of_the_server_opens_the_episode():
    history = [{"role": "user", "content": "a"}, {"role": "agent", "content": "b"}, {"role": "user", "content": "c"}]
    opening = raw.prompts({}).opening(json.dumps(history))
    assert [(m["role"], m["content"], m["loss"]) for m in opening] == [
        ("user", "a", False),
        ("assistant", "b", False),
        ("user", "c", False),
    ]
    assert raw.prompts({}).source == "the server"
    assert raw.write("ignored", "text") == "text"
    with pytest.raises(ValueError, match="no action"):
        raw.write("", "")
