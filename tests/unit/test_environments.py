"""The four worlds: winnable, not by chance, unmoved by wrong actions, and safe with hostile text."""

from __future__ import annotations

import copy
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import TASKS, room
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols.messages import own

N = 40
HOSTILE = [
    "",
    " ",
    "x" * 10_000,
    "go to " * 2_000,
    "\x00",
    "go to \x00",
    "'",
    '"',
    "' OR '1'='1",
    "; DROP TABLE",
    "SELECT 1; DROP TABLE x",
    "DROP TABLE x",
    "ATTACH DATABASE 'escape.db' AS e",
    "PRAGMA database_list",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c",
    "SELECT randomblob(1000000000)",
    "SELECT '\ud800'",
    "SELECT " + "(" * 2_000 + "1" + ")" * 2_000,
    "../../etc/passwd",
    "go to ../../etc",
    "go to ..",
    "go to .",
    "go to /",
    "take ../../../etc/passwd from ..",
    "put passwd in /etc",
    "$(touch escaped)",
    "`touch escaped`",
    "search[]",
    "search[" + "a" * 10_000 + "]",
    "search[((((((((((a]",
    "click[../..]",
    "click[%s%s%n]",
    "Ünïcödé 🙂 \u202e \u2028",
    "{0.__class__}",
    "%d",
]

tasks = pytest.mark.parametrize("name", TASKS)


@pytest.fixture
def started():
    """A function that starts an environment; all are closed after the test."""
    made = []

    def start(name: str, item: dict):
        environment = TASKS[name].Environment(item)
        made.append(environment)
        environment.reset()
        return environment

    yield start
    for environment in made:
        environment.close()


def played(name: str, split: str, policy, n: int = N) -> list[dict]:
    module = TASKS[name]
    items, protocol = module.items(split, n, 3), protocols.load()
    return play(room(module), items, policy, protocol, own(module), model="m", seed=3, wait_s=0, progress=False)


def advance(environment, moves: int) -> bool:
    """Play up to `moves` of the expert's moves; False when that ended the episode."""
    return not any(environment.step(environment.oracle().action).done for _ in range(moves))


def state(environment) -> tuple:
    return environment.score(), environment.oracle(), environment.actions()


@tasks
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_wins_every_item_within_the_turns(name, split) -> None:
    records = played(name, split, expert)
    assert [record["reward"] for record in records] == [1.0] * N
    assert max(record["turns"] for record in records) <= TASKS[name].MAX_TURNS
    assert all(step["valid"] for record in records for step in record["steps"])


@tasks
@pytest.mark.parametrize("split", ["train", "test"])
def test_chance_does_not_win(name, split) -> None:
    records = played(name, split, random_policy(0))
    assert sum(record["reward"] >= 1.0 for record in records) / N < 0.3
    assert all(step["valid"] for record in records for step in record["steps"])


@tasks
def test_items_are_disjoint_distinct_and_the_same_each_time(name) -> None:
    module = TASKS[name]
    train, test = module.items("train", 300, 0), module.items("test", 150, 0)
    assert train == module.items("train", 300, 0)
    assert train != module.items("train", 300, 1)
    assert len({item["id"] for item in train + test}) == 450

    def content(item):
        return repr({key: value for key, value in item.items() if key != "id"})

    assert len({content(item) for item in train}) == 300
    for seed in (0, 1):
        others = {content(item) for item in module.items("train", 300, seed)}
        assert not others & {content(item) for item in test}


@tasks
def test_the_seed_does_not_depend_on_how_many_are_asked_for(name) -> None:
    module = TASKS[name]
    assert module.items("test", 10, 0) == module.items("test", 40, 0)[:10]


@tasks
def test_an_unknown_split_is_refused(name) -> None:
    with pytest.raises(ValueError, match="split"):
        TASKS[name].items("dev", 1, 0)


@tasks
def test_a_wrong_action_is_reported_and_changes_nothing(name, started) -> None:
    wrong = [
        "fly away",
        "go to nowhere",
        "take it",
        "click[nothing]",
        "SELECT nothing FROM nowhere",
        "dance",
        "put a in b",
    ]
    for item in TASKS[name].items("test", N, 5):
        for moves in range(4):
            environment = started(name, item)
            if not advance(environment, moves):
                break
            before = state(environment)
            for action in wrong:
                step = environment.step(action)
                assert not step.valid, action
                assert not step.done
                assert step.observation
                assert state(environment) == before, action
            assert advance_to_the_end(environment) == 1.0


def advance_to_the_end(environment) -> float:
    for _ in range(20):
        if environment.step(environment.oracle().action).done:
            return environment.score()
    return -1.0


@tasks
def test_the_expert_recovers_from_a_slip(name, started) -> None:
    rng = random.Random(0)
    won = over = 0
    for item in TASKS[name].items("test", N, 6):
        environment = started(name, item)
        if environment.step(rng.choice(environment.actions())).done:
            over += 1
        else:
            won += advance_to_the_end(environment) == 1.0
    assert over < N
    assert won == N - over


