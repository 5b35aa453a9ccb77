"""ALFWorld's engine, its generated games and the expert."""

from __future__ import annotations

import copy
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import alfworld, held_in, reserved
from agenttuning.environments.alfworld import tables
from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.game import read_game
from agenttuning.environments.alfworld.oracle import next_move
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols import alfworld as texts
from agenttuning.protocols.messages import own as own_prompt
from helpers.alfworld_game import ANSWERS, FACTS, GOAL, content

PRACTICE = protocols.FOLDER / "practice.yaml"
N = 60
SPLITS = ("train", "test")


def engine(**kwargs: str) -> Engine:
    return Engine(read_game(content(**kwargs), "test"))


def test_the_first_observation_lists_receptacles_by_falling_numbers():
    assert engine().intro() == (
        "You are in the middle of a room. Looking quickly around you, you see a drawer 2, a drawer 1, a fridge 1, "
        "a microwave 1, a shelf 1, a sinkbasin 1, and a table 1.\nYour task is to: put a hot egg in table."
    )
    assert (
        engine(facts=FACTS.replace("agent1 loc_bar_0", "agent1 loc_bar_3"))
        .intro()
        .startswith("You are facing the drawer 2, and drawer 1. Next to it, you see nothing.\nYour task")
    )


def test_what_the_game_answers():
    game = engine()
    for command, answer in ANSWERS:
        assert not game.won()
        assert game.act(command) == answer, command
    assert game.won()


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ("", "There's nothing special about egg 1."),
        ("(isHot Egg_bar_1)", "This is a hot egg 1."),
        ("(isCool Egg_bar_1)", "This is a cold egg 1."),
        ("(isClean Egg_bar_1)", "This is a clean egg 1."),
        ("(isClean Egg_bar_1) (isHot Egg_bar_1)", "This is a hot and clean egg 1."),
        ("(isClean Egg_bar_1) (isCool Egg_bar_1)", "This is a cool and clean egg 1."),
        ("(isHot Egg_bar_1) (isSliced Egg_bar_1)", "This is a hot sliced egg 1."),
        ("(isCool Egg_bar_1) (isSliced Egg_bar_1)", "This is a cool sliced egg 1."),
    ],
)
def test_how_a_thing_in_the_hand_is_described(states, words):
    game = engine(facts=FACTS + states)
    game.act("go to table 1")
    game.act("take egg 1 from table 1")
    assert game.act("examine egg 1") == words


def test_what_was_put_back_is_not_seen_on_the_floor():
    game = engine()
    for command in ("go to drawer 2", "open drawer 2", "take knife 1 from drawer 2", "put knife 1 in/on drawer 2"):
        game.act(command)
    assert game.act("look") == "You are facing the drawer 2, and drawer 1. Next to it, you see nothing."


def test_two_plays_of_one_game_do_not_meet():
    game = read_game(content(), "test")
    first, second = Engine(game), Engine(game)
    first.act("go to table 1")
    first.act("take egg 1 from table 1")
    assert second.held is None
    assert Engine(game).intro() == second.intro()


def test_all_admissible_commands_of_a_state():
    game = engine()
    game.act("go to drawer 1")
    assert game.admissible() == [
        *("close drawer 1", "examine drawer 1", "examine drawer 2", "go to fridge 1", "go to microwave 1"),
        *(
            "go to shelf 1",
            "go to sinkbasin 1",
            "go to table 1",
            "inventory",
            "look",
            "open drawer 2",
            "use desklamp 1",
        ),
    ]


def test_two_of_a_kind_must_be_two():
    two = """(and (exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 MugType)
    (receptacleType ?r ShelfType) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2))
    (objectType ?o2 MugType) (receptacleType ?r ShelfType) (inReceptacle ?o2 ?r)))))))"""
    assert not engine(goal=two).won()
    more = "(objectType Window_bar_1 MugType) (inReceptacle Window_bar_1 Shelf_bar_1)"
    assert engine(goal=two, facts=FACTS + more).won()


def test_looking_under_a_lamp_needs_the_thing_in_the_hand_at_the_lit_lamp():
    goal = """(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot DeskLampType)
    (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
    (exists (?o - object ?a - agent) (and (objectType ?o EggType) (holds ?a ?o))))"""
    game = engine(goal=goal)
    for command in ("go to table 1", "take egg 1 from table 1", "go to drawer 1"):
        game.act(command)
        assert not game.won()
    game.act("use desklamp 1")
    assert game.won()
    game.act("go to shelf 1")
    assert not game.won()


def test_items_are_the_same_for_a_seed_and_differ_between_splits():
    assert alfworld.items("test", 12, 3) == alfworld.items("test", 12, 3)
    assert alfworld.items("test", 12, 3) != alfworld.items("test", 12, 4)
    train, test = ({(item["kind"], goal(item)) for item in alfworld.items(s, 80, 0)} for s in SPLITS)
    assert train.isdisjoint(test)
    assert [item["id"] for item in alfworld.items("train", 2, 0)] == ["alfworld_train_0", "alfworld_train_1"]
    assert {item["kind"] for item in alfworld.items("test", N, 0)} == set(tables.KINDS)


