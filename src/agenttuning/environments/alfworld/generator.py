"""Makes games in the schema of ALFWorld's `game.tw-pddl` files: rooms, things and goals of our own, from a seed.

They are practice: the rules are ALFWorld's, the rooms are not. A quarter of the things has another location than the
receptacle that holds it, receptacles share locations, some are open from the start, and things lie in other things, as
in the official games.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from agenttuning.environments import reserved
from agenttuning.environments.alfworld import tables
from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.game import read_game
from agenttuning.environments.alfworld.oracle import solve

LONGEST = 30  # moves of the expert; the paper's limit is 35 turns


@cache
def own(name: str) -> str:
    """The text of `domain.txt` or `grammar.txt`."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def grammar_for(task: str) -> str:
    """Our grammar with the task's line: one that TextWorld can play by."""
    return own("grammar.txt").replace("Your task is to: UNKNOWN GOAL.", task)


def draw(rng: random.Random, test: bool) -> dict | None:
    """An item: `kind` and `game`, the content of a game file. None when the draw belongs to the other split."""
    kind = rng.choice(list(tables.KINDS))
    room = rng.choice(tables.KINDS[kind])
    places = [
        place for place, least, most in tables.ROOMS[room] for _ in range(rng.randint(least, most))
    ]  # in the table's order: ids sort them for the player
    # Tried until one fits, so that the kinds come up equally often.
    goals = (_goal(rng, kind, room, places) for _ in range(60))
    goal = next((goal for goal in goals if goal and reserved("alfworld", kind, *goal) == test), None)
    if goal is None:
        return None
    things = _things(rng, kind, room, places, goal)
    if reserved("alfworld", places, things) != test:
        return None
    problem = _problem(rng, places, things, _condition(kind, *goal))
    task = rng.choice(tables.TASKS[kind]).format(obj=goal[0].lower(), recep=goal[1].lower())
    content = {
        "pddl_domain": own("domain.txt"),
        "pddl_problem": problem,
        "grammar": grammar_for(f"Your task is to: {task}."),
    }
    moves = solve(Engine(read_game(content, "a generated game")), LONGEST)
    if not moves:  # won from the start, or not to be won in time
        return None
    return {"kind": kind, "game": {**content, "solvable": True, "walkthrough": moves}}


def _goal(rng: random.Random, kind: str, room: str, places: list[str]) -> tuple[str, str] | None:
    things = set(tables.THINGS[room])
    able = {
        "pick_clean_then_place": "cleanable",
        "pick_heat_then_place": "heatable",
        "pick_cool_then_place": "coolable",
    }
    things &= set(tables.TRAITS[able[kind]] if kind in able else things)
    if kind == "look_at_obj":
        lamps = [lamp for lamp in tables.LAMPS if set(tables.LAMP_PLACES[lamp]) & set(places)]
        thing = rng.choice(sorted(things))
        return (thing, rng.choice(lamps)) if lamps and _homes(places, thing) else None
    thing, place = rng.choice(sorted(things)), rng.choice(sorted(set(places)))
    elsewhere = [home for home in _homes(places, thing) if places[home] != place]
    return (thing, place) if thing in tables.HOLDS[place] and elsewhere else None


def _homes(places: list[str], thing: str) -> list[int]:
    return [number for number, place in enumerate(places) if thing in tables.HOLDS[place]]


def _things(rng: random.Random, kind: str, room: str, places: list[str], goal: tuple[str, str]) -> list[list]:
    """[type, number of the place] of all things; what the goal needs lies where it is not yet wanted."""
    wanted, target = goal
    homes = [home for home in _homes(places, wanted) if places[home] != target]
    found = [[wanted, rng.choice(homes)] for _ in range(2 if kind == "pick_two_obj" else rng.randint(1, 2))]
    for other in rng.sample(tables.THINGS[room], rng.randint(5, 10)):
        homes = _homes(places, other)
        if other != wanted and homes:
            found += [[other, rng.choice(homes)] for _ in range(rng.randint(1, 3))]
    if room in ("livingroom", "bedroom"):
        lamps = [target] if target in tables.LAMPS else rng.sample(tables.LAMPS, rng.randint(0, 1))
        for lamp in lamps:
            stands = [number for number, place in enumerate(places) if place in tables.LAMP_PLACES[lamp]]
            found += [[lamp, rng.choice(stands)]] if stands else []
    found += [[fixed, rng.randrange(len(places))] for fixed in rng.sample(tables.FIXED, rng.randint(0, 2))]
    return found


