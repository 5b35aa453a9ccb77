"""The plan as one page of plain text."""

from agenttuning.plan.figures import Plan
from agenttuning.plan.fit import Cell
from agenttuning.plan.target import USABLE_MEMORY

PARTS = {
    "weights": "weights", "gradients": "gradients", "optimizer": "optimizer", "activations": "activations",
    "loss_head": "output head", "copies": "copies and gathered layers",
}  # fmt: skip


def page(plan: Plan) -> str:
    """The whole page, ending in an empty line."""
    lines = [f"{plan.recipe}   {plan.file}   record {plan.hash[:12]}   -> {plan.run_dir}", ""]
    rows = _machine_rows(plan) + _training_rows(plan) + _memory_rows(plan) + _cost_rows(plan)
    lines += [f"{name:<12} {text}" for name, text in rows]
    return "\n".join([*lines, "", *_table_lines(plan), *_source_lines(plan), ""])


def _machine_rows(plan: Plan) -> list[tuple[str, str]]:
    where, get = plan.target, plan.settings.get
    memory = f", {where.memory_gib:.0f} GiB" if where.memory_gib else ""
    count = f"{where.gpus} x {where.name}{memory}{' each' if memory else ''}" if where.gpus else f"{where.name}{memory}"
    count += f" on {where.machines} machines" if where.machines > 1 else ""
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
    if plan.active != plan.parameters:
        size += f", {plan.active:,} of them active for a token"
    schedule = f"{get('lr_scheduler_type', 'linear')} {get('lr_scheduler_kwargs') or ''}".strip()
    kind = get("optim", "adamw_torch_fused")
    what = {"full": "the whole model", "lora": "a LoRA adapter", "qlora": "a LoRA adapter on quantised weights"}
    trains = what[plan.method]
    if plan.method != "full" and plan.trained:
        trains += f", {plan.trained:,} parameters, rank {get('lora_r', 16)}"
    compute = "bf16" if get("bf16", True) else "fp16" if get("fp16") else "float32"
    dropped = f"; hidden dropout {get('hidden_dropout'):g}" if get("hidden_dropout") else ""
    return [
        ("model", f"{plan.model}; {size}"),
        ("trains", f"{trains}; weights {get('dtype') or 'float32'}, compute {compute}{dropped}"),
        ("optimizer", f"{kind}, peak rate {get('learning_rate'):g}, {schedule}, warm-up {get('warmup_steps', 0):g}"),
        ("loss", f"{get('loss')}; chat format {get('mixture.chat_format')}; too long: {get('mixture.overlong')}"),
    ]


def _memory_rows(plan: Plan) -> list[tuple[str, str]]:
    if plan.memory_gib is None:
        return [("memory", plan.memory_note)]
    held = plan.memory_gib
    verdict = {True: "fits", False: "does NOT fit", None: "memory of the machine unknown"}[plan.fits]
    digits = 1 if held["total"] >= 1 else 3
    parts = ", ".join(f"{words} {held[name]:.{digits}f}" for name, words in PARTS.items())
    text = f"about {held['total']:.{digits}f} GiB per {'GPU' if plan.target.gpus else 'process'}: {parts}"
    text += "; activations recomputed" if plan.checkpointing else "; activations kept"
    text += f"; host RAM {held['host']:.0f} GiB a machine" if held["host"] else ""
    limit = f" (with {1 - USABLE_MEMORY:.0%} kept free)" if plan.fits is not None else ""
    rows = [("memory", f"{text}: {verdict}{limit}")]
    for one in plan.measured:
        speed = f", {one['tokens_per_second']:,.0f} tokens/s" if one["tokens_per_second"] else ""
        peak = f"{'out of memory after ' if one['failed'] else ''}{one['peak_gib']:.1f} GiB"
        peak += "" if one["failed"] else " at the peak"
        rows.append(
            (
                "measured",
                f"{peak} on {one['gpu_name']}, attention {', '.join([one['attention'], *one['apart']])}{speed} "
                f"({one['date'] or 'undated'}, benchmarks/results/{one['file']})",
            )
        )
    return rows if plan.measured else [*rows, ("measured", "not measured")]


