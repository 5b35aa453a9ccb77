"""push: a finished run to the Hub, model, training data, episodes and the collection of the three.

Everything is written into <run_dir>/hub and checked before anything is sent; a step that fails leaves what was sent
before it, and the same command goes on. Where nothing changed there is no commit. `dry` makes no connection at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.hub import model_folder, push_data, secrets, traces
from agenttuning.hub.staged import Staged, check_ids, report
from agenttuning.preflight import endpoint

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

STEPS = {"model": "hub_model_id", "data": "hub_dataset_id", "traces": "hub_traces_id", "collection": "collection"}
DESCRIPTION = "A run of AgentTuning's open rebuild: weights, training data, episodes of the evaluation."
REPO_TYPES = {"model": "model", "data": "dataset", "traces": "dataset"}


def push(
    recipe: Recipe,
    data_paths: Mapping[str, str | Path] | None = None,
    *,
    only: str | None = None,
    model: str | Path | None = None,
    reviewed: str | Path | None = None,
    dry: bool = False,
) -> dict[str, str]:
    """Push what the recipe's `publish` names, or of it `only` one of STEPS; returns {step: its address}.

    model: an export's folder in place of the run's own. reviewed: findings of secrets.jsonl that you looked at. dry:
    stage and check everything, print what would be sent, connect to nothing; returns {}. Raises UserError for whatever
    keeps a step from being sent, before the first one is.
    """
    steps = chosen(recipe, only, model)
    cleared = secrets.reviewed(reviewed)
    if not dry:
        _check_token()
    with offline() if dry else nullcontext():
        ready = [one for step in steps if (one := _stage(step, recipe, data_paths or {}, model, cleared, dry))]
    print(announcement(recipe, ready, steps, dry), flush=True)
    if dry:
        return {}
    sent = {one.what: push_data.send(one, recipe.publish.private).url for one in ready}
    if "collection" in steps:
        from agenttuning.hub import collections

        url = collections.put(
            recipe.publish.collection, namespace(recipe), members(recipe), recipe.publish.private, DESCRIPTION
        )
        print(f"collection {escape(recipe.publish.collection)}: {url}", flush=True)
        sent["collection"] = url
    return sent


def chosen(recipe: Recipe, only: str | None, model: str | Path | None) -> list[str]:
    """The steps to do, in order. Raises UserError for names that are not there or not valid, all at once."""
    named = {step: getattr(recipe.publish, key) for step, key in STEPS.items()}
    if only is not None and only not in STEPS:
        raise UserError(f"--only {only}: it is one of {', '.join(STEPS)}; nothing was sent")
    steps = [only] if only else [step for step, name in named.items() if name]
    keys = {step: f"publish.{key}" for step, key in STEPS.items()}
    found = check_ids((keys[step], named[step]) for step in steps if step != "collection")
    if "collection" in steps and not (named["collection"] or "").strip():
        found.append("publish.collection is empty; it is the title of the collection")
    if steps == ["collection"] and not members(recipe):
        found.append(f"a collection of nothing: none of {', '.join(list(keys.values())[:3])} is set")
    if not steps:
        found.append(f"none of {', '.join(keys.values())} is set, e.g. publish.hub_model_id=you/agentlm-13b")
    if model is not None and "model" not in steps:
        found.append("--model names weights, and the model is not among what is pushed; it would do nothing")
    if recipe.publish.base_model is not None:
        found += check_ids([("publish.base_model", recipe.publish.base_model)])
    if found:
        lines = "".join(f"\n  - {line}" for line in found)
        raise UserError(f"{recipe.name} cannot be pushed like this; nothing was sent to the Hub:{lines}")
    return steps


def members(recipe: Recipe) -> list[tuple[str, str]]:
    """(repository, its type) of everything that the recipe publishes."""
    named = {step: getattr(recipe.publish, STEPS[step]) for step in REPO_TYPES}
    return [(name, REPO_TYPES[step]) for step, name in named.items() if name]


def namespace(recipe: Recipe) -> str:
    """Whose the collection is: the owner of the first repository."""
    return members(recipe)[0][0].partition("/")[0]


def announcement(recipe: Recipe, ready: list[Staged], steps: list[str], dry: bool) -> str:
    """What is about to be sent, or would be."""
    publish, private = recipe.publish, recipe.publish.private
    lines = [f"{'would send' if dry else 'sending'} to {endpoint()}:"]
    lines += [report(one, private, every=dry) for one in ready]
    if "collection" in steps:
        items = ", ".join(f"{name} ({kind})" for name, kind in members(recipe))
        state = "private" if private else "public"
        lines.append(f"collection: {escape(publish.collection)} of {namespace(recipe)} ({state}): {items}")
    if any(one.what == "traces" for one in ready):
        lines.append(f"prepared and not sent: {recipe.run_dir / traces.REGISTRATION} (docs/publishing.md says why)")
    unset = [f"publish.{key}" for step, key in STEPS.items() if step not in steps and getattr(publish, key) is None]
    if unset:
        lines.append(f"not pushed, because not set: {', '.join(unset)}")
    return "\n".join(lines + (["nothing was sent"] if dry else []))


def _stage(
    step: str,
    recipe: Recipe,
    data_paths: Mapping[str, str | Path],
    model: str | Path | None,
    cleared: set[secrets.Finding],
    dry: bool,
) -> Staged | None:
    if step == "model":
        return model_folder.stage(recipe, model, cleared, offline=dry)
    if step == "data":
        return push_data.stage(recipe, data_paths, cleared)
    return traces.stage(recipe, _record(recipe), cleared) if step == "traces" else None


def _record(recipe: Recipe) -> dict[str, Any] | None:
    try:
        return json.loads((recipe.run_dir / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_token() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"no Hub token was found (HF_TOKEN or `hf auth login`); nothing was sent to {endpoint()}; log in with one "
            "that may write, or look at what would be sent: --dry-run"
        )


@contextmanager
def offline() -> Iterator[None]:
    """The libraries of the Hub ask their caches and nobody else. What is not there is an error that says so."""
    import datasets
    import huggingface_hub

    places = [(huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    for place, name in places:
        setattr(place, name, True)
    try:
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)
