"""The engine against TextWorld: the same random walks must show the same texts, commands and wins.

Runs where `textworld[pddl]` is installed (GPL in part and compiled, so never a dependency), on generated games, and on
official ones where ALFWORLD_DATA names them. ALFWORLD_LOGIC names a folder with alfworld's own alfred.pddl and
alfred.twl2 (alfworld/data of release 0.3.3): TextWorld then plays by those files alone. ALFWORLD_WALKS: how many games,
6 unless told.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from agenttuning import protocols
from agenttuning.environments import alfworld
from agenttuning.environments.alfworld import missing, textworld_backend
from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.environment import content_of
from agenttuning.environments.alfworld.game import read_game
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.protocols import alfworld as texts
from agenttuning.protocols.messages import own
from helpers.alfworld_game import ANSWERS, content

if missing("textworld"):
    pytest.skip(f"not installed: {missing('textworld')[0].command}", allow_module_level=True)

from agenttuning.environments.alfworld.textworld_backend import TextWorld

WALKS = int(os.environ.get("ALFWORLD_WALKS", "6"))
STEPS = 40
ARRIVAL = re.compile(r"^You arrive at loc \d+\. ")  # AgentBench.old cuts it off
SAME: dict[str, int] = {}  # what was compared, by the first word of the command; printed at the end


def _official() -> list[dict]:
    data = os.environ.get("ALFWORLD_DATA")
    games = sorted(Path(data).rglob("game.tw-pddl")) if data else []
    return [{"id": str(path), "kind": "pick_and_place", "path": str(path)} for path in games]


def _tangled(item: dict) -> dict:
    """The item with what official games may have and generated ones have not: a thing in two receptacles at once,
    receptacles of different types at one place, things clean, hot or cool from the start, a player who faces one.
    """
    problem = item["game"]["pddl_problem"]
    inside = re.findall(r"\(inReceptacle (\w+) (\w+)\)", problem)
    places = dict(re.findall(r"\(receptacleAtLocation (\w+) (\w+)\)", problem))
    start = re.search(r"\(atLocation agent1 (\w+)\)", problem)[1]
    (thing, home), (other, _) = inside[0], inside[1]
    second, last = next(place for place in places if place != home), list(places)[-1]
    problem = problem.replace(
        f"(receptacleAtLocation {last} {places[last]})", f"(receptacleAtLocation {last} {places[home]})"
    )
    facts = [f"(inReceptacle {thing} {second})", f"(isClean {other})", f"(isHot {thing})", f"(isCool {other})"]
    problem = problem.replace(
        f"(atLocation agent1 {start})", f"(atLocation agent1 {places[second]})\n    " + "\n    ".join(facts)
    )
    return {**item, "game": {**item["game"], "pddl_problem": problem}}


def _walk(item: dict, seed: str) -> None:
    content, where = content_of(item)
    reference, engine = TextWorld(item), Engine(read_game(content, where))
    rng = random.Random(seed)
    try:
        assert engine.intro() == reference.reset()
        for number in range(STEPS):
            assert engine.admissible() == reference.actions(), f"{item['id']} before step {number}"
            expert = rng.random() < 0.3 and not engine.won()
            wild = rng.random() < 0.05
            command = "use everything" if wild else reference.oracle().action if expert else _choose(rng, engine)
            step = reference.step(command)
            answer = engine.act(command)
            seen = ARRIVAL.sub("", step.observation)
            assert (answer or "Nothing happens.") == seen, f"{item['id']}, step {number}: {command}"
            assert (answer is not None) == step.valid
            assert engine.won() == bool(reference.score()), f"{item['id']}, step {number}: {command}"
            SAME[command.split()[0]] = SAME.get(command.split()[0], 0) + 1
    finally:
        reference.close()


def _choose(rng: random.Random, engine: Engine) -> str:
    # Nearly all commands are `go to`; the rarer words are taken more often than chance would.
    words: dict[str, list[str]] = {}
    for command in engine.admissible():
        words.setdefault(command.split()[0], []).append(command)
    weights = {"look": 2, "inventory": 1, "examine": 2, "go": 4}
    names = sorted(words)
    return rng.choice(words[rng.choices(names, [weights.get(name, 6) for name in names])[0]])


def _report(what: str) -> None:
    print(f"\n{WALKS} {what} games; {sum(SAME.values())} steps so far, by their first word: {SAME}")


@pytest.mark.slow
def test_random_walks_on_generated_games_are_the_same():
    for number, item in enumerate(alfworld.items("test", WALKS, 1)):
        _walk(item, f"walk {number}")
    _report("generated")


@pytest.mark.slow
def test_random_walks_on_tangled_games_are_the_same():
    for number, item in enumerate(alfworld.items("train", WALKS, 2)):
        _walk(_tangled(item), f"tangled {number}")
    _report("tangled")


def test_the_game_written_by_hand_is_answered_the_same():
    reference = TextWorld({"id": "hand", "kind": "pick_heat_then_place", "game": content()})
    reference.reset()
    for command, answer in ANSWERS:
        step = reference.step(command)
        assert (step.observation, step.valid) == (answer or "Nothing happens.", answer is not None), command
    assert step.done
    reference.close()


@pytest.mark.slow
def test_whole_episodes_have_the_same_records():
    items, protocol = alfworld.items("test", WALKS, 4), protocols.load(protocols.FOLDER / "practice.yaml")
    played = []
    for backend in ("engine", "textworld"):
        with alfworld.serve(backend) as room:
            records = play(room, items, expert, protocol, own(texts), model="expert", seed=0, progress=False, width=1)
            played.append([{**record, "backend": None} for record in records])
    assert played[0] == played[1]
    assert all(record["reward"] == 1.0 for record in played[0])


@pytest.mark.slow
@pytest.mark.skipif(not _official(), reason="ALFWORLD_DATA names no folder with game.tw-pddl files")
def test_random_walks_on_official_games_are_the_same():
    games = _official()
    for number, item in enumerate(random.Random("official").sample(games, min(WALKS, len(games)))):
        _walk(item, f"official {number}")
    _report("official")


@pytest.mark.slow
@pytest.mark.skipif("ALFWORLD_LOGIC" not in os.environ, reason="ALFWORLD_LOGIC names no folder with alfworld's rules")
def test_random_walks_by_the_official_rules_are_the_same(monkeypatch):
    logic = Path(os.environ["ALFWORLD_LOGIC"])
    domain, grammar = (logic / "alfred.pddl").read_text(), (logic / "alfred.twl2").read_text()
    official = lambda task: grammar.replace("Your task is to: UNKNOWN GOAL.", task)  # noqa: E731
    monkeypatch.setattr(textworld_backend, "grammar_for", official)
    for number, item in enumerate(alfworld.items("train", WALKS, 3)):
        item = {**item, "game": {**item["game"], "pddl_domain": domain}}
        _walk(_tangled(item) if number % 2 else item, f"rules {number}")
    _report("officially ruled")
