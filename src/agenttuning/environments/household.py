"""A household text world after ALFWorld's pattern: find a thing, carry it, put, clean or light it.

An item is a layout (places and what they hold) and a goal. Test items use (object, target) pairs and layouts that
training never shows. Unlike ALFWorld's, its room is seen at a glance, by `look`: telling at each place whether the
thing is among what lies there was beyond a model of a million parameters (docs/notes/miniature.md).
"""

from __future__ import annotations

import random

from agenttuning.environments import Move, Step, build_items, reserved
from agenttuning.environments.words import OBJECTS, PLACES

NAME = "household"
INSTRUCTION = "You are in a house. Do the task. Actions: look, go to, take from, put in, clean, light."
ACKNOWLEDGEMENT = "Ok."
MAX_TURNS = 14
KINDS = ("put", "clean", "light")


def _draw(rng: random.Random, test: bool) -> dict | None:
    kind = rng.choice(KINDS)
    goal = rng.choice(OBJECTS)
    # What a goal needs is always there: a sink to clean at, a lamp to light a thing with.
    need = {"put": (), "clean": ("sink",), "light": ("lamp",)}[kind]
    target = "lamp" if kind == "light" else rng.choice([place for place in PLACES if place not in need])
    if reserved(NAME, kind, goal, target) != test:
        return None
    others = [place for place in PLACES if place not in (target, *need)]
    places = [*dict.fromkeys([target, *need]), *rng.sample(others, rng.randint(2, 3))]
    rng.shuffle(places)
    homes = [place for place in places if place != target]
    layout = {place: [] for place in places}
    layout[rng.choice(homes)].append(goal)
    for thing in rng.sample([thing for thing in OBJECTS if thing != goal], rng.randint(2, 4)):
        layout[rng.choice(places)].append(thing)
    for things in layout.values():
        rng.shuffle(things)
    if reserved(NAME, "layout", layout) != test:
        return None
    return {"kind": kind, "goal": goal, "target": target, "layout": layout}


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` items of a split; see the package for the face."""
    return build_items(NAME, split, n, seed, _draw)


def _goal_text(item: dict) -> str:
    if item["kind"] == "light":
        return f"light the {item['goal']} with the lamp"
    start = "clean the {0} and put it in the {1}" if item["kind"] == "clean" else "put the {0} in the {1}"
    return start.format(item["goal"], item["target"])


class Environment:
    """One household; the state is where the player is, what it holds, what is clean and what was lit."""

    def __init__(self, item: dict) -> None:
        self.item = item

    def reset(self) -> str:
        """The task."""
        self.contents = {place: list(things) for place, things in self.item["layout"].items()}
        self.here: str | None = None
        self.held: str | None = None
        self.looked = False
        self.clean: set[str] = set()
        self.lit: set[str] = set()
        return f"Task: {_goal_text(self.item)}."

    def step(self, action: str) -> Step:
        """`look`, `go to P`, `take O from P`, `put O in P`, `clean O` (at a sink), `light O` (at a lamp)."""
        match action.split():
            case ["look"]:
                self.looked = True
                seen = [f"{thing} in {place}" for place, things in self.contents.items() for thing in things]
                return Step(f"You see {', '.join(seen) or 'nothing'}.")
            case ["go", "to", place] if place in self.contents:
                self.here = place
                return Step(f"You are at the {place}.")
            case ["take", thing, "from", place] if (
                place == self.here and self.held is None and thing in self.contents[place]
            ):
                self.contents[place].remove(thing)
                self.held = thing
                return Step(f"You hold the {thing}.")
            case ["put", thing, "in", place] if place == self.here and thing == self.held:
                self.contents[place].append(thing)
                self.held = None
                return self._after(f"The {thing} is in the {place}.")
            case ["clean", thing] if self.here == "sink" and thing == self.held:
                self.clean.add(thing)
                return Step(f"The {thing} is clean.")
            case ["light", thing] if self.here == "lamp" and thing == self.held:
                self.lit.add(thing)
                return self._after(f"The {thing} is lit.")
        return Step("Nothing happens.", valid=False)

    def _after(self, observation: str) -> Step:
        return Step(observation, done=self.score() == 1.0)

    def score(self) -> float:
        """1.0 when the goal holds, else 0.0 (ALFWorld's success)."""
        goal, target, kind = self.item["goal"], self.item["target"], self.item["kind"]
        if kind == "light":
            return float(goal in self.lit)
        return float(goal in self.contents[target] and (kind == "put" or goal in self.clean))

    def oracle(self) -> Move:
        """Look, fetch the thing, carry it; each thought restates what the action rests on."""
        goal, target, kind = self.item["goal"], self.item["target"], self.item["kind"]
        if self.held is not None and self.held != goal:
            return Move(f"the {self.held} is not the {goal}. put it back.", f"put {self.held} in {self.here}")
        if self.held == goal:
            stop = "sink" if kind == "clean" and goal not in self.clean else target
            if self.here != stop:
                return Move(f"I hold the {goal}. next the {stop}.", f"go to {stop}")
            if stop == "sink" and kind == "clean" and goal not in self.clean:
                return Move(f"I hold the {goal} in the sink.", f"clean {goal}")
            return Move(
                f"I hold the {goal} in the {target}.",
                f"{'light ' + goal if kind == 'light' else f'put {goal} in {target}'}",
            )
        if not self.looked:
            return Move(f"find the {goal}.", "look")
        home = next(place for place, things in self.contents.items() if goal in things)
        return Move(f"{goal} in {home}.", f"go to {home}" if self.here != home else f"take {goal} from {home}")

    def actions(self) -> list[str]:
        """Admissible actions now."""
        found = ["look", *(f"go to {place}" for place in self.contents)]
        if self.here is not None and self.held is None:
            found += [f"take {thing} from {self.here}" for thing in self.contents[self.here]]
        if self.here is not None and self.held is not None:
            found.append(f"put {self.held} in {self.here}")
            found += [f"clean {self.held}"] * (self.here == "sink") + [f"light {self.held}"] * (self.here == "lamp")
        return found

    def close(self) -> None:
        """Nothing to give back."""
