"""Model FLOPs utilisation: which work is counted, and against which peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agenttuning import model_size
from agenttuning.training.adapters import counts

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

CONVENTION = (
    "6 x (active parameters - input embedding) a token (frozen ones 4) + causal attention inside each conversation, "
    "nothing recomputed counted"
)


def work(model: Any) -> Callable[[int, int], float] | None:
    """FLOPs of training on `tokens` tokens whose conversations' squared lengths sum to `attended`, forward and
    backward. Frozen weights under a LoRA adapter have no gradients of their own to compute. None for a mixture of
    experts that model_size does not know: how many experts a token meets stands under another key in each family.
    """
    config = model.config.get_text_config()
    trained, total = counts(model)
    adapter = trained if trained < total else None
    try:
        shape = model_size.from_config(config.to_dict())
    except (KeyError, ValueError):  # another family: its parameters, counted
        if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
            return None
        embedding = model.get_input_embeddings().weight
        tied = model.get_output_embeddings().weight is embedding
        multiplied = total - (adapter or 0) - (0 if tied else embedding.numel())
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        alone = 6 * multiplied if adapter is None else 4 * multiplied + 6 * adapter
        return lambda tokens, attended: alone * tokens + 6 * config.num_hidden_layers * width * attended
    alone = model_size.flops_per_token(shape, 0, adapter)
    of_pairs = model_size.flops_per_token(shape, 1, adapter) - alone
    return lambda tokens, attended: alone * tokens + of_pairs * attended


def peak(recipe: Recipe, device: str | None, processes: int) -> tuple[float | None, str]:
    """FLOP/s of all GPUs together as the recipe states it, and in words where it comes from, or why it is unknown.

    device: the GPU's own name, None on a CPU.
    """
    stated = recipe.launch.gpu_peak_tflops
    if device is None:
        return None, "none: no peak is stated for a CPU"
    if stated is None:
        return None, "none: launch.gpu_peak_tflops is not set"
    if recipe.launch.gpu_name and recipe.launch.gpu_name.lower() not in device.lower():
        return None, (
            f"none: launch.gpu_peak_tflops is that of {recipe.launch.gpu_name} and this is {device}; set both for it"
        )
    return stated * 1e12 * processes, f"{stated:g} TFLOP/s a GPU (launch.gpu_peak_tflops); {CONVENTION}"
