"""Tiny random models of today's families, with transformers' own configs (hidden 32, 2 layers)."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.template_tokenizer import trl_template, write_tokenizer
from helpers.tiny_run import tiny_world

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.2}  # fmt: skip
ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}  # fmt: skip
OWN = {  # family: its config's class, what it takes besides SHAPE, TRL's template, the tokenizer's control tokens
    "llama": ("LlamaConfig", {}, "llama3", "llama3"),
    "llama-3.1": ("LlamaConfig", {"rope_parameters": ROPE}, "llama3_1", "llama3"),
    "qwen3": ("Qwen3Config", {"head_dim": 8, "tie_word_embeddings": True}, "qwen3", "chatml"),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0], "pad_token_id": 3}, "qwen3", "chatml"),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        "qwen3",
        "chatml",
    ),
}


def tiny_of(family: str, vocabulary: int = 512, seed: int = 0):
    """A model of the family with random weights."""
    import torch
    import transformers

    name, own, _, _ = OWN[family]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**SHAPE, **own, vocab_size=vocabulary)
    return transformers.AutoModelForCausalLM.from_config(config)


def family_world(folder: Path, family: str) -> Path:
    """helpers.tiny_run's repository with a model of the family and its template; returns the recipe's path."""
    from transformers import PreTrainedTokenizerFast

    recipe, base = tiny_world(folder), folder / "base"
    shutil.rmtree(base)
    _, _, template, control = OWN[family]
    write_tokenizer(base, control, trl_template(template))
    tiny_of(family, len(PreTrainedTokenizerFast.from_pretrained(base))).save_pretrained(base)
    text = recipe.read_text().replace("max_length: 128", "max_length: 512")
    recipe.write_text(text.replace("  seed: 3\n", "  seed: 3\n  chat_format: tokenizer\n"))
    return recipe
