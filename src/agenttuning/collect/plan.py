"""The file that a collection is described in, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments import HELD_IN, TASKS
from agenttuning.errors import UserError
from agenttuning.recipe.schema import build
from agenttuning.recipe.yaml_io import read_mapping


@dataclass(frozen=True)
class Scripted:
    """A teacher that plays the oracle's moves with slips (policies/teacher.py)."""

    slip: float
    give_up: float
    seed: int

    @property
    def name(self) -> str:
        return f"teacher(slip={self.slip}, give_up={self.give_up}, seed={self.seed})"


@dataclass(frozen=True)
class Served:
    """A teacher behind an OpenAI-compatible server: its URL, its name there, the variable that holds the key."""

    server: str
    model: str
    seed: int
    temperature: float = 1.0
    max_new_tokens: int = 512
    api_key_env: str | None = None
    concurrency: int = 16

    @property
    def name(self) -> str:
        return self.model


@dataclass(frozen=True)
class Task:
    """items: training items that are played. threshold: the least reward that is kept, in [0, 1]; 0: no filter.

    backend, env: of a held-in task, as eval-held-in takes them. data: the user's own training items instead of practice
    items. against: the benchmark's items, which the kept rows are compared with; else our own test items.
    """

    items: int
    threshold: float
    backend: str = "auto"
    env: dict | None = None
    data: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Plan:
    """A whole collection. prompts: AgentInstruct's rows or a checkout, for a protocol that reads them."""

    teacher: Scripted | Served
    tasks: dict[str, Task]
    out: str
    seed: int
    protocol: str
    prompts: str | None


@dataclass(frozen=True)
class _File:
    teacher: dict
    tasks: dict
    out: str
    seed: int = 0
    protocol: str = "miniature"
    prompts: str | None = None


def read_plan(path: Path) -> Plan:
    """Read the file. Raises UserError for unknown keys, tasks and values that would not do what they say."""
    top = build(_File, read_mapping(path), str(path))
    kind = Served if isinstance(top.teacher, dict) and "server" in top.teacher else Scripted
    teacher = build(kind, top.teacher, f"{path}: teacher")
    tasks = {name: build(Task, task, f"{path}: tasks.{name}") for name, task in top.tasks.items()}
    _check(tasks, path)
    if isinstance(teacher, Served) and teacher.concurrency < 1:
        raise UserError(f"{path}: teacher.concurrency is {teacher.concurrency}; nothing would be asked; at least 1")
    return Plan(teacher, tasks, top.out, top.seed, top.protocol, top.prompts)


def _check(tasks: dict[str, Task], path: Path) -> None:
    known = [*TASKS, *HELD_IN]
    if not tasks:
        raise UserError(f"{path}: tasks is empty; nothing would be collected; name some of {', '.join(known)}")
    for name, task in tasks.items():
        if name not in known:
            raise UserError(
                f"{path}: there is no task {name!r}; it could not be played; choose from {', '.join(known)}"
            )
        if task.items < 1 or not 0 <= task.threshold <= 1:
            raise UserError(
                f"{path}: tasks.{name} has items {task.items} and threshold {task.threshold}; nothing would "
                "be kept, or other than what was meant; items must be at least 1, and threshold from 0 (no filter) to 1"
            )
        if name in TASKS and (task.backend, task.env, task.data, task.against) != ("auto", None, None, None):
            raise UserError(
                f"{path}: tasks.{name} is of the miniature, which has no backend, env, data or against; they would do "
                "nothing; leave them out"
            )
