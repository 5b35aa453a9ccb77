"""The authors' own AgentLM weights in our harness: `agenttuning eval-released`, before anybody trains.

Both evaluations by the paper's protocols, their results under the label `released`: what they miss of the published
scores is the harness's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.environments import HELD_IN
from agenttuning.errors import UserError
from agenttuning.recipe.keys import nearest
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring.compare import PUBLISHED_SIZE

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

RELEASED = REPOSITORY / "evaluation" / "released.yaml"
LABEL = "released"
HELD_IN_PROTOCOL, GENERAL_PROTOCOL = "paper-text", "paper"
GENERAL = ("mmlu", "gsm8k", "humaneval", "mt_bench")


@dataclass(frozen=True)
class Weights:
    """Where a size's weights are: the id on the Hub, other ids of the same, the commit (None: the newest)."""

    hub_id: str
    other_ids: tuple[str, ...]
    revision: str | None


def weights(recipe: Recipe, path: Path = RELEASED) -> Weights:
    """The released weights of a recipe's size. Raises UserError for a recipe that is none of the paper's sizes."""
    if not (size := PUBLISHED_SIZE.match(recipe.name)):
        raise UserError(
            f"{recipe.name} is none of the paper's sizes; the authors released no weights that would be its; take "
            "recipes/agentlm-7b, -13b or -70b"
        )
    one = read_mapping(path)[size[1]]
    return Weights(one["hub_id"], tuple(one["other_ids"]), one["revision"])


def split(tasks: Iterable[str] | None, spoken_of: Iterable[str]) -> tuple[list[str], list[str]]:
    """The held-in and the general tasks among `tasks` (None: all). spoken_of: tasks that options name, too. Raises
    UserError for an unknown name.
    """
    known = (*HELD_IN, *GENERAL)
    chosen = list(dict.fromkeys(known if tasks is None else tasks))
    for name in (*chosen, *spoken_of):
        if name not in known:
            raise UserError(f"there is no task {name!r} to score the released weights on; {nearest(name, known)}")
    return [name for name in chosen if name in HELD_IN], [name for name in chosen if name in GENERAL]


def evaluate_released(
    recipe: Recipe,
    players: Mapping[str, Callable[[], tuple[Any, str, str]]],
    *,
    tasks: Iterable[str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    most: int | None = None,
    held_in: Mapping[str, Any] | None = None,
    general: Mapping[str, Any] | None = None,
) -> dict[str, dict]:
    """Score them: {"held-in": scores, "general": scores}, those that were asked for. What one part lacks does not keep
    the other from its turn; what it said is raised when both had theirs.

    players: for each part the function that gives (who answers, label, model), called when its turn comes. data: {task:
    path} of both parts; held_in, general: further options of evaluate_held_in and evaluate_general.
    """
    data = dict(data or {})
    chosen = dict(zip(("held-in", "general"), split(tasks, data), strict=True))
    parts = {"held-in": _held_in, "general": _general}
    options = {"held-in": held_in or {}, "general": general or {}}
    found, problems = {}, []
    for name, part in parts.items():
        if not chosen[name]:
            continue
        paths = {task: path for task, path in data.items() if task in (HELD_IN if name == "held-in" else GENERAL)}
        try:
            found[name] = part(recipe, players[name](), chosen[name], paths, most, options[name])
        except UserError as error:
            problems.append((name, error))
            print(f"{name}: {error}", flush=True)
    if problems:
        raise UserError("; ".join(f"{name}: {error}" for name, error in problems))
    print(f"set beside the published scores by `agenttuning compare {recipe.path}`", flush=True)
    return found


def _held_in(recipe, player, tasks, data, most, options) -> dict:
    from agenttuning.held_in import evaluate_held_in

    make_policy, label, model = player
    return evaluate_held_in(
        recipe, make_policy, label=label, model=model, protocol=HELD_IN_PROTOCOL, tasks=tasks, data=data, most=most,
        **options,
    )  # fmt: skip


def _general(recipe, player, tasks, data, most, options) -> dict:
    from agenttuning.general.evaluate import evaluate_general

    who, label, model = player
    return evaluate_general(
        recipe, who, label=label, model=model, protocol=GENERAL_PROTOCOL, tasks=tasks, data=data, most=most, **options
    )
