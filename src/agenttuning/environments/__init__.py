"""Environments: mechanics only, no model, no prompt format.

An environment is anything with this small face:

    reset() -> str            the first observation, which states the goal
    step(action) -> Step      an invalid action is reported in the observation and changes nothing else
    score() -> float          the reward in [0, 1] of the present state
    oracle() -> Move          the scripted expert's next move in the present state
    actions() -> list[str]    some admissible actions of the present state
    close()                   gives back what the environment holds (a database, a folder, a sandbox)
    metrics() -> dict         optional: further numbers and labels of the present state (F1, exact match, a category)
    abort()                   optional, from another thread: end the call that is going on, whatever it gives then
    over: bool                optional: after reset, whether the episode has ended before the first turn; and
    ended: str                with it, how, where that is not "completed", as in Step

An action is one text; each module says in its docstring what it understands. Episodes are played in a `Room`.

The paper's six held-in tasks are the packages `os_interaction`, `db`, `kg`, `alfworld`, `webshop` and `mind2web`, found
by `held_in`. Each has

    NAME, BENCHMARK           AgentInstruct's name of the task, and the name of the benchmark it belongs to
    BACKENDS                  tuple of Backend, the real thing first, the embedded default last
    items(split, n, seed)     practice items from a generator, split "train" or "test": never items of the benchmark
    load(path)                the benchmark's own items from the user's files
    serve(name, **where)      context manager that gives the Room; `where` are the backend's options (a DSN, a path)
    DATA_OPTION               optional: the backend's option that takes the same path as `load`
    OPTIONS                   optional: {backend: its options}, where `serve` takes them all as they come
    missing(name, **where)    what this machine lacks for the backend, as list of Missing

`household`, `database`, `shop` and `files` are the miniature's own worlds, small but real: `database` is SQLite,
`files` is a folder on disk. They stand in kind for the paper's tasks and are not those tasks. Each is a module with
`NAME`, `items`, `Environment(item)`, `MAX_TURNS`, and the words of its prompt, `INSTRUCTION` and `ACKNOWLEDGEMENT`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from agenttuning.errors import UserError, nearest


@dataclass(frozen=True)
class Step:
    """What an action led to. `valid` is False when the action was not understood or not possible. `error` then names
    its kind where the paper's figure counts it apart ("function_call": a tool called in a way that cannot be run).
    `ended`: how the episode ended where that is not "completed", a name of episodes/status.py (a harness of its own).
    """

    observation: str
    done: bool = False
    valid: bool = True
    error: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Move:
    """One move of the scripted expert: what it thinks and the action it takes."""

    thought: str
    action: str


@dataclass(frozen=True)
class Backend:
    """One way to run an environment. `comparable`: a score on the benchmark's own items may be set beside the paper's;
    `label` says in one line what it is, and stands beside every score.
    """

    name: str
    label: str
    comparable: bool


@dataclass(frozen=True)
class Missing:
    """Something that a backend needs and this machine lacks, and the command that supplies it."""

    what: str
    command: str


@dataclass(frozen=True)
class Room:
    """Where episodes of one task are played: `make(item)` gives an environment.

    `isolation` is where its calls run: "inline" (microseconds, pure Python), "thread" (it waits for something outside
    of Python) or "process" (a process for each environment: it may crash, block or leak). `slots` is the most
    environments open at once, None for as many as there are episodes.
    """

    task: str
    backend: Backend
    make: Callable[[dict], Any]
    isolation: str = "inline"
    slots: int | None = None


HELD_IN = ("os", "db", "kg", "alfworld", "webshop", "mind2web")
EMBEDDED = Backend("embedded", "embedded", comparable=False)


def held_in(name: str) -> ModuleType:
    """The package of one of the paper's held-in tasks, by AgentInstruct's name. Raises UserError for another name."""
    if name not in HELD_IN:
        raise UserError(f"there is no held-in task {name!r}; it could not be played; choose from {', '.join(HELD_IN)}")
    return import_module(f"{__name__}.{'os_interaction' if name == 'os' else name}")


def backend_of(task: str, backends: tuple[Backend, ...], name: str) -> Backend:
    """The backend of that name. Raises UserError for another, naming the nearest."""
    by_name = {backend.name: backend for backend in backends}
    if name not in by_name:
        raise UserError(f"{task} has no backend {name!r}; nothing could be played; {nearest(name, by_name)}")
    return by_name[name]


def room(task: ModuleType) -> Room:
    """The room of one of the miniature's tasks."""
    return Room(task.NAME, EMBEDDED, task.Environment)


def reserved(*parts: object) -> bool:
    """True for the fifth of all combinations that only test items may use (crc32: the same on every machine)."""
    return zlib.crc32("|".join(map(str, parts)).encode()) % 5 == 0


def build_items(name: str, split: str, n: int, seed: int, draw) -> list[dict]:
    """`n` distinct items of `split` from `draw(rng, test) -> dict | None` (None: drawn again).

    An item of a split is drawn until `draw` accepts it, and no two items of one call are equal, so that n is the
    number of different problems. Raises ValueError for an unknown split or when the world is too small for n.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'test'")
    rng = random.Random(f"{name}/{split}/{seed}")
    found: list[dict] = []
    seen: set[str] = set()
    for _ in range(200 * n + 1000):
        if len(found) == n:
            return found
        item = draw(rng, split == "test")
        if item is None or repr(item) in seen:
            continue
        seen.add(repr(item))
        found.append({"id": f"{name}_{split}_{len(found)}", **item})
    if len(found) == n:
        return found
    raise ValueError(f"{name} has only {len(found)} different {split} items, {n} were asked for")


from agenttuning.environments import database, files, household, shop  # noqa: E402  (they use the names above)

TASKS = {module.NAME: module for module in (household, database, shop, files)}
