"""How an episode is played and judged, read from a versioned file in evaluation/protocols/.

The values live in YAML because a score without them is not a score; the file is read strictly, since a misspelt limit
that silently keeps its default would change the numbers and leave the version as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY, build, one_of
from agenttuning.recipe.yaml_io import read_mapping

MINIATURE = REPOSITORY / "evaluation" / "protocols" / "miniature.yaml"


@dataclass(frozen=True)
class Decoding:
    """How the model is asked: `temperature` 0 is greedy."""

    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class Limits:
    """What ends an episode early: identical replies in a row, refused actions in a row. `action_chars`: the most
    characters of an action that reach the environment.
    """

    repetition: int
    invalid_in_a_row: int
    action_chars: int


@dataclass(frozen=True)
class TaskRules:
    """One task: turns of the model, number of test items and the seed that draws them, headline metric."""

    max_turns: int
    n: int
    seed: int
    group: str = one_of("held_in", "held_out")
    metric: str = one_of("success_rate", "reward")


@dataclass(frozen=True)
class Protocol:
    """The rules of play. `void_above` is the share in [0, 1] of lost episodes above which a task has no score."""

    name: str
    version: int
    decoding: Decoding
    limits: Limits
    void_above: float
    tasks: dict[str, TaskRules]

    @property
    def label(self) -> str:
        """`name@version`, as it stands in every record and score."""
        return f"{self.name}@{self.version}"

    def rules(self, task: str) -> TaskRules:
        """The rules of one task. Raises UserError when the protocol does not name it."""
        if task not in self.tasks:
            raise UserError(
                f"protocol {self.label} has no task {task!r}; its turns and its number of items would be a guess; "
                f"choose one of {', '.join(self.tasks)}, or add it to the protocol file under a new version"
            )
        return self.tasks[task]


@dataclass(frozen=True)
class _File:
    name: str
    version: int
    void_above: float
    decoding: dict
    limits: dict
    tasks: dict


def load(path: str | Path = MINIATURE) -> Protocol:
    """Read a protocol file. Raises UserError for a missing key, an unknown one (naming the nearest) or a bad value."""
    path = Path(path)
    top = build(_File, read_mapping(path), str(path))
    protocol = Protocol(
        name=top.name,
        version=top.version,
        decoding=build(Decoding, top.decoding, f"{path}: decoding"),
        limits=build(Limits, top.limits, f"{path}: limits"),
        void_above=top.void_above,
        tasks={name: build(TaskRules, rules, f"{path}: tasks.{name}") for name, rules in top.tasks.items()},
    )
    _check_ranges(protocol, path)
    return protocol


def _check_ranges(protocol: Protocol, path: Path) -> None:
    decoding, limits = protocol.decoding, protocol.limits
    wanted = [
        ("version", protocol.version, protocol.version >= 1, "at least 1"),
        ("void_above", protocol.void_above, 0 <= protocol.void_above <= 1, "a share in [0, 1]"),
        ("decoding.max_new_tokens", decoding.max_new_tokens, decoding.max_new_tokens >= 1, "at least 1"),
        ("decoding.temperature", decoding.temperature, decoding.temperature >= 0, "0 (greedy) or more"),
        ("limits.repetition", limits.repetition, limits.repetition >= 2, "at least 2"),
        ("limits.invalid_in_a_row", limits.invalid_in_a_row, limits.invalid_in_a_row >= 1, "at least 1"),
        ("limits.action_chars", limits.action_chars, limits.action_chars >= 1, "at least 1"),
    ]
    for name, rules in protocol.tasks.items():
        wanted.append((f"tasks.{name}.max_turns", rules.max_turns, rules.max_turns >= 1, "at least 1"))
        wanted.append((f"tasks.{name}.n", rules.n, rules.n >= 1, "at least 1"))
    for name, value, good, range_ in wanted:
        if not good:
            raise UserError(
                f"{path}: {name} is {value!r}; episodes would be played by other rules than meant; it must be {range_}"
            )
