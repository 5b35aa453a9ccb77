"""Which attention a run uses, and why. `auto` takes the fastest that is here; nothing is ever fetched or exchanged
without the recipe saying so (docs/attention.md has the table).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from agenttuning.recipe import Recipe

# auto on a GPU: the first that can run. flash_attention_4 is a pre-release and only taken when pinned.
FASTEST = ("flash_attention_3", "flash_attention_2", "varlen")
INSTEAD = "another attention would have another speed and memory than planned"


def choose_attention(recipe: Recipe) -> tuple[str, str]:
    """The attention implementation, known to transformers from here on, and the reason.

    Raises UserError when the recipe pins one that cannot run here or would train something else: transformers would
    look for an absent one on the Hub, and leave out a dropout that a kernel does not have.
    """
    from transformers import AutoConfig

    from agenttuning.training import varlen

    asked, device = recipe.launch.attention, device_of(recipe)
    name, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision") or "main"
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False).get_text_config()
    if asked == "auto":
        chosen, why = fastest(recipe, config, device)
    else:
        if reason := obstacle(asked, recipe, config, device):
            raise UserError(f"launch.attention: {asked} {reason}")
        chosen, why = asked, "pinned by the recipe"
        if "/" in asked:
            load_kernel(asked)
            why += "" if "@" in asked else "; no @revision, so whichever is newest"
    if chosen == varlen.NAME:
        varlen.register()
    return chosen, why


def device_of(recipe: Recipe) -> str:
    """`cpu` or `cuda`: where this process will train."""
    import torch

    return "cpu" if recipe.launch.accelerate_config == "cpu" or not torch.cuda.is_available() else "cuda"


def fastest(recipe: Recipe, config: PretrainedConfig, device: str) -> tuple[str, str]:
    """What `auto` means for this model on this device, and why."""
    from agenttuning.training import varlen

    if device == "cpu":
        if not recipe.values.get("packing"):
            return "sdpa", "auto: on a CPU the fastest for rows that are not packed"
        if reason := varlen.unfit(config):
            return "sdpa", f"auto: on a CPU varlen would be faster for packed rows, but {reason}"
        return varlen.NAME, "auto: on a CPU the fastest for packed rows, each document by itself"
    reasons = []
    for name in FASTEST:
        reason = obstacle(name, recipe, config, device)
        if reason is None:
            return name, "; ".join(["auto: the fastest that runs here", *reasons])
        reasons.append(f"{name} {reason.split(';')[0]}")
    return "sdpa", "auto: " + "; ".join(reasons)


def obstacle(name: str, recipe: Recipe, config: PretrainedConfig, device: str) -> str | None:
    """Why this attention cannot train this model on this device as asked, or None. Reads as the end of a sentence."""
    from agenttuning.training import varlen

    if name in ("sdpa", "eager"):
        return None
    if name == "flex_attention":
        if device == "cpu":
            return "has no backward pass on a CPU, so nothing could be trained; write sdpa"
        return "has no dropout, which the model asks for; write sdpa" if _dropout(config) else None
    if name == varlen.NAME:
        reason = varlen.unfit(config) or varlen.available(device)
        if reason:
            return f"cannot be used: {reason}; {INSTEAD}; write auto or sdpa"
    elif "/" not in name and (reason := _flash_missing(name)):
        return f"{reason}; {INSTEAD}; install it (pip install -e '.[gpu]') or write auto"
    if name not in (varlen.NAME, "flash_attention_2") and _dropout(config):
        return f"has no dropout and the model asks for {_dropout(config)}; it would be left out in silence; write sdpa"
    if device == "cuda" and not _halves(recipe):
        return "takes bf16 or fp16 and the recipe computes in float32; set bf16: true, or write sdpa"
    return None


def _flash_missing(name: str) -> str | None:
    import torch
    from transformers.utils import import_utils

    present: Callable[[], bool] = getattr(import_utils, f"is_flash_attn_{name[-1]}_available")
    if not present():
        return "is not installed here, or there is no GPU for it"
    generation = torch.cuda.get_device_capability()[0]
    # as their builds have it: 3 for Hopper alone, 4 for Hopper and later, 2 for Ampere and later
    wrong = generation != 9 if name[-1] == "3" else generation < (9 if name[-1] == "4" else 8)
    return f"was not made for {torch.cuda.get_device_name()}" if wrong else None


def _dropout(config: PretrainedConfig) -> float:
    return getattr(config, "attention_dropout", 0.0) or 0.0


def _halves(recipe: Recipe) -> bool:
    return bool(recipe.values.get("fp16")) or recipe.values.get("bf16") is not False  # TRL's default is bf16


def load_kernel(name: str) -> None:
    """Fetch, or take from the cache, the Hub kernel `owner/name[@revision]` and register it with transformers.

    Raises UserError where the `kernels` package is not of the version that transformers takes, and where the kernel
    cannot be loaded.
    """
    from importlib.metadata import PackageNotFoundError, version

    from transformers.integrations.hub_kernels import load_and_register_attn_kernel
    from transformers.utils import import_utils

    if not import_utils.is_kernels_available():
        try:
            here = f"kernels {version('kernels')} is"
        except PackageNotFoundError:
            here = "the package kernels is not"
        low, high = (getattr(import_utils, f"KERNELS_{end}_VERSION", "?") for end in ("MIN", "MAX"))
        raise UserError(
            f"launch.attention: {name} is a kernel on the Hub; transformers loads it with kernels >={low},<{high} and "
            f"{here} installed; install one of these, or write auto"
        )
    try:
        load_and_register_attn_kernel(name)
    except Exception as error:  # a kernel is foreign code: importing it may raise anything
        raise UserError(
            f"launch.attention: the Hub kernel {name} could not be loaded ({type(error).__name__}: {error}); "
            f"{INSTEAD}; look at the name and the network, or write auto"
        ) from error
