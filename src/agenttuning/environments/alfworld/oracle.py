"""The scripted expert: reads the goal's clauses, knows where everything is, and takes the next move from any state."""

from __future__ import annotations

from agenttuning.environments import Move
from agenttuning.environments.alfworld.engine import ABLE, MADE, TOOLS, Engine
from agenttuning.environments.alfworld.goals import Clause


def solve(engine: Engine, longest: int) -> list[str]:
    """The expert's commands from a state to the goal, at most `longest`; [] when that is not enough. Plays them."""
    commands = []
    while not engine.won():
        if len(commands) == longest:
            return []
        commands.append(next_move(engine).action)
        if engine.act(commands[-1]) is None:
            return []
    return commands


def next_move(engine: Engine) -> Move:
    """The next move towards the goal; `look` where there is none (a goal that this state cannot reach)."""
    for clause in engine.game.goal:
        if clause.of("inreceptacle") and not clause.of("istoggled"):
            return _place(engine, clause)
    return _light(engine)


def _things(engine: Engine, clause: Clause, variable: str) -> list[str]:
    """The things that a variable of a clause may stand for, in the order of their ids."""
    kinds = {atom[1] for atom in clause.of("objecttype") if atom[0] == variable}
    found = [thing for thing in sorted(engine.facts.two["objecttype"]) if kinds <= engine.facts.of("objecttype", thing)]
    for able in ABLE.values():
        if (variable,) in clause.of(able):
            found = [thing for thing in found if thing in engine.facts.one[able]]
    return found


def _place(engine: Engine, clause: Clause) -> Move:
    if not clause.of("receptacletype"):
        return _stuck()  # none of the six tasks
    things = _things(engine, clause, clause.of("inreceptacle")[0][0])
    verb = next((verb for verb, made in MADE.items() if clause.of(made)), None)
    kind = clause.of("receptacletype")[0][1]
    targets = [place for place in engine.receptacles if kind in engine.facts.of("receptacletype", place)]
    targets = [place for place in targets if any(engine.takes_in(place, thing) for thing in things)]
    if not targets or not things:
        return _stuck()
    done = {place: [t for t in engine.contents(place) if t in things and _ready(engine, verb, t)] for place in targets}
    target = max(targets, key=lambda place: (len(done[place]), place))
    held = engine.held
    if held in things:
        if not _ready(engine, verb, held):
            tools = [p for p in engine.receptacles if TOOLS[verb] in engine.facts.of("receptacletype", p)]
            return _stuck() if not tools else _use_tool(engine, verb, held, _nearest(engine, tools))
        return _put(engine, held, target)
    if held is not None:
        return _free_hand(engine)
    left = [thing for thing in things if thing not in done[target] and _home(engine, thing) is not None]
    return _fetch(engine, min(left, key=lambda t: (not _ready(engine, verb, t), t))) if left else _stuck()


def _light(engine: Engine) -> Move:
    lit = next((clause for clause in engine.game.goal if clause.of("istoggled")), None)
    carried = next((clause for clause in engine.game.goal if clause.of("holds")), None)
    if lit is None or carried is None:
        return _stuck()
    things = _things(engine, carried, carried.of("holds")[0][1])
    lamps = [lamp for lamp in _things(engine, lit, lit.of("istoggled")[0][0]) if _home(engine, lamp) is not None]
    if not lamps:
        return _stuck()
    if engine.held is None:
        left = [thing for thing in things if _home(engine, thing) is not None]
        return _fetch(engine, left[0]) if left else _stuck()
    if engine.held not in things:
        return _free_hand(engine)
    lamp, name = lamps[0], engine.name[lamps[0]]
    stand = _home(engine, lamp)
    return _at(engine, stand) or Move(f"I hold the {engine.name[engine.held]} and see the {name}.", f"use {name}")


def _ready(engine: Engine, verb: str | None, thing: str) -> bool:
    return verb is None or thing in engine.facts.one[MADE[verb]]


def _home(engine: Engine, thing: str) -> str | None:
    homes = [place for place in engine.facts.of("inreceptacle", thing) if place in engine.place_of]
    return min(homes, default=None)


def _nearest(engine: Engine, places: list[str]) -> str:
    return next((place for place in places if engine.place_of[place] == engine.here), places[0])


def _at(engine: Engine, place: str, why: str = "") -> Move | None:
    """The move that leads to a place, None for who is there."""
    if engine.place_of[place] == engine.here:
        return None
    name = engine.name[place]
    return Move(why or f"Next I need the {name}.", f"go to {name}")


def _reach(engine: Engine, place: str, why: str) -> Move | None:
    """The move that leads to a place that can be reached into, None for who is there."""
    name = engine.name[place]
    closed = None if engine.is_open(place) else Move(f"The {name} is closed.", f"open {name}")
    return _at(engine, place, why) or closed


def _fetch(engine: Engine, thing: str) -> Move:
    name, home = engine.name[thing], _home(engine, thing)
    there = engine.name[home]
    take = Move(f"Here is the {name}.", f"take {name} from {there}")
    return _reach(engine, home, f"I need the {name}. It should be at the {there}.") or take


def _put(engine: Engine, thing: str, place: str) -> Move:
    name, there = engine.name[thing], engine.name[place]
    put = Move(f"Now I put the {name} there.", f"put {name} in/on {there}")
    return _reach(engine, place, f"I hold the {name}. It goes to the {there}.") or put


def _use_tool(engine: Engine, verb: str, thing: str, tool: str) -> Move:
    name, there = engine.name[thing], engine.name[tool]
    use = Move(f"Now I {verb} the {name}.", f"{verb} {name} with {there}")
    return _at(engine, tool, f"I have to {verb} the {name} with the {there}.") or use


def _free_hand(engine: Engine) -> Move:
    held = engine.held
    places = [place for place in engine.receptacles if engine.takes_in(place, held)]
    return _put(engine, held, _nearest(engine, places)) if places else _stuck()


def _stuck() -> Move:
    return Move("I see no way to do this.", "look")
