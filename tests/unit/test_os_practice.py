"""The os task's practice items: they can all be won, are not won by chance, and the splits share nothing."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from agenttuning.environments import os_interaction as task
from agenttuning.environments.os_interaction.practice import FAMILIES
from agenttuning.episodes.runner import play
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols import FOLDER, load
from agenttuning.protocols import os_interaction as texts
from agenttuning.protocols.messages import own
from helpers.os_machine import tree

PRACTICE = load(FOLDER / "practice.yaml")


@pytest.fixture(scope="module")
def room():
    with task.serve("sandbox", rootfs=tree()) as room:
        yield room


def _of_every_family(split: str) -> list[dict]:
    found = {}
    for item in task.items(split, 150, 0):
        found.setdefault(item["labels"][0], item)
    assert set(found) == set(FAMILIES)
    return list(found.values())


def _episode(room, item: dict) -> float:
    environment = room.make(item)
    try:
        assert environment.reset() == item["description"]
        for _ in range(8):
            move = environment.oracle()
            action = texts.read(texts.write(move.thought, move.action), 20_000).action
            assert action == move.action
            step = environment.step(action)
            assert not re.search(r"\d\d:\d\d", step.observation), "the time of the run: other bytes in every run"
            if step.done:
                return environment.score()
        raise AssertionError(f"the expert does not finish {item['id']}")
    finally:
        environment.close()


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_wins_every_family(room, split):
    items = _of_every_family(split)
    with ThreadPoolExecutor(4) as pool:
        scores = dict(zip([i["labels"][0] for i in items], pool.map(lambda i: _episode(room, i), items), strict=True))
    assert scores == dict.fromkeys(scores, 1.0)


def _score_of(room, item: dict, actions: list[str]) -> float:
    environment = room.make(item)
    try:
        environment.reset()
        for action in actions:
            environment.step(action)
        return environment.score()
    finally:
        environment.close()


def test_nothing_is_won_by_doing_nothing(room):
    items = _of_every_family("train")
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda item: _score_of(room, item, ["finish"]), items))
        assert not any(pool.map(lambda item: _score_of(room, item, ["answer: "]), items))


def test_the_answer_must_be_the_right_one(room):
    item = next(item for item in task.items("train", 60, 0) if item["labels"] == ["count files"])
    environment = room.make(item)
    environment.reset()
    environment.step(environment.oracle().action)
    right = environment.oracle().action.removeprefix("answer: ")
    environment.close()
    assert _score_of(room, item, [f"answer:  {right}\n"]) == 1.0
    assert _score_of(room, item, [f"answer: {int(right) + 1}"]) == 0.0
    assert _score_of(room, item, [f"answer: {right} files"]) == 0.0


def test_files_that_should_stay_must_stay(room):
    item = next(item for item in task.items("train", 60, 0) if item["labels"] == ["permissions"])
    folder = item["description"].split(" in ")[1].split()[0]
    environment = room.make(item)
    environment.reset()
    mode = item["solution"][0][1].split("chmod ")[1].split()[0]
    environment.step(f"bash: chmod -R {mode} {folder}/*")
    environment.step("finish")
    assert environment.score() == 0.0
    environment.close()


def test_chance_is_far_below(room):
    items = task.items("test", 16, 1)
    records = play(room, items, random_policy(0), PRACTICE, own(texts), model="random", seed=0, progress=False)
    assert all(record["status"] in ("completed", "task_limit") for record in records)
    assert sum(record["reward"] for record in records) <= 2


def test_items_come_from_the_seed():
    assert task.items("train", 30, 7) == task.items("train", 30, 7)
    assert task.items("train", 30, 7) != task.items("train", 30, 8)
    items = task.items("train", 200, 0)
    assert items == json.loads(json.dumps(items))
    assert len({item["id"] for item in items}) == 200


def test_the_splits_share_no_problem():
    train, test = ({item["description"] for item in task.items(split, 300, 3)} for split in ("train", "test"))
    assert not train & test
    assert min(len(train), len(test)) > 200


def test_the_same_item_gives_the_same_conversation(room):
    [item] = [item for item in task.items("train", 30, 0) if item["labels"] == ["log"]][:1]
    played = []
    for _ in range(2):
        environment = room.make(item)
        environment.reset()
        played.append(environment.step(environment.oracle().action))
        environment.close()
    assert played[0] == played[1]
    assert "root@" in played[0].observation


def test_the_runner_plays_it_with_metrics(room):
    from agenttuning.policies.expert import expert

    items = task.items("train", 3, 2)
    records = play(room, items, expert, PRACTICE, own(texts), model="expert", seed=0, progress=False)
    assert [record["reward"] for record in records] == [1.0, 1.0, 1.0]
    assert all(record["metrics"]["rule"] in ("check", "match") for record in records)


def test_a_sandbox_that_dies_is_no_result_of_the_model(room):
    made = []

    def make(item):
        made.append(room.make(item))
        return made[-1]

    def policy(turns):
        for environment in made:
            if environment.machine is not None:
                environment.machine.line.close()  # what process 1 lives by
        return [texts.write("wait.", "bash: sleep 2") for _ in turns]

    items = task.items("train", 2, 0)
    records = play(replace(room, make=make), items, policy, PRACTICE, own(texts), model="m", seed=0, progress=False)
    assert [(record["status"], record["reward"]) for record in records] == [("environment_error", None)] * 2
    assert all("died" in record["error"] for record in records)