def test_the_database_expert_answers_with_what_it_was_shown(started) -> None:
    # A teacher's answer that no observation supports would train the model to invent answers.
    for item in TASKS["database"].items("train", N, 6):
        environment = started("database", item)
        shown = environment.step(f"SELECT {item['columns'][-1]} FROM {item['table']}").observation
        for _ in range(3):
            action = environment.oracle().action
            if action.startswith("answer "):
                break
            shown = environment.step(action).observation
        assert shown == f"Result: {action.removeprefix('answer ')}."


@tasks
@pytest.mark.parametrize("moves", [0, 1, 3])
def test_hostile_text_neither_crashes_nor_changes_nor_escapes(name, moves, started, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for item in TASKS[name].items("test", 3, 7):
        environment = started(name, item)
        if not advance(environment, moves):
            continue
        before = state(environment)
        for action in HOSTILE:
            step = environment.step(action)
            assert isinstance(step.observation, str)
            assert len(step.observation) < 2_000
            assert "root:" not in step.observation
            assert not step.done
            assert environment.score() == before[0]
            if not step.valid:
                assert state(environment) == before, action
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_text_is_a_step(data) -> None:
    name = data.draw(st.sampled_from(sorted(TASKS)))
    environment = TASKS[name].Environment(TASKS[name].items("test", 1, 0)[0])
    try:
        environment.reset()
        words = [
            "go to",
            "take",
            "put",
            "from",
            "in",
            "search[",
            "click[",
            "]",
            "SELECT",
            "*",
            "FROM",
            "answer",
            "'",
            ";",
            " ",
        ]
        for _ in range(4):
            known = st.sampled_from([*words, *environment.actions()])
            action = data.draw(st.lists(known | st.text(max_size=8), max_size=6).map("".join))
            if environment.step(action).done:
                break
            assert 0.0 <= environment.score() <= 1.0
    finally:
        environment.close()


@tasks
def test_episodes_do_not_share_state(name, started) -> None:
    item = TASKS[name].items("test", 1, 0)[0]
    original = copy.deepcopy(item)
    first, second = started(name, item), started(name, item)
    before = state(second)
    advance_to_the_end(first)
    assert state(second) == before
    assert item == original
    first.reset()
    assert state(first) == before


def test_files_leaves_nothing_behind(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    played("files", "test", expert, n=5)
    assert list(tmp_path.iterdir()) == []
    environment = TASKS["files"].Environment(TASKS["files"].items("test", 1, 0)[0])
    environment.close()  # before reset
    environment.reset()
    assert len(list(tmp_path.iterdir())) == 1
    environment.close()
    environment.close()
    assert list(tmp_path.iterdir()) == []


def test_a_database_statement_cannot_write_a_file(started, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    item = TASKS["database"].items("test", 1, 0)[0]
    environment = started("database", item)
    for statement in ("VACUUM INTO 'escape.db'", "ATTACH 'escape.db' AS e", f"CREATE TABLE {item['table']}2 (x)"):
        assert not environment.step(statement).valid
    assert not Path("escape.db").exists()


def test_a_statement_that_never_ends_is_stopped(started) -> None:
    item = TASKS["database"].items("test", 1, 0)[0]
    environment = started("database", item)
    table = item["table"]
    step = environment.step(f"SELECT COUNT(*) FROM {table} a, {table} b, {table} c, {table} d, {table} e, {table} f")
    assert not step.valid
    assert environment.step(environment.oracle().action).valid


@pytest.mark.parametrize("name", ["household", "files"])
def test_a_look_shows_everything_with_its_place_and_nothing_that_is_held(name, started) -> None:
    item = TASKS[name].items("test", 1, 0)[0]
    environment = started(name, item)
    seen = environment.step("look").observation
    things = [(thing, place) for place, found in item["layout"].items() for thing in found]
    assert sorted(seen.rstrip(".").split(" ", 2 if name == "household" else 1)[-1].split(", ")) == sorted(
        f"{thing} in {place}" for thing, place in things
    )
    thing, place = things[0]
    environment.step(f"go to {place}")
    assert environment.step(f"take {thing} from {place}").valid
    assert f"{thing} in" not in environment.step("look").observation


def test_a_search_lists_one_kind_and_buying_another_product_earns_a_part(started) -> None:
    item = TASKS["shop"].items("test", 1, 0)[0]
    environment = started("shop", item)
    assert not environment.step("search submarine").valid
    listing = environment.step(f"search {item['good']}").observation
    of_kind = [product for product in item["products"] if product["good"] == item["good"]]
    others = [product for product in item["products"] if product["good"] != item["good"]]
    assert others and all(product["code"] in listing for product in of_kind)
    assert not any(product["code"] in listing for product in others)
    wrong = next(product for product in of_kind if product["colour"] != item["colour"])
    environment.step(f"click {wrong['code']}")
    assert environment.step("click buy").done
    assert environment.score() == pytest.approx(1 / 3)
