"""Which accelerate configs fit a recipe on a machine, whole or adapted, and the nearest ones that do."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from agenttuning import launch
from agenttuning.errors import UserError
from agenttuning.machine import GIB
from agenttuning.model_size import Architecture
from agenttuning.plan.memory import Memory, case, estimate
from agenttuning.plan.method import PEFT_KEYS
from agenttuning.plan.target import USABLE_MEMORY, Target, accumulation, processes
from agenttuning.recipe import Recipe, load
from agenttuning.recipe.accelerate_config import checkpoints_activations, validate

METHODS = ("full", "lora", "qlora")
# What makes an adapted run of a recipe that has no sft-lora.yaml or sft-qlora.yaml beside it
ADAPTED = {
    "lora": ("use_peft=true", "lora_target_modules=[all-linear]", "dtype=bfloat16"),
    "qlora": (
        "use_peft=true", "lora_target_modules=[all-linear]", "dtype=bfloat16", "load_in_4bit=true",
        "bnb_4bit_quant_storage=bfloat16",
    ),
}  # fmt: skip
PER_MACHINE = 8  # GPUs of the machines that one rents
MOST_GPUS = 64


@dataclass(frozen=True)
class Cell:
    """One accelerate config with one method. total_gib, spare_gib: per GPU, None where `reason` says why not;
    host_gib: RAM that a machine needs for what is offloaded; fits: None where the GPU's memory is unknown.
    """

    accelerate_config: str
    method: str
    processes: int
    total_gib: float | None
    spare_gib: float | None
    host_gib: float
    fits: bool | None
    reason: str


@dataclass(frozen=True)
class Nearest:
    """A way that fits. command: prints its plan, and with `train` for `plan` trains it."""

    which: str
    changes: list[str]
    command: str
    total_gib: float
    host_gib: float


def method_name(recipe: Recipe) -> str:
    """full, lora or qlora, as its keys say."""
    get = recipe.values.get
    if not get("use_peft"):
        return "full"
    return "qlora" if get("load_in_4bit") or get("load_in_8bit") else "lora"


def variants(recipe: Recipe) -> dict[str, tuple[Recipe, list[str]]]:
    """{method: the recipe trained so, the words of the command line that give it}: itself, the sibling file sft.yaml,
    sft-lora.yaml or sft-qlora.yaml where there is one, else itself with the keys that make the difference.
    """
    own, words = method_name(recipe), launch.overrides(recipe)
    found = {own: (recipe, [str(recipe.path), *words])}
    for method in METHODS:
        path = recipe.path.with_name("sft.yaml" if method == "full" else f"sft-{method}.yaml")
        if method == own:
            continue
        try:
            if recipe.path.stem.startswith("sft") and path.is_file() and path != recipe.path:
                found[method] = (load(path, words), [str(path), *words])
            elif method == "full":
                values = {key: value for key, value in recipe.values.items() if key not in (*PEFT_KEYS, "dtype")}
                found[method] = (replace(recipe, values=values), [])
            else:
                more = [*words, *ADAPTED[method]]
                found[method] = (load(recipe.path, more), [str(recipe.path), *more])
        except UserError:  # an override that the other file does not take: there is no such variant of this run
            continue
    return {method: found[method] for method in METHODS if method in found}


def configs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every accelerate config of the recipe's repository, validated, by name."""
    return {path.stem: validate(path) for path in sorted(recipe.accelerate_config.parent.glob("*.yaml"))}


def cell(recipe: Recipe, model: Architecture, name: str, config: dict, where: Target, count: int) -> Cell:
    """How the recipe fits when it is spread by this config over `count` processes."""
    method = method_name(recipe)

    def no(reason: str) -> Cell:
        return Cell(name, method, count, None, None, 0.0, False, reason)

    if bool(config.get("use_cpu")) == bool(where.gpus):
        return no("for a CPU" if where.gpus else "needs GPUs")
    found = figures(recipe, model, config, count)
    if isinstance(found, str):
        return no(found)
    total, host = found.total / GIB, found.host / GIB
    short = bool(host and where.ram_gib and host > where.ram_gib * USABLE_MEMORY)
    spare = where.limit_gib - total if where.limit_gib else None
    fits = None if spare is None else spare >= 0 and not short
    return Cell(name, method, count, total, spare, host, fits, "too little RAM" if short else "")


