"""Reads `game.tw-pddl` files: JSON with `pddl_domain`, `pddl_problem`, `grammar`, and `solvable`, `walkthrough`.

Of the grammar only the task's text is taken: alfworld 0.4 says `move X to Y` where 0.3.3, the version of the paper's
time and of AgentInstruct's rows, says `put X in/on Y`; the engine has the words of 0.3.3 (texts.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments.alfworld import pddl
from agenttuning.environments.alfworld.facts import PLACES, Facts
from agenttuning.environments.alfworld.goals import Clause, read_goal
from agenttuning.environments.alfworld.pddl import bad
from agenttuning.environments.alfworld.rules import other_actions

MAX_BYTES = 8_000_000  # an official file has about 100,000
# alfworld's Demangler also replaces _minus_ and the like, but only after the first _bar_, which no name shows.
_BAR = "_bar_"
_TASK = re.compile(r'"(Your task is to: (?:[^"\\]|\\.){1,2000})"')


@dataclass(frozen=True)
class Game:
    """A game as it begins. `names` id -> shown name (`mug 1`); `order` their ids as lists show them; `task` the line of
    the goal; `others` names the domain's actions which the engine does not play as they are written (rules.py).
    """

    facts: Facts
    agent: str
    goal: list[Clause]
    names: dict[str, str]
    task: str
    others: tuple[str, ...]


def read_file(path: str | Path) -> dict:
    """The content of a game file. Raises UserError, naming the file, when it is no JSON object of texts."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise bad(str(path), f"it has {size:,} bytes, more than {MAX_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise bad(str(path), f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise bad(str(path), f"it is not JSON ({str(error)[:100]})") from None
    if not isinstance(content, dict):
        raise bad(str(path), f"it holds a JSON {type(content).__name__}, not an object")
    return content


def read_game(content: dict, where: str) -> Game:
    """The game of a file's content. Raises UserError that names `where` and the place."""
    for key in ("pddl_domain", "pddl_problem", "grammar"):
        if not isinstance(content.get(key), str):
            raise bad(where, f"its {key!r} is {type(content.get(key)).__name__}, not a text")
    problem = pddl.read_problem(content["pddl_problem"], where)
    for predicate, *names in problem.init:
        if PLACES.get(predicate) != len(names):
            raise bad(where, f"the fact {predicate}({', '.join(names)}) is unknown to alfworld's domain")
    facts = Facts(problem.init)
    agents = [(agent, place) for agent, places in facts.two["atlocation"].items() for place in places]
    if len(agents) != 1:
        raise bad(where, f"{len(agents)} places are given for the player, not one")
    if facts.two["holds"] or facts.one["holdsany"]:
        raise bad(where, "the player holds something from the start, which no game of alfworld has")
    shared = {name: places for name, places in facts.two["receptacleatlocation"].items() if len(places) > 1}
    if shared:
        raise bad(where, f"{min(shared)} is in {len(shared[min(shared)])} places at once")
    known = {name for fact in problem.init for name in fact[1:]}
    return Game(
        facts=facts,
        agent=agents[0][0],
        goal=read_goal(problem.goal, where),
        names=shown_names(known),
        task=task_of(content["grammar"], where),
        others=other_actions(content["pddl_domain"], where),
    )


def task_of(grammar: str, where: str) -> str:
    """The line `Your task is to: ...` of a grammar."""
    found = _TASK.search(grammar)
    try:
        task = json.loads(found[0], strict=False) if found else ""
    except ValueError:
        task = ""
    if not task or "UNKNOWN GOAL" in task:
        raise bad(where, "its grammar does not say what the task is ('Your task is to: ...')")
    return task


def shown_names(ids: set[str]) -> dict[str, str]:
    """The names that a player sees, as alfworld's Demangler gives them (agents/utils/misc.py): the part before `_bar_`,
    and a number that falls with the order of the ids, so that lists in that order count down.
    """
    counts = Counter(_stem(name) for name in ids if _BAR in name)
    names = {}
    for name in sorted(ids):
        if _BAR not in name:
            names[name] = f"{name} "  # the original's; nothing without a number is ever listed
            continue
        stem = _stem(name)
        names[name] = f"{stem} {counts[stem]}"
        counts[stem] -= 1
    return names


def _stem(name: str) -> str:
    return name.split(_BAR, 1)[0] + ("basin" if "basin" in name else "")
