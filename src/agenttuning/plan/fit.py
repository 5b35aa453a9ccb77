"""Which accelerate configs fit a recipe on a machine, whole or adapted."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from agenttuning import launch
from agenttuning.errors import UserError
from agenttuning.machine import GIB
from agenttuning.model_size import Architecture
from agenttuning.plan.memory import Memory, case, estimate
from agenttuning.plan.method import ATTENTION, PEFT_KEYS
from agenttuning.plan.target import USABLE_MEMORY, Target, accumulation, processes
from agenttuning.recipe import Recipe, load
from agenttuning.recipe.accelerate_config import validate

METHODS = ("full", "lora", "qlora")
# What makes an adapted run of a recipe that has no sft-lora.yaml or sft-qlora.yaml beside it, besides its layers
ADAPTED = ("use_peft=true", "dtype=bfloat16")
QUANTISED = ("load_in_4bit=true", "bnb_4bit_quant_storage=bfloat16")


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


def method_name(recipe: Recipe) -> str:
    """full, lora or qlora, as its keys say."""
    get = recipe.values.get
    if not get("use_peft"):
        return "full"
    return "qlora" if get("load_in_4bit") or get("load_in_8bit") else "lora"


def variants(recipe: Recipe, model: Architecture) -> dict[str, tuple[Recipe, list[str]]]:
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
                layers = ",".join(ATTENTION) if model.experts else "all-linear"
                more = [*words, *ADAPTED, f"lora_target_modules=[{layers}]", *(QUANTISED if method == "qlora" else ())]
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
        for (name, config), (one, _) in product(configs(recipe).items(), variants(recipe, model).values())
    ]
