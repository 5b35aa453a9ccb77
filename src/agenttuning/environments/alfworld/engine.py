"""Plays a game: which commands are admissible, what each changes, what it answers, and whether the goal holds.

The rules are those of alfworld's domain (alfworld/data/alfred.pddl) as TextWorld's planner grounds it, which differs
from the letter in two points: a command that changes nothing is not offered (`go to` where one already is), and only
the thing in the hand can be examined, since the other half of examineObject's condition has a comma in it.
"""

from __future__ import annotations

from collections.abc import Callable

from agenttuning.environments.alfworld import texts
from agenttuning.environments.alfworld.game import Game
from agenttuning.environments.alfworld.goals import holds

KNIVES = ("knifetype", "butterknifetype")
TOOLS = {"clean": "sinkbasintype", "heat": "microwavetype", "cool": "fridgetype"}
ABLE = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}
MADE = {"clean": "isclean", "heat": "ishot", "cool": "iscool"}


class Engine:
    """A game in play. Things and places are named by their ids; `name` gives what a player reads."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.facts = game.facts.copy()
        self.name = game.names
        at = game.facts.two["receptacleatlocation"]
        self.place_of = {receptacle: min(places) for receptacle, places in at.items() if places}
        self.receptacles = sorted(self.place_of)
        # Left behind by `take`: TextWorld then knows that the thing is not there, which `look` asks for.
        self.taken: dict[str, set[str]] = {}
        self._commands: dict[str, Callable[[], str]] | None = None

    @property
    def here(self) -> str:
        """The location of the player."""
        return self.facts.first("atlocation", self.game.agent)

    @property
    def held(self) -> str | None:
        """The thing in the player's hand."""
        return self.facts.first("holds", self.game.agent)

    def near(self) -> list[str]:
        """The receptacles at the player's location."""
        here = self.here
        return [receptacle for receptacle in self.receptacles if self.place_of[receptacle] == here]

    def contents(self, receptacle: str) -> list[str]:
        """The things in or on a receptacle, in the order of their ids."""
        return sorted(thing for thing, places in self.facts.two["inreceptacle"].items() if receptacle in places)

    def is_open(self, receptacle: str) -> bool:
        """True when one can reach into it."""
        one = self.facts.one
        return receptacle not in one["openable"] or receptacle in one["opened"]

    def takes_in(self, receptacle: str, thing: str) -> bool:
        """True when a thing of this type may be put there."""
        kinds = self.facts.of("objecttype", thing)
        return any(kinds & self.facts.of("cancontain", kind) for kind in self.facts.of("receptacletype", receptacle))

    def won(self) -> bool:
        """True when the goal holds."""
        return holds(self.game.goal, self.facts)

    def intro(self) -> str:
        """The first observation."""
        room = self._look() if self.near() else texts.room(self._names(self.receptacles))
        return texts.intro(room, self.game.task)

    def admissible(self) -> list[str]:
        """The admissible commands, sorted, as TextWorld lists them."""
        return sorted(self.commands())

    def act(self, command: str) -> str | None:
        """Carry out a command and return the answer; None, and no change, for one that is not admissible."""
        act = self.commands().get(command)
        if act is None:
            return None
        self._commands = None
        return act()

    def commands(self) -> dict[str, Callable[[], str]]:
        """The admissible commands and what carries each out."""
        if self._commands is None:
            self._commands = self._all()
        return self._commands

    def _all(self) -> dict[str, Callable[[], str]]:
        name, here, held, one = self.name, self.here, self.held, self.facts.one
        found: dict[str, Callable[[], str]] = {"look": self._look, "inventory": self._inventory}
        for receptacle in self.receptacles:
            if self.place_of[receptacle] != here:
                found[f"go to {name[receptacle]}"] = lambda r=receptacle: self._go(r)
                continue
            found[f"examine {name[receptacle]}"] = lambda r=receptacle: self._see(r)
            if receptacle in one["openable"]:
                if receptacle in one["opened"]:
                    found[f"close {name[receptacle]}"] = lambda r=receptacle: self._close(r)
                else:
                    found[f"open {name[receptacle]}"] = lambda r=receptacle: self._open(r)
            self._inside(receptacle, found)
            if held is not None:
                self._with(receptacle, held, found)
        if held is not None:
            found[f"examine {name[held]}"] = lambda: self._examine(held)
            if self.facts.of("objecttype", held) & set(KNIVES):
                for thing, places in self.facts.two["objectatlocation"].items():
                    if here in places and thing in one["sliceable"]:
                        found[f"slice {name[thing]} with {name[held]}"] = lambda t=thing: self._slice(t, held)
        return found

    def _inside(self, receptacle: str, found: dict) -> None:
        name, one = self.name, self.facts.one
        reachable = self.held is None and self.is_open(receptacle)
        for thing in self.contents(receptacle):
            if thing in one["toggleable"]:
                found[f"use {name[thing]}"] = lambda t=thing: self._use(t)
            if reachable and thing in one["pickupable"]:
                found[f"take {name[thing]} from {name[receptacle]}"] = lambda t=thing: self._take(t, receptacle)

    def _with(self, receptacle: str, held: str, found: dict) -> None:
        name = self.name
        if self.is_open(receptacle) and self.takes_in(receptacle, held):
            found[f"put {name[held]} in/on {name[receptacle]}"] = lambda: self._put(held, receptacle)
        for verb, tool in TOOLS.items():
            if held in self.facts.one[ABLE[verb]] and tool in self.facts.of("receptacletype", receptacle):
                found[f"{verb} {name[held]} with {name[receptacle]}"] = lambda v=verb: self._change(v, held, receptacle)

    def _names(self, ids: list[str]) -> list[str]:
        return [self.name[thing] for thing in ids]

    def _look(self) -> str:
        near = self.near()
        if not near:
            return texts.room([])  # the original's: the command, unlike the first look, asks for what is at the place
        here = self.here
        floor = [
            thing
            for thing, places in sorted(self.facts.two["objectatlocation"].items())
            if here in places
            for receptacle in near
            if thing in self.taken.get(receptacle, ())
        ]
        return texts.facing(self._names(near), self._names(floor))

    def _inventory(self) -> str:
        return texts.inventory(self._names([self.held] if self.held else []))

    def _see(self, receptacle: str) -> str:
        one = self.facts.one
        openable, opened = receptacle in one["openable"], receptacle in one["opened"]
        return texts.receptacle(self.name[receptacle], openable, opened, self._names(self.contents(receptacle)))

    def _examine(self, thing: str) -> str:
        one = self.facts.one
        inside = None
        if thing in one["isreceptacleobject"]:
            pairs = self.facts.two["inreceptacleobject"].items()
            inside = self._names(sorted(inner for inner, outer in pairs if thing in outer))
        states = (thing in one[state] for state in ("isclean", "ishot", "iscool", "issliced"))
        return texts.thing(self.name[thing], inside, *states)

    def _go(self, receptacle: str) -> str:
        self.facts.drop("atlocation", self.game.agent, self.here)
        self.facts.add("atlocation", self.game.agent, self.place_of[receptacle])
        return self._see(receptacle)

    def _open(self, receptacle: str) -> str:
        self.facts.add("opened", receptacle)
        return texts.opens(self.name[receptacle], self._see(receptacle))

    def _close(self, receptacle: str) -> str:
        self.facts.drop("opened", receptacle)
        return texts.closes(self.name[receptacle])

    def _take(self, thing: str, receptacle: str) -> str:
        self.facts.drop("inreceptacle", thing, receptacle)
        self.facts.drop("objectatlocation", thing, self.here)
        self.facts.add("holds", self.game.agent, thing)
        self.taken.setdefault(receptacle, set()).add(thing)
        return texts.takes(self.name[thing], self.name[receptacle])

    def _put(self, thing: str, receptacle: str) -> str:
        self.facts.add("inreceptacle", thing, receptacle)
        self.facts.add("objectatlocation", thing, self.here)
        self.facts.drop("holds", self.game.agent, thing)
        self.taken.get(receptacle, set()).discard(thing)
        return texts.puts(self.name[thing], self.name[receptacle])

    def _change(self, verb: str, thing: str, receptacle: str) -> str:
        self.facts.add(MADE[verb], thing)
        if verb != "clean":
            self.facts.drop(MADE["cool" if verb == "heat" else "heat"], thing)
        say = {"clean": texts.cleans, "heat": texts.heats, "cool": texts.cools}[verb]
        return say(self.name[thing], self.name[receptacle])

    def _use(self, thing: str) -> str:
        (self.facts.drop if thing in self.facts.one["ison"] else self.facts.add)("ison", thing)
        self.facts.add("istoggled", thing)
        return texts.turns_on(self.name[thing])

    def _slice(self, thing: str, knife: str) -> str:
        self.facts.add("issliced", thing)
        return texts.slices(self.name[thing], self.name[knife])