def figures(recipe: Recipe, model: Architecture, config: dict, count: int) -> Memory | str:
    """Memory of the recipe in this config on so many processes, or in words why there is none."""
    try:
        micro = accumulation(recipe, count)
    except UserError:
        return f"{recipe.launch.global_batch} sequences do not divide over {count} processes"
    one = case(recipe, model, config, count, config["num_machines"], micro)
    return one if isinstance(one, str) else estimate(one)


def table(recipe: Recipe, model: Architecture, where: Target) -> list[Cell]:
    """Every accelerate config x every method, for this machine."""
    return [
        cell(one, model, name, config, where, processes(config, where))
        for (name, config), (one, _) in product(configs(recipe).items(), variants(recipe).values())
    ]


def nearest(recipe: Recipe, model: Architecture, where: Target) -> list[Nearest]:
    """The nearest ways that fit, none where nothing does: with the same method, whatever GPUs it takes; and on these
    GPUs, whatever method. Fewest changes first; in this order where they are as many: another config, more GPUs, a
    smaller per-device batch, activation checkpointing, LoRA, QLoRA.
    """
    ways = list(_ways(recipe, model, where))
    same = [way for way in ways if way[0][0] == 0]
    here = [way for way in ways if way[2].processes <= where.gpus]
    found: list[Nearest] = []
    for which, of in (("with the same method", same), ("on these GPUs", here)):
        for _, changes, at, command in sorted(of, key=lambda way: way[0]):
            if _checked(command, model, where):
                typed = f"agenttuning plan {shlex.join(command)}"
                found.append(Nearest(which, changes, typed, at.total_gib, at.host_gib))
                break
    return found[:1] if len({one.command for one in found}) == 1 else found


def _checked(words: list[str], model: Architecture, where: Target) -> bool:
    """Whether the command's recipe loads, and fits as it was loaded."""
    try:
        one = load(words[0], words[1:])
        config = validate(one.accelerate_config)
        checkpoints_activations(one, config)
    except UserError:
        return False
    count = 1 if config["distributed_type"] == "NO" else one.launch.gpus or where.gpus
    return bool(cell(one, model, one.launch.accelerate_config, config, where, count).fits)


def _ways(recipe: Recipe, model: Architecture, where: Target) -> Iterator[tuple[tuple, list[str], Cell, list[str]]]:
    """(sort key, changes, cell, command words) of each way to run the recipe that fits."""
    own, every, known = method_name(recipe), variants(recipe), configs(recipe)
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
                gpus > where.gpus or (gpus < where.gpus and config["distributed_type"] != "NO"),
                batch != recipe.values["per_device_train_batch_size"],
                again,
            ]
            rank = (METHODS.index(method) - METHODS.index(own), sum(steps), at.host_gib > 0, gpus, *map(int, steps))
            kept = [word for word in words if word.partition("=")[0] not in changed]
            command = [*kept, *(f"{key}={_yaml(value)}" for key, value in changed.items())]
            yield rank, _said(method, own, changed), at, command


VALUES = ("per_device_train_batch_size", "activation_checkpointing")


def _settings(one: Recipe, name: str, config: dict, gpus: int, batch: int, again: bool) -> dict[str, Any] | None:
    """What the command line has to say for this way; None where it asks for nothing new."""
    by_fsdp = bool(config.get("fsdp_config", {}).get("fsdp_activation_checkpointing"))
    by_model = bool(one.values.get("activation_checkpointing", True))
    if again and (by_fsdp or by_model):
        return None
    settings = {"launch.accelerate_config": name, "launch.gpus": gpus, "per_device_train_batch_size": batch}
    return settings | {"activation_checkpointing": (by_model or again) and not by_fsdp}


def _now(one: Recipe, key: str) -> Any:
    return one.flat().get(key, True if key == "activation_checkpointing" else None)


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