def _cost_rows(plan: Plan) -> list[tuple[str, str]]:
    get = plan.settings.get
    packed = "packed rows are nearly full" if get("packing") else "at most: rows are not packed, so most are shorter"
    product = f"{get('max_steps')} steps x {get('launch.global_batch')} x {get('max_length')}"
    rows = [("tokens", f"{plan.tokens:,} = {product} ({packed})")]
    if plan.flops:
        counted = "active parameters" if plan.active != plan.parameters else "parameters"
        formula = f"6 x ({counted} - input embedding)"
        formula = formula if plan.method == "full" else f"4 x ({counted} - input embedding) + 6 x adapter"
        formula += " + causal attention, nothing recomputed counted"
        rows.append(("compute", f"{plan.flops / 1e18:.3g} EFLOP ({formula})"))
    if plan.gpu_hours:
        assumed = f"{get('launch.mfu'):.0%} of {get('launch.gpu_peak_tflops'):g} TFLOP/s"
        hours = f"{plan.gpu_hours:.1f} GPU-hours at {assumed}, {plan.wall_hours:.1f} hours on {plan.target.gpus}"
        rows.append(("time", f"{hours}; assumed, not measured"))
    if plan.usd:
        rows.append(("cost", f"${plan.usd:,.0f} at ${get('launch.usd_per_gpu_hour'):.2f} per GPU-hour"))
    return [*rows, ("publishes", get("publish.hub_model_id") or "nowhere (publish.hub_model_id is not set)")]


def _table_lines(plan: Plan) -> list[str]:
    if not plan.table or plan.memory_gib is None:
        return []
    limit = f", {plan.target.limit_gib:.1f} usable" if plan.target.limit_gib else ""
    rows = [[f"GiB per GPU{limit}", *dict.fromkeys(one.method for one in plan.table)]]
    for name in dict.fromkeys(one.accelerate_config for one in plan.table):
        cells = [one for one in plan.table if one.accelerate_config == name]
        nowhere = all(one.total_gib is None for one in cells) and len({one.reason for one in cells}) == 1
        texts = [cells[0].reason] if nowhere else [_cell(one) for one in cells]
        rows.append([name if nowhere else f"{name} x {max(one.processes for one in cells)}", *texts])
    widths = [max(len(row[column]) for row in rows if len(row) > column) + 3 for column in range(len(rows[0]))]
    lines = ["".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    for one in plan.nearest:
        ram = f", {one.host_gib:,.0f} GiB of RAM a machine" if one.host_gib else ""
        lines.append(f"nearest that fits {one.which}: {', '.join(one.changes)} ({one.total_gib:.1f} GiB{ram})")
        lines.append(f"    {one.command}")
    if plan.fits is False and not plan.nearest:
        lines.append("nothing that we know of fits")
    return [*lines, ""]


def _cell(one: Cell) -> str:
    if one.total_gib is None:
        return one.reason
    ram = f", RAM {one.host_gib:,.0f}" if one.host_gib else ""
    if one.spare_gib is None:
        return f"{one.total_gib:.1f}{ram}"
    spare = f"{abs(one.spare_gib):.1f} {'free' if one.spare_gib >= 0 else 'over'}"
    return f"{one.total_gib:.1f} {'fits' if one.fits else 'does not fit'}, {one.reason or spare}{ram}"


def _source_lines(plan: Plan) -> list[str]:
    width = max(len(source.name) for source in plan.sources) + 2
    lines = [f"{'source':<{width}} {'share':>6} {'rows':>8} {'epochs':>8}   read from"]
    for one in plan.sources:
        rows = f"{one.rows:,}" if one.rows else "unknown"
        passes = f"{one.epochs:.2f}" if one.epochs else "unknown"
        lines.append(f"{one.name:<{width}} {one.share:>6.2f} {rows:>8} {passes:>8}   {one.pulled_from}")
    packed = plan.settings.get("packing") and not plan.settings.get("mixture.draws")
    return [*lines, "epochs are a lower bound: a packed row holds several conversations"] if packed else lines
