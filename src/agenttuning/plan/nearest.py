"""The nearest ways to run a recipe that does not fit, each as a command whose own plan says that it fits."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from agenttuning.model_size import Architecture
from agenttuning.plan.fit import METHODS, Cell, cell, configs, method_name, variants
from agenttuning.plan.target import Target, processes
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import recomputes

PER_MACHINE = 8  # GPUs of the machines that one rents
MOST_GPUS = 64


@dataclass(frozen=True)
class Nearest:
    """A way that fits. command: prints its plan, and with `train` for `plan` trains it."""

    which: str
    changes: list[str]
    command: str
    total_gib: float
    host_gib: float


def nearest(recipe: Recipe, model: Architecture, where: Target) -> list[Nearest]:
    """The nearest ways that fit, none where nothing does: with the same method, whatever GPUs it takes; and on these
    GPUs, whatever method. Fewest changes first; in this order where they are as many: another config, more GPUs, a
    smaller per-device batch, activation checkpointing, LoRA, QLoRA. Offloading, which is slow, counts as a change.
    """
    ways = list(_ways(recipe, model, where))
    same = [way for way in ways if way[0][0] == 0]
    here = [way for way in ways if way[2].processes <= where.present]
    found = []
    for which, of in (("with the same method", same), ("on these GPUs", here)):
        for _, changes, at, command in sorted(of, key=lambda way: way[0])[:1]:
            typed = f"agenttuning plan {shlex.join(command)}"
            found.append(Nearest(which, changes, typed, at.total_gib, at.host_gib))
    return found[:1] if len({one.command for one in found}) == 1 else found


def _ways(recipe: Recipe, model: Architecture, where: Target) -> Iterator[tuple[tuple, list[str], Cell, list[str]]]:
    """(sort key, changes, cell, command words) of each way to run the recipe that fits."""
    own, every, known = method_name(recipe), variants(recipe, model), configs(recipe)
    allowed = [method for method in METHODS[METHODS.index(own) :] if method in every]
    for method, (name, config) in product(allowed, known.items()):
        one, words = every[method]
        for gpus, batch, again in product(_counts(config, where), _halves(one), (False, True)):
            settings = _settings(one, name, config, gpus, batch, again)
            if settings is None:
                continue
            changed = {key: value for key, value in settings.items() if _now(one, key) != value}
            tried = replace(
                one,
                values={**one.values, **{key: settings[key] for key in VALUES if key in settings}},
                launch=replace(one.launch, accelerate_config=name, gpus=gpus),
            )
            at = cell(tried, model, name, config, where, gpus)
            if not at.fits:
                continue
            steps = [
                name != recipe.launch.accelerate_config,
                gpus > where.present or (gpus < where.present and config["distributed_type"] != "NO"),
                batch != recipe.values["per_device_train_batch_size"],
                again,
                at.host_gib > 0,
            ]
            rank = (METHODS.index(method) - METHODS.index(own), sum(steps), at.host_gib > 0, gpus, *map(int, steps))
            kept = [word for word in words if word.partition("=")[0] not in changed]
            command = [*kept, *(f"{key}={_yaml(value)}" for key, value in changed.items())]
            yield rank, _said(method, own, changed), at, command


VALUES = ("per_device_train_batch_size", "activation_checkpointing")


def _settings(one: Recipe, name: str, config: dict, gpus: int, batch: int, again: bool) -> dict[str, Any] | None:
    """What the command line has to say for this way; None where it asks for nothing new."""
    by_fsdp = bool(config.get("fsdp_config", {}).get("fsdp_activation_checkpointing"))
    by_model = recomputes(one)
    if again and (by_fsdp or by_model):
        return None
    settings = {"launch.accelerate_config": name, "per_device_train_batch_size": batch}
    settings |= {"launch.gpus": gpus} if config["distributed_type"] != "NO" else {}
    return settings | {"activation_checkpointing": (by_model or again) and not by_fsdp}


def _now(one: Recipe, key: str) -> Any:
    return recomputes(one) if key == "activation_checkpointing" else one.flat().get(key)


def _counts(config: dict, where: Target) -> list[int]:
    """Numbers of GPUs to try: those there are, then more, whole machines of them where there are several."""
    if config["distributed_type"] == "NO":
        return [1]
    here = processes(config, where)
    most = MOST_GPUS if config["num_machines"] > 1 else max(PER_MACHINE, here)
    more = [2**power for power in range(7) if here < 2**power <= most]
    return [here, *more]


def _halves(one: Recipe) -> list[int]:
    size = one.values["per_device_train_batch_size"]
    return [size, *(size // 2**power for power in range(1, size.bit_length()) if size % 2**power == 0)]


def _said(method: str, own: str, changed: dict[str, Any]) -> list[str]:
    adapted = [{"lora": "LoRA", "qlora": "QLoRA"}[method]] if method != own else []
    return adapted + [f"{key.split('.')[-1]} {_yaml(value)}" for key, value in changed.items()]


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
