"""Builds the game that an AgentInstruct ALFWorld conversation shows, so that the conversation can be played again.

What the answers show is taken as it was first seen: receptacles and what they hold, what is closed, which receptacles
share a place (`go to X` answered by the nearest other receptacle: it was not admissible from where one stood).
"""

from __future__ import annotations

import re

from agenttuning.environments.alfworld.generator import grammar_for, own

_THING = re.compile(r"\ba ([a-z]+) (\d+)")
_SEEN = re.compile(r"(?:On|The) (?:the )?([a-z]+ \d+)(?:, you see| is open\. In it, you see) (.*)\.$")
_CLOSED = re.compile(r"The ([a-z]+ \d+) is closed\.")
GOALS = {
    "put two (.*) in (.*)": "pick_two_obj",
    "heat some (.*) and put it in (.*)": "isHot",
    "put a hot (.*) in (.*)": "isHot",
    "put a (.*) in (.*)": "",
}


def game_of(conversations: list[dict]) -> dict:
    """The content of a game file, from the messages after the instruction and its acknowledgement."""
    task = re.search(r"Your task is to: .*", conversations[2]["value"])[0]
    room = conversations[2]["value"].split("\n")[0]
    places = [f"{kind} {number}" for kind, number in _THING.findall(room)]
    contents: dict[str, list[str]] = {}
    closed, shared, moved, here = set(), {}, set(), None
    for asked, answered in zip(conversations[3::2], conversations[4::2], strict=False):
        action, answer = asked["value"].split("ACTION: ")[-1].strip(), answered["value"]
        closed |= {name for name in _CLOSED.findall(answer) if name not in contents}
        seen = _SEEN.search(answer)
        if seen and seen[1] not in contents:
            contents[seen[1]] = [f"{a} {b}" for a, b in _THING.findall(seen[2])]
            contents[seen[1]] = [thing for thing in contents[seen[1]] if thing not in moved]
        if action.startswith("go to "):
            if here is not None and action[6:] not in answer:
                shared[action[6:]] = here
            here = re.search(r"(?:On the|The) ([a-z]+ \d+)", answer)[1]
        if action.startswith("take "):
            moved.add(action[5:].split(" from ")[0])
    return _content(task, places, contents, closed, shared)


def _content(task: str, places: list[str], contents: dict, closed: set[str], shared: dict[str, str]) -> dict:
    things = sorted({thing for inside in contents.values() for thing in inside})
    # A number that was never seen belongs to a thing that lies nowhere: the others' numbers depend on it.
    most: dict[str, int] = {}
    for name in (*things, *places):
        kind, number = name.split()
        most[kind] = max(most.get(kind, 0), int(number))
    ids = {f"{kind} {n}": _id(kind, most[kind] - n) for kind in most for n in range(1, most[kind] + 1)}
    kinds = {kind for kind in most if f"{kind} 1" not in places}
    init = ["(atLocation agent1 loc_start)"]
    for place in places:
        init += [f"(receptacleType {ids[place]} {place.split()[0]}Type)"]
        init += [f"(receptacleAtLocation {ids[place]} loc_{ids[shared.get(place, place)]})"]
        init += [f"(openable {ids[place]})"] * (place in closed)
    for thing, name in ids.items():
        kind = thing.split()[0]
        if kind in kinds:
            init += [f"(objectType {name} {kind}Type) (pickupable {name}) (heatable {name})"]
    init += [f"(inReceptacle {ids[thing]} {ids[place]})" for place, inside in contents.items() for thing in inside]
    stands = {place.split()[0] for place in places}
    init += [f"(canContain {stand}Type {kind}Type)" for stand in sorted(stands) for kind in sorted(kinds)]
    names = {f"{ids[thing]} - object" for thing in ids if thing.split()[0] in kinds}
    names |= {f"{ids[place]} - receptacle loc_{ids[place]} - location" for place in places}
    names |= {f"{kind}Type - otype" for kind in kinds} | {f"{kind}Type - rtype" for kind in stands}
    objects = " ".join(["agent1 - agent loc_start - location", *sorted(names)])
    goal = _goal(task.removeprefix("Your task is to: ").rstrip("."))
    problem = f"(define (problem p) (:domain alfred) (:objects {objects}) (:init {' '.join(init)}) (:goal {goal}))"
    return {"pddl_domain": own("domain.txt"), "pddl_problem": problem, "grammar": grammar_for(task)}


def _id(kind: str, place: int) -> str:
    basin = kind.endswith("basin")
    return f"{kind.removesuffix('basin')}_bar_{place:03d}" + f"_bar_{kind}" * basin


def _goal(task: str) -> str:
    matches = ((re.fullmatch(pattern, task), kind) for pattern, kind in GOALS.items())
    found, kind = next((found, kind) for found, kind in matches if found)
    there = f"(objectType {{0}} {found[1]}Type) (receptacleType ?r {found[2]}Type) (inReceptacle {{0}} ?r)"
    if kind == "pick_two_obj":
        there = f"{there.format('?o')} (exists (?p - object) (and (not (= ?o ?p)) {there.format('?p')}))"
    elif kind:
        there = f"({kind} {{0}}) {there}"
    return f"(exists (?r - receptacle) (exists (?o - object) (and {there.format('?o')})))"
