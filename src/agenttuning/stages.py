"""One of the held-in tasks made ready to play: for an evaluation, and for a collection.

Backend, items and prompts are chosen here, and said here is whether a score over them is one of the benchmark.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from agenttuning import protocols
from agenttuning.environments import HELD_IN, Backend, Room, backend_of, benchmark_items, held_in
from agenttuning.errors import UserError, nearest
from agenttuning.protocols.messages import Prompts, own
from agenttuning.protocols.prompts import load as load_prompts
from agenttuning.protocols.prompts import not_the_papers

PAPER = ("paper-text", "paper-code")  # the protocols whose scores may be set beside the paper's


@dataclass(frozen=True)
class Stage:
    """One task made ready: its items and what they are, how they are opened, and the backend they are played in."""

    task: str
    module: ModuleType
    room: Room
    where: dict[str, str]
    items: list[dict]
    practice: bool
    prompts: Prompts
    wanted: int  # items of the benchmark
    protocol: protocols.Protocol
    whole: list[dict] = field(default_factory=list)  # of the user's items all, also those that are not played

    @property
    def backend(self) -> Backend:
        """The room's own: what it is may depend on what it found (changed files, a missing model)."""
        return self.room.backend

    @property
    def why_not(self) -> str | None:
        """Why the score is not one of the benchmark; None where it is."""
        if self.practice:
            return "practice items of our own"
        if not self.backend.comparable:
            return f"backend {self.backend.name}: {self.backend.label}"
        if len(self.items) != self.wanted:
            return f"{len(self.items)} items, and the benchmark has {self.wanted}"
        if other := benchmark_items.differ(self.task, self.items):
            return other
        if not _is_the_papers(self.protocol):
            return f"protocol {self.protocol.label} is not the paper's"
        return not_the_papers(self.task, self.prompts(self.items[0]))

    @property
    def name(self) -> str:
        """What the score is to be reported as."""
        return self.task if self.why_not is None else self.other_name

    @property
    def other_name(self) -> str:
        """What a score is reported as that is not the benchmark's."""
        group = f"practice-{self.task}" if self.practice else self.items[0]["id"].rpartition("_")[0]
        return f"{group}.{self.backend.name}"


def prepare(
    task: str,
    rules: protocols.Protocol,
    held: ExitStack,
    *,
    split: str = "test",
    seed: int | None = None,
    most: int | None = None,
    backend: str = "auto",
    where: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    prompts: str | Path | None = None,
) -> Stage:
    """One held-in task made ready, its room opened into `held`.

    Items are those of `data`, or practice items of a split drawn by `seed` (default: the protocol's): `most` of them,
    but of the test split no more than the benchmark has, which is the default. where: options of the backend. Raises
    UserError for what cannot be read, or not be played here.
    """
    module, told, where = held_in(task), rules.rules(task), dict(where or {})
    if data is not None and (option := getattr(module, "DATA_OPTION", None)):
        where.setdefault(option, str(data))  # the backend is stocked from where the items are
    chosen = choose_backend(module, _asked(module, backend, data), where)
    if most is not None and most < 1:
        raise UserError(f"{most} items were asked for; a score needs at least 1")
    whole = [] if data is None else module.load(data)
    if data is None:
        n = most if most is not None and split == "train" else min(told.n, most or told.n)
        items = module.items(split, n, told.seed if seed is None else seed)
    else:
        items = whole[:most]
    if not items:
        raise UserError(f"{data} holds no item of {task} that can be played; there would be nothing to score")
    texts = import_module(f"agenttuning.protocols.{told.format}")
    opening = own(texts) if rules.prompts == "ours" else load_prompts(task, prompts)
    room = held.enter_context(module.serve(chosen.name, **where))
    return Stage(task, module, room, where, items, data is None, opening, told.n, rules, whole)


def choose_backend(module: ModuleType, asked: str, where: Mapping[str, str]) -> Backend:
    """The backend that was asked for, or for "auto" the first that lacks nothing here. Raises UserError, naming what
    is missing and the command that supplies it.
    """
    check_options(module, where)
    wanted = module.BACKENDS if asked == "auto" else (backend_of(module.NAME, module.BACKENDS, asked),)
    lacks: list[str] = []
    for backend in wanted:
        missing = module.missing(backend.name, **where)
        if not missing:
            return backend
        lacks += [f"  {backend.name} needs {one.what}: {one.command}" for one in missing]
    raise UserError("\n".join([f"{module.NAME} cannot be played here; `agenttuning doctor` shows what can", *lacks]))


def _asked(module: ModuleType, asked: str, data: str | Path | None) -> str:
    """The name to choose by: practice items are made for the embedded backend, which needs no server."""
    return module.BACKENDS[-1].name if asked == "auto" and data is None else asked


def check_options(module: ModuleType, where: Mapping[str, Any]) -> None:
    """Raise UserError for an option that no backend of the task has."""
    known = list(inspect.signature(module.serve).parameters)[1:]
    if by_backend := getattr(module, "OPTIONS", None):  # `serve` itself checks that the backend has them
        known = sorted(set().union(*by_backend.values()))
    for name in where:
        if name not in known:
            raise UserError(f"{module.NAME} has no option {name!r}; it would do nothing; {nearest(name, known)}")


def check_names(names: Iterable[str]) -> None:
    """Raise UserError for a name that is none of the six tasks'."""
    for name in names:
        if name not in HELD_IN:
            raise UserError(f"there is no held-in task {name!r}; it cannot be played; {nearest(name, HELD_IN)}")


def _is_the_papers(rules: protocols.Protocol) -> bool:
    """Whether these are the rules that this repository keeps for the paper's scores, value for value."""
    return rules.name in PAPER and rules == protocols.load(protocols.FOLDER / f"{rules.name}.yaml")


def digest(content: Any) -> str:
    """sha256, in hex, of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