def goal(item: dict) -> tuple[str, ...]:
    problem = item["game"]["pddl_problem"]
    text = problem[problem.index("(:goal") :]
    return tuple(sorted({word.strip("()") for word in text.split() if word.strip("()").endswith("Type")}))


@pytest.mark.parametrize("split", SPLITS)
def test_a_room_belongs_to_one_split(split):
    for item in alfworld.items(split, 20, 2):
        init = item["game"]["pddl_problem"].split("(:init")[1]
        kinds = dict(re.findall(r"\((?:receptacleType|objectType) (\w+) (\w+)Type\)", init))
        homes = re.findall(r"\(inReceptacle (\w+) (\w+)\)", init)
        places = re.findall(r"\(receptacleType (\w+)", init)
        things = [[kinds[thing], places.index(home)] for thing, home in homes]
        assert reserved("alfworld", [kinds[place] for place in places], things) == (split == "test")


def test_the_face_of_the_package():
    assert held_in("alfworld") is alfworld
    assert [backend.name for backend in alfworld.BACKENDS] == ["textworld", "engine"]
    with alfworld.serve("engine") as room:
        assert (room.task, room.isolation, room.backend.name) == ("alfworld", "inline", "engine")
    with pytest.raises(UserError, match="no backend 'real'"), alfworld.serve("real"):
        pass
    with pytest.raises(UserError, match="no option 'path'"), alfworld.serve("engine", path="x"):
        pass
    assert alfworld.missing("engine") == []
    lacking = alfworld.missing("textworld")
    if lacking:
        with pytest.raises(UserError, match="pip install"), alfworld.serve("textworld"):
            pass


def test_the_expert_wins_everything_and_chance_does_not():
    protocol = protocols.load(PRACTICE)
    with alfworld.serve() as room:
        items = alfworld.items("test", N, 0)
        best = play(room, items, expert, protocol, own_prompt(texts), model="expert", seed=0, progress=False)
        chance = play(
            room, items, random_policy(0), protocol, own_prompt(texts), model="random", seed=0, progress=False
        )
    assert [record["reward"] for record in best] == [1.0] * N
    assert {record["status"] for record in best} == {"completed"}
    assert max(record["turns"] for record in best) <= 15
    assert all(step["valid"] for record in best for step in record["steps"])
    assert sum(record["reward"] for record in chance) < 0.1 * N
    assert best[0]["metrics"] == {"category": items[0]["kind"]}


def test_the_expert_recovers_from_any_state():
    rng = random.Random("recovery")
    for item in alfworld.items("train", 40, 1):
        env = alfworld.Environment(item)
        env.reset()
        for _ in range(25):
            if not env.score():
                # Takes come up seldom among so many `go to`.
                actions = env.actions()
                rare = [action for action in actions if not action.startswith(("go to", "examine"))]
                env.step(rng.choice(rare if rng.random() < 0.5 else actions))
        for _ in range(20):
            if env.score():
                break
            assert env.step(env.oracle().action).valid
        assert env.score() == 1.0, item["id"]


def test_a_goal_out_of_reach_leaves_the_expert_looking():
    game = engine(goal=GOAL.replace("EggType", "KnifeType"))  # no knife is heatable
    assert next_move(game).action == "look"


HOSTILE = [
    *(
        "",
        " ",
        "x" * 10_000,
        "go to " * 2_000,
        "\x00",
        "go to \ud800",
        "GO TO TABLE 1",
        "go to table",
        "go to  table 1",
    ),
    *("{0.__class__}", "take egg 1 from", "put in/on", "../../etc/passwd", "__import__('os')", "go to table 1\n", "🙂"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_actions_change_nothing(text):
    env = alfworld.Environment({"id": "x", "kind": "pick_and_place", "game": content()})
    env.reset()
    before = copy.deepcopy(env.engine.facts.__dict__)
    step = env.step(text)
    assert env.score() == 0.0
    if text.strip() != "go to table 1":
        assert (step.observation, step.valid, step.done) == ("Nothing happens.", False, False)
        assert env.engine.facts.__dict__ == before
    else:
        assert step.valid  # as TextWorld, which strips


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_any_play_keeps_the_state_whole(choices):
    game = engine()
    for choice in choices:
        commands = game.admissible()
        assert game.act(commands[choice % len(commands)]) is not None
        held = game.facts.of("holds", "agent1")
        assert len(held) <= 1
        assert len(game.facts.of("atlocation", "agent1")) == 1
        assert not (game.facts.one["ishot"] & game.facts.one["iscool"])


def test_an_episode_leaves_its_item_and_its_game_alone():
    item = {"id": "x", "kind": "pick_and_place", "game": content()}
    before = copy.deepcopy(item)
    first, second = alfworld.Environment(item), alfworld.Environment(item)
    first.reset()
    first.step("go to table 1")
    first.step("take egg 1 from table 1")
    second.reset()
    assert second.step("go to table 1").observation == "On the table 1, you see a egg 1, a mug 1, and a window 1."
    assert item == before
    first.close()
