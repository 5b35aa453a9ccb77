"""The plan of a recipe: batch, memory, tokens, compute, hours, cost and sources, as data.

Every figure is an estimate from the recipe and a machine, and says so, except what `measured` holds.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttuning import model_size
from agenttuning.errors import UserError
from agenttuning.machine import GIB, Machine, detect
from agenttuning.plan.fit import Cell, cell, figures, method_name, table
from agenttuning.plan.measured import measured
from agenttuning.plan.method import Method, method_of, trained_parameters
from agenttuning.plan.nearest import Nearest, nearest
from agenttuning.plan.target import Target, accumulation, target
from agenttuning.preflight import snapshot, template_problem
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import checkpoints_activations, validate


@dataclass(frozen=True)
class SourcePlan:
    """One source: rows expected in it (None: unknown), passes over it, and where its rows come from."""

    name: str
    share: float
    rows: int | None
    draws: float
    epochs: float | None
    pulled_from: str


@dataclass(frozen=True)
class Plan:
    """All figures of one run. Units are in the names; None means that it cannot be known here.

    method: full, lora or qlora. parameters: all; active: those that one token meets; trained: those with a gradient.
    memory_gib: {part: GiB per GPU}, with `total`, and `host` for a machine's RAM. measured: what plan.measured found.
    """

    recipe: str
    file: str
    hash: str
    run_dir: str
    target: Target
    accumulation: int
    model: str
    method: str
    parameters: int | None
    active: int | None
    trained: int | None
    parameters_note: str
    memory_gib: dict[str, float] | None
    memory_note: str
    checkpointing: bool
    fits: bool | None
    measured: list[dict[str, Any]]
    table: list[Cell]
    nearest: list[Nearest]
    tokens: int
    flops: int | None
    gpu_hours: float | None
    wall_hours: float | None
    usd: float | None
    sources: list[SourcePlan]
    settings: dict[str, Any]


def epochs(draws: float, share: float, rows: int | None) -> float | None:
    """Expected passes over a source of `rows` conversations when `draws` conversations are drawn, a `share` from it."""
    return draws * share / rows if rows else None


def make(recipe: Recipe, data_paths: dict[str, Path] | None = None, machine: Machine | None = None) -> Plan:
    """Plan the recipe. Raises UserError when the batch does not divide, a file that it names is wrong, or its chat
    format needs a template that the model does not have.
    """
    values, launch = recipe.values, recipe.launch
    config = validate(recipe.accelerate_config)
    if problem := template_problem(recipe):
        raise UserError(f"{recipe.name}: {problem}")
    single = config["distributed_type"] == "NO"
    where = target(recipe, machine or detect(), single=single, machines=config["num_machines"])
    micro, checkpointing = accumulation(recipe, where.world_size), checkpoints_activations(recipe, config)
    name, revision = values["model_name_or_path"], values.get("model_revision")
    local = model_size.is_local(name)
    model = model_size.find(name, None if local else snapshot("model", name, revision or "main"))
    tokens = values["max_steps"] * launch.global_batch * values["max_length"]
    known = _known(recipe, model, config, where, tokens, checkpointing) if not isinstance(model, str) else {}
    hours = None
    if known.get("flops") and where.gpus and launch.gpu_peak_tflops and launch.mfu:
        hours = known["flops"] / (launch.gpu_peak_tflops * 1e12 * launch.mfu) / 3600
    unknown = {"parameters": None, "active": None, "trained": None, "flops": None, "memory_gib": None, "fits": None}
    unknown |= {"measured": [], "table": [], "nearest": [], "parameters_note": model, "memory_note": model}
    return Plan(
        recipe=recipe.name,
        file=str(recipe.path),
        hash=recipe.hash,
        run_dir=str(recipe.run_dir),
        target=where,
        accumulation=micro,
        model=f"{name} (local folder)" if local else f"{name} @ {revision or 'main (not pinned)'}",
        method=method_name(recipe),
        checkpointing=checkpointing,
        tokens=tokens,
        gpu_hours=hours,
        wall_hours=hours / where.gpus if hours else None,
        usd=hours * launch.usd_per_gpu_hour if hours and launch.usd_per_gpu_hour else None,
        sources=_sources(recipe, data_paths or {}),
        settings=recipe.flat(),
        **(known or unknown),
    )


def _known(
    recipe: Recipe,
    model: model_size.Architecture,
    config: dict[str, Any],
    where: Target,
    tokens: int,
    checkpointing: bool,
) -> dict[str, Any]:
    """The fields of a plan that need the model's architecture."""
    total, method = model_size.parameters(model), method_of(recipe.values, model)
    trained = trained_parameters(method, model, total) if isinstance(method, Method) else None
    adapter = None if method_name(recipe) == "full" else trained
    flops = tokens * model_size.flops_per_token(model, recipe.values["max_length"], adapter) if trained else None
    found = figures(recipe, model, config, where.world_size)
    parts, fits, near = None, None, []
    if not isinstance(found, str):
        parts = {name: amount / GIB for name, amount in asdict(found).items()} | {"total": found.total / GIB}
        fits = cell(recipe, model, recipe.launch.accelerate_config, config, where, where.world_size).fits
        near = nearest(recipe, model, where) if fits is False else []
    return {
        "parameters": total,
        "active": model_size.active_parameters(model),
        "trained": trained,
        "parameters_note": "",
        "flops": flops,
        "memory_gib": parts,
        "memory_note": found if isinstance(found, str) else "",
        "fits": fits,
        "measured": measured(recipe, model, checkpointing),
        "table": table(recipe, model, where),
        "nearest": near,
    }


def _sources(recipe: Recipe, data_paths: dict[str, Path]) -> list[SourcePlan]:
    from agenttuning.data.sources import load_card

    unknown = sorted(set(data_paths) - set(recipe.mixture.sources))
    if unknown:
        raise UserError(
            f"--data names {', '.join(unknown)}, which the mixture does not draw from; the path would be ignored. Its "
            f"sources: {', '.join(recipe.mixture.sources)}."
        )
    drawn = recipe.mixture.draws or recipe.values["max_steps"] * recipe.launch.global_batch
    plans = []
    for name, source in recipe.mixture.sources.items():
        card = load_card(name, recipe.root / "data_cards")
        counts = list((card.splits or {}).values())
        # a card's counts are of the file as it lies there; a user's own file, or a card that keeps a part, has others
        rows = sum(counts) if counts and all(counts) and name not in data_paths and not card.keep else None
        origin = f"{card.hub_id} @ {card.revision or 'main'}" if card.hub_id else f"{card.path} (local)"
        origin = f"{data_paths[name]} (local, --data)" if name in data_paths else origin
        origin += " (stand-in; see its card)" if card.stand_in_for else ""
        share = source.share
        plans.append(SourcePlan(name, share, rows, drawn * share, epochs(drawn, share, rows), origin))
    return plans


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able data; `python -m agenttuning plan RECIPE --json` prints it."""
    return asdict(plan)
