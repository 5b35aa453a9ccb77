"""The authors' own AgentLM weights in our harness: `agenttuning eval-released`, before anybody trains.

Both evaluations by the paper's protocols, their results under the label `released`: what they miss of the published
scores is the harness's.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.environments import HELD_IN
from agenttuning.errors import UserError, nearest
from agenttuning.general import protocol as general_protocol
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.recipe.yaml_io import read_mapping
from agenttuning.scoring.compare import PUBLISHED_SIZE

if TYPE_CHECKING:
    from agenttuning.general.players import Player
    from agenttuning.recipe import Recipe

RELEASED = REPOSITORY / "evaluation" / "released.yaml"
LABEL = "released"
PROTOCOLS = {"general": "paper", "held-in": "paper-text"}


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


def find(recipe: Recipe, model: str | None) -> Path:
    """The folder of the released weights: `model` (a local copy or a Hub id), else fetched from where they are known
    to be. Raises UserError where there are none, naming the other ids that were seen.
    """
    from agenttuning.model_files import find_model

    known = weights(recipe)
    try:
        path = find_model(recipe, model or known.hub_id, None if model else known.revision)[0]
        check_size(path, PUBLISHED_SIZE.match(recipe.name)[1])
        return path
    except UserError as error:
        if model:
            raise
        raise UserError(
            f"{error}; the same weights were also seen as {', '.join(known.other_ids)}: --model takes one of these, or "
            "a local copy"
        ) from None


def check_size(path: Path, size: str) -> None:
    """Raise UserError unless a folder's config is that of Llama-2 of this size: another model's scores would stand in
    the comparison as the authors'. The vocabulary may differ, as a padding token may have been added.
    """
    from agenttuning import model_size

    found, wanted = model_size.find(str(path)), model_size.LLAMA_2[size]
    shape = ("hidden", "layers", "heads", "kv_heads", "mlp")
    if isinstance(found, str) or any(getattr(found, name) != getattr(wanted, name) for name in shape):
        seen = found if isinstance(found, str) else f"{found.layers} layers of width {found.hidden}"
        raise UserError(
            f"{path} is no AgentLM-{size.upper()} ({seen}, where that has {wanted.layers} of width {wanted.hidden}); "
            "its scores would stand as the authors'; give the released weights, or score this model by eval-held-in "
            "and eval-general with --model"
        )


def parts(recipe: Recipe, arguments: Namespace) -> dict[str, Namespace]:
    """What the two evaluations are to be called with: {"general": arguments, "held-in": arguments}, those with tasks.

    Weights are found here, once for both. --prompts may be a checkout of THUDM/AgentTuning, which has the prompts of
    both; --backend TASK=NAME is the held-in tasks', --backend NAME the general ones'. Raises UserError for an unknown
    task and for weights that are not there.
    """
    asked = general_protocol.find(PROTOCOLS["general"]).tasks
    tasks = {"general": tuple(asked), "held-in": HELD_IN}
    named = [word.partition("=")[0] for word in arguments.data]
    chosen = _chosen(arguments.task, named, (*HELD_IN, *asked))
    model = arguments.model if arguments.server else str(find(recipe, arguments.model))
    engines = [word for word in arguments.backend if "=" not in word]
    if len(engines) > 1:
        raise UserError(f"--backend {' and '.join(engines)}: one of them would do nothing; give one, or TASK=NAME")
    found = {}
    for name, its_own in tasks.items():
        if not (mine := [task for task in chosen if task in its_own]):
            continue
        given = {
            "label": LABEL,
            "protocol": PROTOCOLS[name],
            "out": None,
            "model": model,
            "task": mine,
            "data": [word for word in arguments.data if word.partition("=")[0] in its_own],
        }
        if name == "general":
            given["backend"] = engines[0] if engines else "transformers"
            given["prompts"] = arguments.prompts if any(asked[task].prompts == "source" for task in mine) else None
        else:
            given["backend"] = [word for word in arguments.backend if "=" in word]
            # behind a server --model is the folder of the tokenizer, which only the general benchmarks ask for
            given["model"] = None if arguments.server else model
        found[name] = Namespace(**{**vars(arguments), **given})
    return found


def run(todo: dict[str, Callable[[], None]]) -> None:
    """Run each part. What one lacks does not keep the other from its turn: it is printed, and raised at the end."""
    problems = []
    for name, part in todo.items():
        try:
            part()
        except UserError as error:
            problems.append(name)
            print(f"{name} has no score yet: {error}", flush=True)
    if problems:
        raise UserError(f"no score of {' and '.join(problems)}, for what is said above")


def under_label(who: Player, label: str) -> Player:
    """The same player, its results and the name of its weights under another label."""
    return replace(who, label=label, model=who.model.replace(f"{who.label}@", f"{label}@", 1))


def _chosen(tasks: Iterable[str], named: Iterable[str], known: tuple[str, ...]) -> list[str]:
    chosen = list(dict.fromkeys(tasks)) or list(known)
    for name in (*chosen, *named):
        if name not in known:
            raise UserError(f"there is no task {name!r} to score the released weights on; {nearest(name, known)}")
    if idle := [name for name in named if name not in chosen]:
        raise UserError(f"--data speaks of {idle[0]}, which is not among the tasks; it would do nothing; leave it out")
    return chosen
