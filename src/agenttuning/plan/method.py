"""What a recipe trains: the whole model, or a LoRA adapter on frozen weights that may be quantised (QLoRA)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agenttuning.model_size import Architecture, head_parameters, linear_parameters, linears

# bitsandbytes: blocks of 64 values share a float32 scale; nested, the scales are 8-bit in blocks of 256 with one each.
BYTES_4BIT = 0.5 + 4 / 64
BYTES_4BIT_NESTED = 0.5 + 1 / 64 + 4 / (64 * 256)
BYTES_8BIT = 1.0  # and one float32 a row, which is nothing beside it
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# Keys of trl.ModelConfig that only an adapter has; without them a recipe is a full fine-tune.
PEFT_KEYS = (
    "use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters",
    "lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora", "load_in_4bit", "load_in_8bit",
    "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """kind: full, lora or qlora. weight_bytes: of one parameter as it is kept; linear_bytes: of one in the decoder's
    linear layers, which are smaller where they are quantised. targets: names of the adapted linear layers; whole: parts
    that are trained whole beside the adapter (lora_modules_to_save).
    """

    kind: str
    weight_bytes: float = 4
    linear_bytes: float = 4
    rank: int = 0
    targets: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    dropout: float = 0.0
    dora: bool = False


def method_of(values: Mapping[str, Any], model: Architecture) -> Method | str:
    """The method of a recipe's values with TRL's defaults, or in words why its memory is not estimated."""
    get = values.get
    kept = DTYPE_BYTES.get(get("dtype") or "float32")
    if kept is None:
        return f"not estimated for dtype {get('dtype')}"
    if not get("use_peft"):
        if get("load_in_4bit") or get("load_in_8bit"):
            return "quantised weights cannot be trained; write use_peft: true"
        return Method("full", kept, kept)
    if get("lora_target_parameters"):
        return "not estimated for lora_target_parameters"
    named = get("lora_target_modules")
    named = [named] if isinstance(named, str) else named
    if not named:
        return "not estimated without lora_target_modules (PEFT then chooses by the model's family)"
    known = linears(model)
    targets = tuple(known) if "all-linear" in named else tuple(name for name in known if name in named)
    strange = [name for name in named if name not in known and name != "all-linear"]
    if strange:
        return f"not estimated for lora_target_modules {', '.join(strange)}"
    if model.experts and ("all-linear" in named or any(name not in ATTENTION for name in targets)):
        # PEFT 0.21 turns these into adapters of the stacked experts and works with their whole difference at once
        return "not estimated for adapters of experts; name attention's layers"
    linear = kept
    if get("load_in_8bit"):
        linear = BYTES_8BIT
    if get("load_in_4bit"):
        linear = BYTES_4BIT_NESTED if get("use_bnb_nested_quant") else BYTES_4BIT
    kind = "qlora" if linear < kept else "lora"
    whole = tuple(get("lora_modules_to_save") or ())
    rank, dropout = get("lora_r", 16), get("lora_dropout", 0.05)
    return Method(kind, kept, linear, rank, targets, whole, dropout, bool(get("use_dora")))


def trained_parameters(method: Method, model: Architecture, total: int) -> int:
    """Parameters with a gradient: all `total` of them, or the adapter's."""
    if method.kind == "full":
        return total
    shapes = [linears(model)[name] for name in method.targets]
    low_rank = sum(count * (method.rank * (wide + high) + high * method.dora) for wide, high, count in shapes)
    return low_rank + head_parameters(model) * len(method.whole)


def stored_bytes(method: Method, model: Architecture, total: int) -> float:
    """Bytes of the weights on all GPUs together where each weight is kept once, an adapter's float32 among them."""
    if method.kind == "full":
        return method.weight_bytes * total
    linear = linear_parameters(model)  # what bitsandbytes quantises: nn.Linear, so neither experts nor the head
    frozen = method.linear_bytes * linear + method.weight_bytes * (total - linear)
    return frozen + 4 * trained_parameters(method, model, total)


def optimizer_bytes(name: str, method: Method, model: Architecture, total: int) -> float | None:
    """Bytes of the optimizer's state for everything trained; None for an optimizer that we have no figure for.

    Moments are float32, 8 bytes a parameter for AdamW. bitsandbytes' 8-bit ones have a float32 scale per 256 values and
    keep embeddings in 32 bits (transformers asks for that). Muon has one moment, and AdamW's two where it is not used.
    """
    trained = trained_parameters(method, model, total)
    if name == "muon":
        return 8 * total - 4 * linear_parameters(model)
    if name in EIGHT_BIT:
        embedding = head_parameters(model) if method.kind == "full" else 0
        return EIGHT_BIT[name] * (trained - embedding) * (1 + 4 / 256) + 4 * EIGHT_BIT[name] * embedding
    return OPTIMIZERS[name] * trained if name in OPTIMIZERS else None


OPTIMIZERS = {
    "adamw_torch": 8, "adamw_torch_fused": 8, "adamw_anyprecision": 8, "paged_adamw_32bit": 8, "paged_adamw": 8,
    "ademamix": 12, "paged_ademamix_32bit": 12, "lion_32bit": 4, "paged_lion_32bit": 4, "rmsprop": 4, "adagrad": 4,
    "sgd": 0,
}  # fmt: skip
# bytes of the moments a parameter, before their scales
EIGHT_BIT = {
    "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch_8bit": 2, "ademamix_8bit": 3,
    "paged_ademamix_8bit": 3, "lion_8bit": 1, "paged_lion_8bit": 1, "rmsprop_bnb_8bit": 1,
}  # fmt: skip