def _condition(kind: str, thing: str, target: str) -> str:
    if kind == "look_at_obj":
        return (
            "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and "
            f"(objectType ?ot {target}Type) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) "
            f"(atLocation ?a ?l) (inReceptacle ?ot ?r))) (exists (?o - object ?a - agent) (and "
            f"(objectType ?o {thing}Type) (holds ?a ?o))))"
        )
    there = f"(objectType {{0}} {thing}Type) (receptacleType ?r {target}Type) (inReceptacle {{0}} ?r)"
    if kind == "pick_two_obj":
        second = f"(exists (?o2 - object) (and (not (= ?o1 ?o2)) {there.format('?o2')}))"
        return f"(and (exists (?r - receptacle) (exists (?o1 - object) (and {there.format('?o1')} {second}))))"
    made = {
        "pick_and_place": "",
        "pick_clean_then_place": "(cleanable ?o) (isClean ?o) ",
        "pick_heat_then_place": "(heatable ?o) (isHot ?o) ",
        "pick_cool_then_place": "(coolable ?o) (isCool ?o) ",
    }[kind]
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {made}{there.format('?o')}))))"


def _problem(rng: random.Random, places: list[str], things: list[list], goal: str) -> str:
    spots = _Spots(rng)
    receptacles = [(place, spots.id(place), spots.location(place)) for place in places]
    objects = [(thing, spots.id(thing), receptacles[home]) for thing, home in things]
    init: list[str] = [f"(atLocation agent1 {spots.location('')})"]
    for place, name, location in receptacles:
        init += [f"(receptacleType {name} {place}Type)", f"(receptacleAtLocation {name} {location})"]
        if place in tables.OPENABLE:
            init += [f"(openable {name})"] + [f"(opened {name})"] * (rng.random() < 0.2)
    kinds = {thing for thing, _ in things}
    held = [(place, thing) for place in sorted(set(places)) for thing in tables.HOLDS[place] if thing in kinds]
    init += [f"(canContain {place}Type {thing}Type)" for place, thing in held]
    for thing, name, (_, home, location) in objects:
        location = location if rng.random() < 0.75 else spots.location("")
        init += [f"(objectType {name} {thing}Type)", f"(inReceptacle {name} {home})"]
        init += [f"(objectAtLocation {name} {location})", *_traits(thing, name)]
    for thing, name, (_, home, _location) in objects:
        hollow = [
            outer
            for kind, outer, (_, there, _) in objects
            if kind in tables.TRAITS["isReceptacleObject"] and there == home
        ]
        if thing in ("Pen", "Pencil", "Spoon", "Fork", "KeyChain") and hollow:
            init.append(f"(inReceptacleObject {name} {rng.choice(hollow)})")
    names = [f"{name} - object" for _, name, _ in objects] + [f"{name} - receptacle" for _, name, _ in receptacles]
    names += [f"{thing}Type - otype" for thing in sorted(kinds)]
    # The domain names these types, so that a room without a microwave has them too.
    tools = {"SinkBasin", "Microwave", "Fridge"}
    names += [f"{place}Type - rtype" for place in sorted(set(places) | tools)]
    names += [f"{knife}Type - otype" for knife in ("ButterKnife", "Knife") if knife not in kinds]
    names += [f"{location} - location" for location in spots.locations]
    objects_text, init_text = "\n    ".join(["agent1 - agent", *names]), "\n    ".join(init)
    return (
        f"(define (problem practice)\n  (:domain alfred)\n  (:objects\n    {objects_text})\n"
        f"  (:init\n    {init_text})\n  (:goal {goal}))\n"
    )


def _traits(thing: str, name: str) -> list[str]:
    found = [f"({trait} {name})" for trait, things in tables.TRAITS.items() if thing in things]
    return found + ([] if thing in tables.LAMPS or thing in tables.FIXED else [f"(pickupable {name})"])


class _Spots:
    """Ids with coordinates in them, all different, and locations, some shared by receptacles of one type."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids: set[str] = set()
        self.locations: list[str] = []
        self.last: dict[str, str] = {}

    def id(self, kind: str) -> str:
        while True:
            spot = "_bar_".join(self._coordinate() for _ in range(3))
            basin = kind in tables.BASINS
            name = f"{kind.removesuffix('Basin')}_bar_{spot}_bar_{kind}" if basin else f"{kind}_bar_{spot}"
            if name not in self.ids:
                self.ids.add(name)
                return name

    def _coordinate(self) -> str:
        sign = self.rng.choice(("plus", "minus"))
        return f"_{sign}_{self.rng.randint(0, 3):02d}_dot_{self.rng.randint(0, 99):02d}"

    def location(self, kind: str) -> str:
        if kind in ("Cabinet", "Drawer", "Shelf", "StoveBurner") and kind in self.last and self.rng.random() < 0.25:
            return self.last[kind]
        while True:
            x, y = (str(self.rng.randint(-12, 12)).replace("-", "_minus_") for _ in range(2))
            name = f"loc_bar_{x}_bar_{y}_bar_{self.rng.randint(0, 3)}_bar_{self.rng.choice((30, 45, 60))}"
            if name not in self.locations:
                self.locations.append(name)
                self.last[kind] = name
                return name
