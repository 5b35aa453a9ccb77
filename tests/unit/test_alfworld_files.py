"""ALFWorld's files: PDDL and game files are read strictly and bounded, split lists and folders are found whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments import alfworld
from agenttuning.environments.alfworld import files, pddl, rules
from agenttuning.environments.alfworld.game import read_file, read_game, shown_names
from agenttuning.environments.alfworld.generator import own
from agenttuning.errors import UserError
from helpers.alfworld_game import FACTS, GOAL, content


def test_nested_lists_comments_and_case():
    assert pddl.parse("(A (b-C ?d) ; a (comment\n () e)", "f") == ["a", ["b-c", "?d"], [], "e"]
    assert pddl.parse(pddl.write(["a", ["b", []]]), "f") == ["a", ["b", []]]
    assert pddl.typed(["a", "b", "-", "t", "c"], "f") == [("a", "t"), ("b", "t"), ("c", "object")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 expressions"),
        ("(a) (b)", "2 expressions"),
        ("a", "1 expressions at its top, not one in brackets"),
        ("(a\n\n(b)", "line 3: it ends with 1 brackets open"),
        ("(a)\n)", "line 2: a bracket closes that was never opened"),
        ("(" * 100 + ")" * 100, "line 1: more than 40 brackets"),
        ("x" * 4_000_001, "4,000,001 characters"),
    ],
)
def test_what_is_no_pddl_is_named_with_its_line(text, said):
    with pytest.raises(UserError, match=r"game\.tw-pddl: ") as error:
        pddl.parse(text, "game.tw-pddl")
    assert said in str(error.value)


def problem(**parts: str) -> str:
    parts = {"objects": "a - agent m - object l - location", "init": "(atLocation a l)", "goal": GOAL, **parts}
    return f"(define (problem p) (:objects {parts['objects']}) (:init {parts['init']}) (:goal {parts['goal']}))"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"init": "(atLocation a q)"}, "about 'q', which :objects lacks"),
        ({"init": "(atLocation a (l))"}, "which :objects lacks"),
        ({"init": "atLocation"}, "'atlocation' is no fact"),
        ({"init": "()"}, "'()' is no fact"),
        ({"init": "(atLocation a)"}, "atlocation(a) is unknown"),
        ({"init": "(likes a m) (atLocation a l)"}, "likes(a, m) is unknown"),
        ({"init": ""}, "0 places are given for the player"),
        ({"init": "(atLocation a l) (atLocation a m)"}, "2 places are given for the player"),
        ({"init": "(atLocation a l) (holds a m)"}, "holds something from the start"),
        (
            {"init": "(atLocation a l) (receptacleAtLocation m l) (receptacleAtLocation m a)"},
            "m is in 2 places at once",
        ),
        ({"objects": "a - agent m -"}, "has no type"),
        ({"objects": "a (b)"}, "'(b)' stands among names"),
        ({"goal": "()"}, "the goal has '()'"),
        ({"goal": "(and)"}, "asks for nothing"),
        ({"goal": "(forall (?o - object) (isHot ?o))"}, "a form that the engine does not know"),
        ({"goal": "(exists (?o - object) (or (isHot ?o) (isCool ?o)))"}, "(or (ishot ?o) (iscool ?o))"),
        ({"goal": "(isHot ?o)"}, "a form that the engine does not know"),
        ({"goal": "(isHot m m)"}, "a form that the engine does not know"),
        ({"goal": "(and " + "(isHot m) " * 3 + "(not (isCool m)))"}, "(not (iscool m))"),
        ({"goal": "(exists (?a ?b ?c ?d ?e - object) (isHot ?a))"}, "4 variables"),
        ({"goal": "(isHot m)) (:goal (isHot m)"}, "it has :goal twice"),
        ({"goal": "m"}, ":goal is not one expression"),
    ],
)
def test_a_problem_that_could_not_be_played_is_refused_by_name(parts, said):
    with pytest.raises(UserError) as error:
        read_game({**content(), "pddl_problem": problem(**parts)}, "x/game.tw-pddl")
    assert str(error.value).startswith("x/game.tw-pddl: ")
    assert said in str(error.value)


def test_numbers_and_unused_names_of_official_problems_are_taken():
    init = "(= (totalCost) 0) (= (distance l l) 8) (atLocation a l)"
    game = read_game({**content(), "pddl_problem": problem(init=init)}, "f")
    assert game.agent == "a"
    assert set(game.names) == {"a", "l"}  # `m` is in no fact: TextWorld does not number it either


def test_shown_names_are_the_demanglers():
    ids = {"mug_bar_2", "mug_bar_10", "sink_bar_1", "sink_bar_1_bar_sinkbasin", "bathtub_bar_1_bar_bathtubbasin", "mug"}
    assert shown_names(ids) == {
        "mug": "mug ",
        "mug_bar_10": "mug 2",
        "mug_bar_2": "mug 1",
        "sink_bar_1": "sink 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "bathtub_bar_1_bar_bathtubbasin": "bathtubbasin 1",
    }


@pytest.mark.parametrize("key", ["pddl_domain", "pddl_problem", "grammar"])
def test_a_game_file_without_a_part_is_refused(key):
    with pytest.raises(UserError, match=f"'{key}' is NoneType, not a text"):
        read_game({**content(), key: None}, "f")


@pytest.mark.parametrize("grammar", ["", '"Your task is to: UNKNOWN GOAL."', '"Your task is to: \\q"'])
def test_a_grammar_without_a_task_is_refused(grammar):
    with pytest.raises(UserError, match="does not say what the task is"):
        read_game({**content(), "grammar": grammar}, "f")


def test_the_task_is_taken_from_any_grammar_with_its_quotes():
    grammar = r'"task": [{"rhs": "Your task is to: put the \"red\" mug down"}], "put": "You move the {o} to the {r}."'
    assert read_game({**content(), "grammar": grammar}, "f").task == 'Your task is to: put the "red" mug down'


def test_another_domain_is_not_played_as_if_it_were_alfworlds():
    domain = own("domain.txt").replace("(not (holdsAny ?a)) (or", "(or")
    assert domain != own("domain.txt")
    assert rules.other_actions(domain, "f") == ("pickupobject",)
    env = alfworld.Environment({"id": "g", "kind": "pick_and_place", "game": {**content(), "pddl_domain": domain}})
    with pytest.raises(UserError, match="not alfworld's in pickupobject.*backend textworld"):
        env.reset()


def test_help_spacing_and_comments_do_not_make_another_domain():
    domain = (
        own("domain.txt").rstrip()[:-1] + "\n(:action help\n :parameters (?a - agent) :precondition () :effect ()) )"
    )
    assert rules.other_actions(domain.replace("(:action", "; no\n( :ACTION"), "f") == ()
    assert "help" not in rules.without_help(domain, "f")
    assert rules.other_actions("(define)", "f") == tuple(sorted(rules.ACTIONS))


@settings(max_examples=150, deadline=None)
@given(st.text("()ab-?;= \n:", max_size=80))
def test_any_text_is_pddl_or_a_user_error(text):
    for fields in ({"pddl_problem": text}, {"pddl_problem": problem(goal=text)}, {"pddl_problem": problem(init=text)}):
        try:
            read_game({**content(), **fields}, "f")
        except UserError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_a_damaged_problem_is_played_or_a_user_error(place, length):
    whole = content()["pddl_problem"]
    place %= len(whole)
    env = alfworld.Environment(
        {
            "id": "g",
            "kind": "pick_and_place",
            "game": {**content(), "pddl_problem": whole[:place] + whole[place + length :]},
        }
    )
    try:
        env.reset()
    except UserError:
        return
    for action in env.actions()[:5]:
        env.step(action)
    env.oracle()


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "not JSON"), ("{", "not JSON"), ("[]", "a JSON list"), ("\udcff", "not JSON"), ("[" * 100_000, "not JSON")],
)
def test_a_file_that_is_no_game_is_named(tmp_path, text, said):
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="game.tw-pddl") as error:
        read_file(path)
    assert said in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path / "absent")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    files.write(alfworld.items("train", 4, 0), tmp_path / "games")
    return tmp_path


def test_written_games_are_loaded_and_played(folder):
    made = {item["game"]["pddl_problem"]: item for item in alfworld.items("train", 4, 0)}
    loaded = alfworld.load(folder / "games")
    assert [item["id"] for item in loaded] == [f"alfworld-games_{number}" for number in range(4)]
    for item in loaded:
        assert set(item) == {"id", "kind", "path"}
        source = made[read_file(item["path"])["pddl_problem"]]
        assert item["kind"] == source["kind"]
        env = alfworld.Environment(item)
        env.reset()
        for command in source["game"]["walkthrough"]:
            assert not env.score()
            env.step(command)
        assert env.score() == 1.0


def official(folder: Path) -> dict:
    """A split list over games in folders named as the official ones."""
    names = {
        "pick_heat_then_place": "pick_heat_then_place_in_recep-Egg-None-DiningTable-10",
        "look_at_obj": "look_at_obj_in_light-Mug-None-DeskLamp-308",
    }
    games = {}
    for kind, name in names.items():
        path = Path("json_2.1.1", "valid_unseen", name, "trial_T1", "game.tw-pddl")
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(json.dumps({**content(), "solvable": True}))
        games[kind] = [str(path)]
    return games


def test_a_split_list_is_found_beside_its_games_and_through_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    games = official(tmp_path / "data")
    for place in (tmp_path / "data", tmp_path / "other"):
        place.mkdir(exist_ok=True)
        (place / "std.json").write_text(json.dumps(games))
    loaded = alfworld.load(tmp_path / "data")
    assert [(item["id"], item["kind"]) for item in loaded] == [
        ("alfworld-std_0", "pick_heat_then_place"),
        ("alfworld-std_1", "look_at_obj"),
    ]
    with pytest.raises(UserError, match="2 of 2 games are missing: json_2.1.1/valid_unseen/pick_heat"):
        alfworld.load(tmp_path / "other" / "std.json")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "data"))
    assert alfworld.load(tmp_path / "other") == loaded
    assert [item["kind"] for item in alfworld.load(tmp_path / "data" / "json_2.1.1")] == [
        "look_at_obj",
        "pick_heat_then_place",
    ]


def test_missing_games_are_named_and_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    games = official(tmp_path)
    games["pick_two_obj"] = [f"gone_{number}/game.tw-pddl" for number in range(7)]
    (tmp_path / "dev.json").write_text(json.dumps(games))
    with pytest.raises(UserError, match="7 of 9 games are missing: gone_0/game.tw-pddl.*and 2 more"):
        alfworld.load(tmp_path)


@pytest.mark.parametrize("text", ['{"pick_up": []}', '{"look_at_obj": "x"}', '{"look_at_obj": [1]}', "{}", "[]", "x"])
def test_what_is_no_split_list_is_refused(tmp_path, text):
    (tmp_path / "std.json").write_text(text)
    with pytest.raises(UserError, match="std.json"):
        alfworld.load(tmp_path / "std.json")


def test_what_alfworld_leaves_out_is_left_out_and_counted(folder, caplog):
    first, second = sorted((folder / "games").rglob("game.tw-pddl"))[:2]
    first.write_text(json.dumps({**read_file(first), "solvable": False}))
    moved = folder / "games" / "pick_and_place_with_movable_recep-Pen-Mug-Desk-308"
    moved.mkdir()
    second.rename(moved / "game.tw-pddl")
    with caplog.at_level(logging.INFO):
        assert len(alfworld.load(folder / "games")) == 2
    assert "2 of 4 games are left out" in caplog.text


def test_a_broken_game_stops_the_load_and_is_named(folder):
    path = sorted((folder / "games").rglob("game.tw-pddl"))[1]
    path.write_text(json.dumps({**read_file(path), "pddl_problem": FACTS}))
    with pytest.raises(UserError) as error:
        alfworld.load(folder / "games")
    assert str(path) in str(error.value)


def test_nothing_to_load_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="no game could be loaded"):
            alfworld.load(path)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "game.tw-pddl").write_text(json.dumps(content()))
    with pytest.raises(UserError, match="no folder in its path is named after a kind"):
        alfworld.load(tmp_path)


def test_the_real_split_list_names_its_games():
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentbench" / "alfworld" / "dev.json"
    if not path.is_file():
        pytest.skip("AgentBench's dev.json is not here")
    with pytest.raises(
        UserError, match="20 of 20 games are missing: json_2.1.1/valid_unseen/pick_and_place_simple-Soap"
    ):
        alfworld.load(path)
