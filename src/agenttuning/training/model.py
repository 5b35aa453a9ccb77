"""The model that is trained, as the recipe asks for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.training import adapters

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from agenttuning.recipe import Recipe


def load_model(recipe: Recipe, attention: str) -> PreTrainedModel:
    """The recipe's model with this attention: in float32, or as an adapter's base in the recipe's dtype and quantised
    as it asks. Where FSDP hands the weights of process 0 to the others (fsdp_cpu_ram_efficient_loading), only the first
    process of a machine reads them. Raises UserError where the attention is another, or a part that is trained whole is
    shared.
    """
    from transformers import AutoModelForCausalLM

    get = recipe.values.get
    name, quantised = get("model_name_or_path"), adapters.quantization(recipe)
    how = {
        "revision": get("model_revision") or "main",
        "dtype": get("dtype") or "float32",
        "attn_implementation": attention,
        "trust_remote_code": False,
    }
    model = blank(name, **how) if weights_come_later() and not quantised else None
    if model is None:
        loaded = {"quantization_config": quantised} if quantised else {}
        model = AutoModelForCausalLM.from_pretrained(name, **how, **loaded)
    if model.config._attn_implementation != attention:
        raise UserError(f"{name} runs with {model.config._attn_implementation}, not {attention}; pin launch.attention")
    adapters.check_targets(model, recipe)
    whole = {"lm_head", "embed_tokens"} & set(get("lora_modules_to_save") or [])
    if whole and model.config.get_text_config().tie_word_embeddings:
        raise UserError(
            f"{recipe.path}: lora_modules_to_save names {' and '.join(sorted(whole))}, and {name} uses one matrix as "
            "embedding and output head; the two would come apart; leave them out"
        )
    return model


def weights_come_later() -> bool:
    """Whether FSDP will give this process the weights of process 0, whatever it loads itself."""
    from transformers.integrations.fsdp import is_fsdp_enabled

    return is_fsdp_enabled() and os.environ.get("LOCAL_RANK", "0") != "0"


def blank(
    name: str, revision: str, dtype: torch.dtype | str, attn_implementation: str, trust_remote_code: bool
) -> PreTrainedModel | None:
    """The model with memory for its weights that nothing is read into, and which the system therefore never provides;
    None where from_pretrained would keep some of it in another dtype than the rest, so that shards would not match.

    transformers 5 reads all weights in every process (its issue 43749): for 70B in float32 that is 2.2 TB of RAM on a
    machine with 8 GPUs. Not on the meta device: accelerate 1.15 tells an optimizer's parameters apart by their address.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code
        )
    kept = (getattr(model, key, None) for key in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"))
    if str(dtype) != "float32" and any(kept):
        return None
    model.tie_weights()
    return model.eval()
