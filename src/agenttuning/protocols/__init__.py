"""How an episode is played and judged, read from a versioned file in evaluation/protocols/.

The values live in YAML because a score without them is not a score; the file is read strictly, since a misspelt limit
that silently keeps its default would change the numbers and leave the version as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from agenttuning.errors import UserError, nearest
from agenttuning.protocols.messages import Format
from agenttuning.recipe.schema import REPOSITORY, build, one_of
from agenttuning.recipe.yaml_io import read_mapping

FOLDER = REPOSITORY / "evaluation" / "protocols"
MINIATURE = FOLDER / "miniature.yaml"
FORMATS = ("react", "os_interaction", "db", "kg", "alfworld", "webshop", "mind2web", "raw")  # modules here


@dataclass(frozen=True)
class Decoding:
    """How the model is asked: `temperature` 0 is greedy.

    truncate_prompt_tokens: a longer prompt loses its beginning (vLLM's name for it); None: it ends the episode
    (context_limit).
    """

    max_new_tokens: int
    temperature: float
    truncate_prompt_tokens: int | None = None


@dataclass(frozen=True)
class Limits:
    """What ends an episode early, None for never: identical replies in a row, from the turn `repetition_from` on;
    refused actions in a row. `action_chars`: the most characters of an action that reach the environment.
    """

    repetition: int | None
    invalid_in_a_row: int | None
    action_chars: int
    repetition_from: int = 1


@dataclass(frozen=True)
class TaskRules:
    """One task: turns of the model, number of test items and the seed that draws them, headline metric.

    format: how replies are read, a module of this package. unfinished: the reward of an episode that the environment
    did not end, `zero` or the `score` of the state it was left in. limits: those of this task alone.
    metric: `category_accuracy` is the mean of the success rates of the items' categories (dbbench's main number).
    """

    max_turns: int
    n: int
    seed: int
    group: str = one_of("held_in", "held_out")
    metric: str = one_of("success_rate", "reward", "category_accuracy")
    format: str = one_of(*FORMATS, default="react")
    unfinished: str = one_of("zero", "score", default="zero")
    limits: dict | None = None


@dataclass(frozen=True)
class Protocol:
    """The rules of play. `void_above` is the share in [0, 1] of lost episodes above which a task has no score.

    prompts: `ours`, or `source`: the original's, read from the user's data (protocols/prompts.py). history_segments:
    the model is shown the first message and as many of the newest as stay below it (protocols/history.py); None: all.
    """

    name: str
    version: int
    decoding: Decoding
    limits: Limits
    void_above: float
    tasks: dict[str, TaskRules]
    prompts: str = "ours"
    history_segments: int | None = None

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

    def limits_of(self, task: str) -> Limits:
        """The limits of one task: the protocol's, and what the task says instead."""
        return replace(self.limits, **(self.rules(task).limits or {}))


@dataclass(frozen=True)
class _File:
    name: str
    version: int
    void_above: float
    decoding: dict
    limits: dict
    tasks: dict
    prompts: str = one_of("ours", "source", default="ours")
    history_segments: int | None = None


def format_of(name: str) -> Format:
    """How replies are read and written in a format of FORMATS."""
    return import_module(f"{__name__}.{name}").FORMAT


def load(path: str | Path = MINIATURE) -> Protocol:
    """Read a protocol file. Raises UserError for a missing key, an unknown one (naming the nearest) or a bad value."""
    path = Path(path)
    top = build(_File, read_mapping(path), str(path))
    limits = build(Limits, top.limits, f"{path}: limits")
    protocol = Protocol(
        name=top.name,
        version=top.version,
        decoding=build(Decoding, top.decoding, f"{path}: decoding"),
        limits=limits,
        void_above=top.void_above,
        tasks={name: build(TaskRules, rules, f"{path}: tasks.{name}") for name, rules in top.tasks.items()},
        prompts=top.prompts,
        history_segments=top.history_segments,
    )
    for name, rules in protocol.tasks.items():
        build(Limits, {**top.limits, **(rules.limits or {})}, f"{path}: tasks.{name}.limits")
    _check_ranges(protocol, path)
    return protocol


def find(name: str) -> Protocol:
    """A protocol by its name in evaluation/protocols/, or by path. Raises UserError where there is none."""
    path = FOLDER / f"{name}.yaml"
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise UserError(f"there is no protocol {name!r}; nothing could be played by it; {nearest(name, known)}")
    return load(path)


def _check_ranges(protocol: Protocol, path: Path) -> None:
    decoding, segments = protocol.decoding, protocol.history_segments
    kept = decoding.truncate_prompt_tokens
    wanted = [
        ("version", protocol.version, protocol.version >= 1, "at least 1"),
        ("void_above", protocol.void_above, 0 <= protocol.void_above <= 1, "a share in [0, 1]"),
        ("history_segments", segments, segments is None or segments >= 1, "at least 1, or null"),
        ("decoding.max_new_tokens", decoding.max_new_tokens, decoding.max_new_tokens >= 1, "at least 1"),
        ("decoding.temperature", decoding.temperature, decoding.temperature >= 0, "0 (greedy) or more"),
        ("decoding.truncate_prompt_tokens", kept, kept is None or kept >= 1, "at least 1, or null"),
        *_limit_ranges("limits", protocol.limits),
    ]
    for name, rules in protocol.tasks.items():
        wanted.append((f"tasks.{name}.max_turns", rules.max_turns, rules.max_turns >= 1, "at least 1"))
        wanted.append((f"tasks.{name}.n", rules.n, rules.n >= 1, "at least 1"))
        wanted += _limit_ranges(f"tasks.{name}.limits", protocol.limits_of(name))
    for name, value, good, range_ in wanted:
        if not good:
            raise UserError(
                f"{path}: {name} is {value!r}; episodes would be played by other rules than meant; it must be {range_}"
            )


def _limit_ranges(where: str, limits: Limits) -> list[tuple[str, object, bool, str]]:
    repetition, invalid = limits.repetition, limits.invalid_in_a_row
    return [
        (f"{where}.repetition", repetition, repetition is None or repetition >= 2, "at least 2, or null"),
        (f"{where}.repetition_from", limits.repetition_from, limits.repetition_from >= 1, "at least 1"),
        (f"{where}.invalid_in_a_row", invalid, invalid is None or invalid >= 1, "at least 1, or null"),
        (f"{where}.action_chars", limits.action_chars, limits.action_chars >= 1, "at least 1"),
    ]
