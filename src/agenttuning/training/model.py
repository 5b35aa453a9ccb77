"""The model that is trained, as the recipe asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.training import adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agenttuning.recipe import Recipe


def load_model(recipe: Recipe, attention: str) -> PreTrainedModel:
    """The recipe's model with this attention: in float32, or as an adapter's base in the recipe's dtype and quantised
    as it asks. Raises UserError where the attention is another, or a part that is trained whole is shared.
    """
    from transformers import AutoModelForCausalLM

    get = recipe.values.get
    name, quantised = get("model_name_or_path"), adapters.quantization(recipe)
    model = AutoModelForCausalLM.from_pretrained(
        name,
        revision=get("model_revision") or "main",
        dtype=get("dtype") or "float32",
        attn_implementation=attention,
        trust_remote_code=False,
        **({"quantization_config": quantised} if quantised else {}),
    )
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
