"""The model that is trained, as the recipe asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agenttuning.recipe import Recipe


def load_model(recipe: Recipe, attention: str) -> PreTrainedModel:
    """The recipe's model in float32 with this attention."""
    import torch
    from transformers import AutoModelForCausalLM

    name, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision") or "main"
    model = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
    )
    if model.config._attn_implementation != attention:
        raise UserError(f"{name} runs with {model.config._attn_implementation}, not {attention}; pin launch.attention")
    return model
