"""Every status is reached, infrastructure is never scored, and a batch plays as one by one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import zlib
from collections import Counter
from dataclasses import replace

import pytest

from agenttuning.environments import EMBEDDED, Room, room
from agenttuning.episodes import status
from agenttuning.episodes import store as store_module
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import EpisodeStore
from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, GaveUp, Turn
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


def test_a_lone_surrogate_of_an_environment_becomes_text() -> None:
    class Broken(toy_task.Environment):
        def reset(self) -> str:
            return super().reset() + "\ud800"

        def step(self, action: str):
            return replace(super().step(action), observation="\udfff")

    for isolation in ("inline", "thread"):
        (record,) = played_in(isolation, expert, [{"id": "a", "target": 2}], make=Broken)
        assert [record["messages"][2]["content"], record["messages"][4]["content"]] == ["Count to 2.?", "?"]
        assert record["last"] == "?"


def test_what_waits_for_the_disk_when_the_run_is_stopped_is_a_result(tmp_path, monkeypatch) -> None:
    fsync = os.fsync
    monkeypatch.setattr(store_module.os, "fsync", lambda handle: (time.sleep(0.3), fsync(handle)))

    class Stops(Waits):
        async def ask(self, turn: Turn) -> str:
            if turn.item == "toy_1":
                await asyncio.sleep(0.1)
                raise UserError("stop")
            return "Action: add 9"

    with EpisodeStore(tmp_path) as store, pytest.raises(UserError, match="stop"):
        run(Stops(), many(3), store=store, width=3)
    assert sorted((line["item"], line["status"]) for line in _read(tmp_path)) == [
        ("toy_0", status.COMPLETED), ("toy_1", status.CANCELLED), ("toy_2", status.COMPLETED)
    ]  # fmt: skip


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


class Waits:
    """A policy that waits for something, as long as it likes, and answers by the conversation alone."""

    def __init__(self, slots: int | None = None) -> None:
        self.slots, self.now, self.most, self.asked = slots, 0, 0, 0

    async def ask(self, turn: Turn) -> str:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        drawn = zlib.crc32(json.dumps([turn.messages, turn.item]).encode())
        for _ in range(1 + (drawn + self.asked) % 5):
            await asyncio.sleep(0.001 * (self.asked % 3))
        self.now -= 1
        return f"Thought: {drawn % 7}\nAction: add {drawn % 4}"


def many(n: int = 40) -> list[dict]:
    return [{"id": f"toy_{number}", "target": 1 + number % 9} for number in range(n)]


def test_records_are_equal_byte_for_byte_at_any_concurrency() -> None:
    whole = json.dumps(run(Waits(slots=1), many(), width=1))
    assert len({(r["status"], r["turns"]) for r in json.loads(whole)}) >= 5
    for width, slots in ((160, None), (160, 3), (7, 160), (2, 1)):
        policy = Waits(slots)
        assert json.dumps(run(policy, many(), width=width)) == whole
        assert policy.most == min(width, slots or width, 40)


class Counting(toy_task.Environment):
    """Counts how many are open, and in which threads they are called."""

    now = most = 0
    threads: set[int] = set()  # noqa: RUF012
    lock = threading.Lock()

    def __init__(self, item: dict) -> None:
        super().__init__(item)
        with self.lock:
            Counting.now += 1
            Counting.most = max(self.most, self.now)
            self.thread = threading.get_ident()
            self.threads.add(self.thread)

    def step(self, action: str):
        assert threading.get_ident() == self.thread
        return super().step(action)

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        with self.lock:
            Counting.now -= 1
        super().close()


@pytest.fixture
def counted():
    Counting.now = Counting.most = 0
    Counting.threads.clear()
    return Counting


def played_in(isolation: str, policy, items: list[dict], slots: int | None = None, make=Counting, **settings):
    defaults = {"model": "m", "seed": 0, "wait_s": 0.0, "progress": False, **settings}
    return play(
        Room("toy", EMBEDDED, make, isolation, slots), items, policy, toy_task.PROTOCOL, own(toy_task), **defaults
    )


def test_environments_and_questions_have_slots_of_their_own(counted) -> None:
    policy = Waits(slots=2)
    played_in("inline", policy, many(), slots=9)
    assert (counted.most, counted.now, policy.most) == (9, 0, 2)


def test_threads_play_as_inline_and_each_environment_keeps_its_own(counted) -> None:
    for policy in (Waits(), expert, teacher(slip=0.4, give_up=0.1, seed=3)):
        whole = run(policy, many())
        counted.threads.clear()
        assert played_in("thread", policy, many(), slots=16) == whole
        assert threading.get_ident() not in counted.threads
        assert counted.now == 0
    assert counted.most <= 16


def test_processes_play_as_inline() -> None:
    items = many(4)
    for policy in (Waits(), teacher(slip=0.4, give_up=0.1, seed=3)):
        assert played_in("process", policy, items, slots=2, make=toy_task.Environment) == run(policy, items)


def test_an_unknown_isolation_is_refused() -> None:
    with pytest.raises(ValueError, match="isolation 'docker'"):
        played_in("docker", expert, many(1))


def in_lock_step(policy, items: list[dict], width: int) -> list[list[tuple[str, int]]]:
    """The turns that a plain loop would ask for together: every live episode once a round, in the order of items."""
    whole = {record["item"]: record["turns"] for record in run(policy, items)}
    pending, live, rounds = list(items), [], []
    while pending or live:
        while pending and len(live) < width:
            live.append([pending.pop(0)["id"], 0])
        rounds.append([tuple(entry) for entry in live])
        live = [[name, number + 1] for name, number in live if number + 1 < whole[name]]
    return rounds


@pytest.mark.parametrize("width", [1, 7, 40, 160])
def test_a_policy_in_this_process_is_asked_in_lock_step(tmp_path, width) -> None:
    inner, asked = teacher(slip=0.3, give_up=0.1, seed=3), []

    def policy(turns):
        asked.append([(turn.item, turn.number) for turn in turns])
        return inner(turns)

    with EpisodeStore(tmp_path) as store:
        run(policy, many(), width=width, store=store)
    assert asked == in_lock_step(inner, many(), width)


def test_a_policy_that_gave_up_is_not_asked_again() -> None:
    class Refuses(Waits):
        async def ask(self, turn: Turn) -> str:
            self.asked += 1
            raise (GaveUp if turn.item == "toy_0" else ConnectionError)("no")

    policy, counts = Refuses(), Counter()
    records = run(policy, many(2), retries=2, counts=counts)
    assert [record["error"] for record in records] == ["GaveUp: no", "ConnectionError: no"]
    assert policy.asked == 1 + 3
    assert counts == {"asked again": 2}


def test_a_policy_is_entered_and_left() -> None:
    class Opened(Waits):
        states: list[str] = []  # noqa: RUF012

        async def __aenter__(self):
            self.states.append("open")

        async def __aexit__(self, *_: object) -> None:
            self.states.append("closed")

        async def ask(self, turn: Turn) -> str:
            assert self.states == ["open"]
            if turn.item == "toy_3":
                raise UserError("the key is wrong")
            return await super().ask(turn)

    with pytest.raises(UserError, match="key"):
        run(Opened(), many())
    assert Opened.states == ["open", "closed"]


def test_a_user_error_of_an_environment_ends_the_run(tmp_path) -> None:
    class NoServer(toy_task.Environment):
        def reset(self) -> str:
            raise UserError("there is no server at DSN")

    for isolation in ("inline", "thread"):
        with EpisodeStore(tmp_path / isolation) as store, pytest.raises(UserError, match="DSN"):
            played_in(isolation, expert, many(3), make=NoServer, store=store)
        assert {record["status"] for record in _read(tmp_path / isolation)} == {status.CANCELLED}


def test_it_can_be_called_within_an_event_loop() -> None:
    async def notebook() -> list[dict]:
        return run(Waits(), many(3))

    assert asyncio.run(notebook()) == run(Waits(), many(3))


def test_progress_is_a_line_now_and_then_or_nothing(capsys) -> None:
    class Slow(Waits):
        async def ask(self, turn: Turn) -> str:
            await asyncio.sleep(0.03)
            return await super().ask(turn)

    items = many(10)
    items[0]["breaks"] = "reset"
    run(Slow(), items, width=2, progress=True, progress_s=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    records = run(Waits(), items)
    won = sum(record["reward"] == 1 for record in records if record["reward"] is not None)
    assert lines[-1].startswith(f"toy: 10 of 10 episodes, success {100 * won / 9:.1f} % [")
    assert ", 1 lost, " in lines[-1]
    run(Waits(), items, progress=False, progress_s=0.001)
    run(Waits(), items, progress=True)
    assert capsys.readouterr().err == ""


def test_progress_of_rewards_and_on_a_terminal(capsys, monkeypatch) -> None:
    from agenttuning.episodes import progress

    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.Progress("shop", 4, "reward", True, 30.0)
    shown.add({"status": status.COMPLETED, "reward": reward} for reward in (0.5, 1.0, 0.0))
    shown.add([{"status": status.CANCELLED, "reward": None}])
    shown.close()
    assert shown.score().startswith("reward 50.0 % [")
    assert "shop: 100%" in capsys.readouterr().err


def test_a_run_that_only_loses_ends(tmp_path) -> None:
    class Dies(Waits):
        async def ask(self, turn: Turn) -> str:
            if self.asked > 60:
                raise GaveUp("no server")
            return await super().ask(turn)

    policy = Dies()
    with EpisodeStore(tmp_path) as store, pytest.raises(UserError, match="last 20 .* lost .* agent_error .GaveUp: no"):
        run(policy, many(300), store=store, width=20)
    states = Counter(record["status"] for record in _read(tmp_path))
    assert states[status.AGENT_ERROR] >= 20 and sum(states.values()) < 100
    with EpisodeStore(tmp_path) as store:
        assert run(Waits(), many(300), store=store) == run(Waits(), many(300))
