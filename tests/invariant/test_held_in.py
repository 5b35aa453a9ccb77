"""What all six held-in tasks must hold: the oracle wins, silence and chance do not, concurrency changes nothing."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from importlib import import_module

import pytest

from agenttuning import protocols
from agenttuning.environments import HELD_IN, Backend, held_in
from agenttuning.episodes import status
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own
from agenttuning.stages import choose_backend

RULES = protocols.load(protocols.FOLDER / "practice.yaml")
N = 12

tasks = pytest.mark.parametrize("task", HELD_IN)


@pytest.fixture(scope="module")
def rooms():
    """{task: the room of its embedded backend}, each opened once."""
    with ExitStack() as held:
        found = {}

        def room(task: str):
            if task not in found:
                module = held_in(task)
                backend = choose_backend(module, module.BACKENDS[-1].name, {})
                found[task] = held.enter_context(module.serve(backend.name))
            return found[task]

        yield room


def played(room, task: str, policy, items: list[dict], **settings) -> list[dict]:
    prompts = own(import_module(f"agenttuning.protocols.{RULES.rules(task).format}"))
    defaults = {"model": "m", "seed": 0, "wait_s": 0.0, "progress": False}
    return play(room(task), items, policy, RULES, prompts, **{**defaults, **settings})


def mean(records: list[dict]) -> float:
    assert all(status.is_result(record["status"]) for record in records), [record["error"] for record in records]
    return sum(record["reward"] for record in records) / len(records)


@tasks
def test_the_face_is_whole(task) -> None:
    module = held_in(task)
    assert task == module.NAME and module.BENCHMARK
    assert module.BACKENDS and all(isinstance(backend, Backend) and backend.label for backend in module.BACKENDS)
    assert not module.BACKENDS[-1].comparable


@tasks
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_oracle_wins_every_practice_item_within_the_turns(task, split, rooms) -> None:
    records = played(rooms, task, expert, held_in(task).items(split, N, 3))
    assert [(record["item"], record["reward"]) for record in records if record["reward"] < 1.0] == []
    assert mean(records) == 1.0
    assert all(record["status"] == status.COMPLETED for record in records)
    assert all(step["valid"] for record in records for step in record["steps"])


@tasks
@pytest.mark.parametrize("reply", ["", "I do not know what to do here."])
def test_a_mute_model_and_one_without_the_format_score_nothing(task, reply, rooms) -> None:
    records = played(rooms, task, lambda turns: [reply] * len(turns), held_in(task).items("test", N, 0))
    assert mean(records) == 0.0
    # ALFWorld's harness maps any text to the nearest command; everywhere else it is no action
    refused = [step["action"] is None or not step["valid"] for record in records for step in record["steps"]]
    assert all(refused) or (task == "alfworld" and reply)


@tasks
def test_chance_is_far_below_the_oracle(task, rooms) -> None:
    assert mean(played(rooms, task, random_policy(0), held_in(task).items("test", 2 * N, 0))) < 0.4


@tasks
def test_train_and_test_items_share_nothing_and_seeds_repeat(task) -> None:
    def shown(items: list[dict]) -> list[str]:
        return [json.dumps({k: value for k, value in item.items() if k != "id"}, sort_keys=True) for item in items]

    module = held_in(task)
    train, test = module.items("train", 60, 0), module.items("test", 60, 0)
    assert not set(shown(train)) & set(shown(test)) and len(set(shown(train))) == len(train) == 60
    assert shown(train) == shown(module.items("train", 60, 0)) != shown(module.items("train", 60, 1))
    ids = [item["id"] for item in train + test]
    assert len(set(ids)) == len(ids) and all(item_id.startswith(f"{task}_") for item_id in ids)
    json.dumps(train)  # items go into files


@tasks
def test_records_are_the_same_bytes_at_any_concurrency_and_order(task, rooms) -> None:
    items = held_in(task).items("train", 8, 1)
    one = played(rooms, task, teacher(0.3, 0.05, 1), items, width=1)
    shuffled = random.Random(0).sample(items, len(items))
    many = played(rooms, task, teacher(0.3, 0.05, 1), shuffled, width=64)
    by_item = {record["item"]: record for record in many}
    assert [json.dumps(record) for record in one] == [json.dumps(by_item[item["id"]]) for item in items]
