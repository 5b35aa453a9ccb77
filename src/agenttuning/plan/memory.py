"""Memory of one training run per GPU, part by part, in closed form from its architecture and how it is spread.

An estimate: fragmentation and the CUDA context come on top, for which `plan` keeps a tenth of the card free. Checked
against what autograd and the optimizers really hold on small models (tests/unit/test_plan_memory.py); no full-size run
has been measured.
"""

from dataclasses import dataclass
from typing import Any

from agenttuning.errors import UserError
from agenttuning.model_size import (
    Architecture,
    head_parameters,
    layer_parameters,
    linear_parameters,
    linears,
    parameters,
)
from agenttuning.plan import activations
from agenttuning.plan.method import DTYPE_BYTES, Method, method_of, optimizer_bytes, stored_bytes, trained_parameters
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import checkpoints_activations

# DeepSpeed ZeRO-3 defaults (deepspeed/runtime/zero/config.py, 0.19): parameters gathered at once, and in a bucket
ZERO3_LIVE, ZERO3_BUCKET = 1_000_000_000, 500_000_000


@dataclass(frozen=True)
class Memory:
    """Estimated bytes per GPU. copies: bf16 copies of float32 weights, layers gathered from other GPUs, buckets of
    gradients on their way. host: bytes of one machine's RAM where states are offloaded.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    loss_head: float
    copies: float
    host: float = 0

    @property
    def total(self) -> float:
        """Bytes on one GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss_head + self.copies


@dataclass(frozen=True)
class Case:
    """One way to run one model. config: a validated accelerate config; stream: see plan.activations; synced: whether
    each micro-batch's gradients are reduced at once (always so without accumulation); dropped: with hidden dropout;
    row: as plan.activations has it.
    """

    model: Architecture
    method: Method
    optimizer: str
    config: dict[str, Any]
    processes: int
    machines: int
    tokens: int
    attention: str
    stream: str
    checkpointing: bool
    synced: bool
    dropped: bool = False
    row: int | None = None


def case(recipe: Recipe, model: Architecture, config: dict, processes: int, machines: int, micro: int) -> Case | str:
    """The recipe in this accelerate config on so many processes, `micro` micro-batches a step; or why not, in words."""
    get = recipe.values.get
    method = method_of(recipe.values, model)
    if isinstance(method, str):
        return method
    if reason := impossible(recipe, method, config):
        return reason
    try:
        checkpointing = checkpoints_activations(recipe, config)
    except UserError:
        checkpointing = True  # both at once: `plan` for this very config says so itself; elsewhere FSDP's is meant
    options = get("accelerator_config")
    options = (options.get("gradient_accumulation_kwargs") or {}) if isinstance(options, dict) else {}
    sharded, precision = config["distributed_type"] in ("FSDP", "DEEPSPEED"), config.get("mixed_precision", "no")
    half = DTYPE_BYTES[get("dtype") or "float32"] == 2
    return Case(
        model=model,
        method=method,
        optimizer=get("optim", "adamw_torch_fused"),
        config=config,
        processes=processes,
        machines=machines,
        tokens=get("per_device_train_batch_size") * get("max_length"),
        attention=recipe.launch.attention,
        stream="fp32" if precision == "no" and not half else "bf16" if sharded or half else "mixed",
        checkpointing=checkpointing,
        synced=micro == 1 or bool(options.get("sync_each_batch")),
        dropped=bool(get("hidden_dropout")),
        # training/trainer.py lays packed rows apart for an attention with a mask, but for a router's loss
        row=None if model.experts and get("packing") else get("max_length"),
    )


def impossible(recipe: Recipe, method: Method, config: dict[str, Any]) -> str | None:
    """Why this method cannot be spread so; None where it can."""
    get, kind = recipe.values.get, config["distributed_type"]
    if kind == "DEEPSPEED" and method.kind == "qlora":
        return "no quantised weights under ZeRO-3"
    if kind == "DEEPSPEED" and method.kind == "lora" and method.weight_bytes == 2:
        return "adapters would be bfloat16 (TRL)"
    if kind == "FSDP" and method.kind == "qlora" and get("load_in_8bit"):
        return "FSDP cannot shard 8-bit weights"
    if kind == "FSDP" and method.kind == "qlora" and get("bnb_4bit_quant_storage") != get("dtype"):
        return "needs bnb_4bit_quant_storage = dtype"
    return None


def estimate(one: Case) -> Memory | str:
    """Memory of a case, or in words why it is not estimated."""
    model, method = one.model, one.method
    total = parameters(model)
    trained = trained_parameters(method, model, total)
    moments = optimizer_bytes(one.optimizer, method, model, total)
    if moments is None:
        return f"not estimated for optim {one.optimizer}"
    kind = one.config["distributed_type"]
    weights, gradients = stored_bytes(method, model, total), 4.0 * trained
    if kind == "DEEPSPEED":  # 18 bytes a parameter, as its estimate_zero3_model_states_mem_needs: bf16 beside float32
        weights += 2.0 * trained
    gpu = not one.config.get("use_cpu")
    how = (one.attention, one.stream, one.checkpointing, gpu, one.dropped, one.row)
    kept = activations.stored(model, method, one.tokens, *how)
    head = activations.loss_head(model, method, one.tokens, one.stream)
    if kind not in ("FSDP", "DEEPSPEED"):
        copies = _copies(one) + (gradients if kind == "MULTI_GPU" else 0)  # DDP's buckets are no views of the gradients
        return Memory(weights, gradients, moments, kept, head, copies)
    if _offloads(one.config):
        on_host = (weights + gradients + moments) / one.machines
        return Memory(0, 0, 0, kept, head, _gathered(one, trained), on_host)
    shard = one.processes
    return Memory(weights / shard, gradients / shard, moments / shard, kept, head, _gathered(one, trained))


def _offloads(config: dict[str, Any]) -> bool:
    by_fsdp = bool(config.get("fsdp_config", {}).get("fsdp_offload_params"))
    return by_fsdp or config.get("deepspeed_config", {}).get("offload_param_device", "none") != "none"


def _copies(one: Case) -> float:
    """Autocast casts float32 weights once and keeps the copies through the step; 4-bit ones are unpacked one by one."""
    if one.method.kind == "qlora":
        return 2.0 * max(wide * high for wide, high, _ in linears(one.model).values())
    if one.stream != "mixed":
        return 0.0
    # of frozen weights autocast caches nothing: only what backward will need is kept, a layer at a time if recomputed
    layers = one.model.layers if one.method.kind == "full" or not one.checkpointing else 1
    return 2.0 * linear_parameters(one.model) * layers / one.model.layers


def _gathered(one: Case, trained: int) -> float:
    """Two layers and the head whole on each GPU, and the gradients of one of them before they are sent off.

    While gradients accumulate without being reduced (accelerate's no_sync under FSDP 2, unless sync_each_batch), each
    GPU keeps those of the whole model in bf16.
    """
    size = 4 if one.stream == "fp32" else 2
    layer, head = layer_parameters(one.model), head_parameters(one.model)
    if one.method.kind == "qlora":
        layer = (layer * one.method.linear_bytes + _copies(one)) / size
    if one.config["distributed_type"] == "DEEPSPEED":
        return 2.0 * (min(parameters(one.model), max(ZERO3_LIVE, layer)) + min(trained, ZERO3_BUCKET))
    in_flight = max(layer, head) if one.method.kind == "full" else 0
    unsent = 0 if one.synced else trained
    return size * (2.0 * layer + head + in_flight + unsent)
