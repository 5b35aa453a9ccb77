"""What a run will do, take and cost, before any GPU starts. Arithmetic only: no torch, no network.

Every figure is an estimate from the recipe and a machine, and says so; nothing here was measured.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenttuning import model_size
from agenttuning.errors import UserError
from agenttuning.machine import GIB, Machine, detect
from agenttuning.preflight import template_problem
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import checkpoints_activations, validate

# Our margin for what the estimate leaves out: allocator fragmentation, communication buffers, the CUDA context.
USABLE_MEMORY = 0.9


@dataclass(frozen=True)
class Target:
    """The machine a plan reckons with. `told_by` says who described it; memory in GiB per GPU (RAM for a CPU run)."""

    gpus: int
    name: str
    memory_gib: float | None
    world_size: int
    told_by: str


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
    """All figures of one run. Units are in the names; None means that it cannot be known here."""

    recipe: str
    file: str
    hash: str
    run_dir: str
    target: Target
    accumulation: int
    model: str
    parameters: int | None
    parameters_note: str
    memory_gib: dict[str, float] | None
    memory_note: str
    fits: bool | None
    tokens: int
    flops: int | None
    gpu_hours: float | None
    wall_hours: float | None
    usd: float | None
    sources: list[SourcePlan]
    settings: dict[str, Any]


def accumulation(recipe: Recipe, world_size: int) -> int:
    """gradient_accumulation_steps = global_batch / (per_device_train_batch_size x world_size).

    Raises UserError when it is not a whole number: the run would train at another batch size than its recipe says.
    """
    per_device, batch = recipe.values["per_device_train_batch_size"], recipe.launch.global_batch
    steps, rest = divmod(batch, per_device * world_size)
    if rest:
        fitting = [size for size in range(1, batch // world_size + 1) if batch % (size * world_size) == 0]
        advice = (
            f"set per_device_train_batch_size to one of {', '.join(map(str, fitting))}"
            if fitting
            else f"use a number of processes that divides {batch}"
        )
        raise UserError(
            f"launch.global_batch {batch} is not a multiple of {per_device} per device x {world_size} processes = "
            f"{per_device * world_size}; training would run at another batch size. For this machine {advice}."
        )
    return steps


def target(recipe: Recipe, machine: Machine, single: bool = False) -> Target:
    """The machine to plan for: `launch.gpus` of the command line, else this one's GPUs, else what the recipe states.

    single: the launch starts one process, however many GPUs there are.
    """
    launch = recipe.launch
    if launch.accelerate_config == "cpu":
        name = f"CPU, {machine.cpus} cores"
        return Target(0, name, machine.memory_gib or None, machine.world_size or 1, "this machine")
    origin = recipe.origin.get("launch.gpus", "default")
    if launch.gpus and (origin == "command line" or not machine.gpus):
        seen = f"this machine shows {len(machine.gpus) or 'no'} GPU{'s' if len(machine.gpus) != 1 else ''}"
        gpus = 1 if single else launch.gpus
        name, memory = launch.gpu_name or "GPU", launch.gpu_memory_gib
        return Target(gpus, name, memory, machine.world_size or gpus, f"{origin}; {seen}")
    if not machine.gpus:
        raise UserError(
            "This machine shows no GPU and the recipe states none, so there is nothing to plan for. State one: "
            "launch.gpus=8 launch.gpu_memory_gib=140."
        )
    used = machine.gpus[:1] if single else machine.gpus
    world = machine.world_size or len(used)
    return Target(world, used[0].name, min(gpu.memory_gib for gpu in used), world, "this machine")


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
    where = target(recipe, machine or detect(), single=config["distributed_type"] == "NO")
    architecture = model_size.find(values["model_name_or_path"])
    known = isinstance(architecture, model_size.Architecture)
    tokens = values["max_steps"] * launch.global_batch * values["max_length"]
    flops = tokens * model_size.flops_per_token(architecture, values["max_length"]) if known else None
    hours = None
    if flops and where.gpus and launch.gpu_peak_tflops and launch.mfu:
        hours = flops / (launch.gpu_peak_tflops * 1e12 * launch.mfu) / 3600
    memory, note = _memory(recipe, config, where, architecture)
    limit = where.memory_gib * USABLE_MEMORY if where.memory_gib else None
    return Plan(
        recipe=recipe.name,
        file=str(recipe.path),
        hash=recipe.hash,
        run_dir=str(recipe.run_dir),
        target=where,
        accumulation=accumulation(recipe, where.world_size),
        model=_pull(values["model_name_or_path"], values.get("model_revision")),
        parameters=model_size.parameters(architecture) if known else None,
        parameters_note="" if known else architecture,
        memory_gib=memory,
        memory_note=note,
        fits=memory["total"] <= limit if memory and limit else None,
        tokens=tokens,
        flops=flops,
        gpu_hours=hours,
        wall_hours=hours / where.gpus if hours else None,
        usd=hours * launch.usd_per_gpu_hour if hours and launch.usd_per_gpu_hour else None,
        sources=_sources(recipe, data_paths or {}),
        settings=recipe.flat(),
    )


def _pull(model: str, revision: str | None) -> str:
    return f"{model} (local folder)" if model_size.is_local(model) else f"{model} @ {revision or 'main'}"


def _memory(
    recipe: Recipe, config: dict[str, Any], where: Target, architecture: model_size.Architecture | str
) -> tuple[dict[str, float] | None, str]:
    checkpointing = checkpoints_activations(recipe, config)
    if isinstance(architecture, str):
        return None, architecture
    if recipe.values.get("use_peft") or recipe.values.get("load_in_4bit") or recipe.values.get("load_in_8bit"):
        return None, "not estimated for adapters or quantised weights"
    kind = config["distributed_type"]
    offloaded = bool(config.get("fsdp_config", {}).get("fsdp_offload_params")) or (
        config.get("deepspeed_config", {}).get("offload_param_device", "none") != "none"
    )
    per_micro_batch = recipe.values["per_device_train_batch_size"] * recipe.values["max_length"]
    sharded = kind in ("FSDP", "DEEPSPEED")
    one = model_size.memory(architecture, per_micro_batch, where.world_size, sharded, offloaded, checkpointing)
    parts = {"total": one.total, "states": one.states, "activations": one.activations, "weights_in_bf16": one.working}
    parts["host_ram"] = one.host
    rule = f"16 bytes/parameter{f' over {where.world_size}' if sharded else ', not sharded'}"
    rule += "; activations recomputed" if checkpointing else "; activations kept"
    return {name: amount / GIB for name, amount in parts.items()}, rule


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


def page(plan: Plan) -> str:
    """The plan as one page of plain text."""
    lines = [f"{plan.recipe}   {plan.file}   record {plan.hash[:12]}   -> {plan.run_dir}", ""]
    rows = _machine_rows(plan) + _training_rows(plan) + _cost_rows(plan)
    lines += [f"{name:<12} {text}" for name, text in rows]
    return "\n".join([*lines, "", *_source_lines(plan), ""])


def _machine_rows(plan: Plan) -> list[tuple[str, str]]:
    where, get = plan.target, plan.settings.get
    memory = f", {where.memory_gib:.0f} GiB" if where.memory_gib else ""
    count = f"{where.gpus} x {where.name}{memory}{' each' if memory else ''}" if where.gpus else f"{where.name}{memory}"
    per_device = get("per_device_train_batch_size")
    batch = get("launch.global_batch")
    return [
        ("machine", f"{count} ({where.told_by})"),
        ("spread", f"accelerate_configs/{get('launch.accelerate_config')}.yaml, attention {get('launch.attention')}"),
        (
            "batch",
            f"{batch} sequences a step; gradient_accumulation_steps = {batch} / ({per_device} per device x "
            f"{where.world_size} processes) = {plan.accumulation}",
        ),
    ]


def _training_rows(plan: Plan) -> list[tuple[str, str]]:
    get = plan.settings.get
    size = f"{plan.parameters:,} parameters" if plan.parameters else f"parameters {plan.parameters_note}"
    schedule = f"{get('lr_scheduler_type', 'linear')} {get('lr_scheduler_kwargs') or ''}".strip()
    kind = get("optim", "adamw_torch_fused")
    rows = [
        ("model", f"{plan.model}; {size}"),
        ("optimizer", f"{kind}, peak rate {get('learning_rate'):g}, {schedule}, warm-up {get('warmup_steps', 0):g}"),
        ("loss", f"{get('loss')}; chat format {get('mixture.chat_format')}; too long: {get('mixture.overlong')}"),
    ]
    if plan.memory_gib is None:
        return [*rows, ("memory", plan.memory_note)]
    part = plan.memory_gib
    verdict = {True: "fits", False: "does NOT fit", None: "memory of the machine unknown"}[plan.fits]
    text = (
        f"about {part['total']:.1f} GiB per {'GPU' if plan.target.gpus else 'process'}: states {part['states']:.1f}, "
        f"activations {part['activations']:.1f}, weights in bf16 {part['weights_in_bf16']:.1f} ({plan.memory_note})"
    )
    text += f"; host RAM {part['host_ram']:.0f} GiB" if part["host_ram"] else ""
    limit = f" (with {1 - USABLE_MEMORY:.0%} kept free)" if plan.fits is not None else ""
    return [*rows, ("memory", f"{text}: {verdict}{limit}")]


def _cost_rows(plan: Plan) -> list[tuple[str, str]]:
    get = plan.settings.get
    packed = "packed rows are nearly full" if get("packing") else "at most: rows are not packed, so most are shorter"
    product = f"{get('max_steps')} steps x {get('launch.global_batch')} x {get('max_length')}"
    rows = [("tokens", f"{plan.tokens:,} = {product} ({packed})")]
    if plan.flops:
        formula = "6 x (parameters - input embedding) + causal attention, nothing recomputed counted"
        rows.append(("compute", f"{plan.flops / 1e18:.3g} EFLOP ({formula})"))
    if plan.gpu_hours:
        assumed = f"{get('launch.mfu'):.0%} of {get('launch.gpu_peak_tflops'):g} TFLOP/s"
        hours = f"{plan.gpu_hours:.1f} GPU-hours at {assumed}, {plan.wall_hours:.1f} hours on {plan.target.gpus}"
        rows.append(("time", f"{hours}; assumed, not measured"))
    if plan.usd:
        rows.append(("cost", f"${plan.usd:,.0f} at ${get('launch.usd_per_gpu_hour'):.2f} per GPU-hour"))
    return [*rows, ("publishes", get("publish.hub_model_id") or "nowhere (publish.hub_model_id is not set)")]


def _source_lines(plan: Plan) -> list[str]:
    width = max(len(source.name) for source in plan.sources) + 2
    lines = [f"{'source':<{width}} {'share':>6} {'rows':>8} {'epochs':>8}   read from"]
    for one in plan.sources:
        rows = f"{one.rows:,}" if one.rows else "unknown"
        passes = f"{one.epochs:.2f}" if one.epochs else "unknown"
        lines.append(f"{one.name:<{width}} {one.share:>6.2f} {rows:>8} {passes:>8}   {one.pulled_from}")
    packed = plan.settings.get("packing") and not plan.settings.get("mixture.draws")
    return [*lines, "epochs are a lower bound: a packed row holds several conversations"] if packed else lines
