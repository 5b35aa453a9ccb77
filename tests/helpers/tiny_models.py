"""Tiny random models of the architectures that recipes train, and what training/probe.py needs of a Trainer."""

from __future__ import annotations

import functools
from types import SimpleNamespace

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXTRA = {
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "mistral": {"sliding_window": 64},
    "gemma3_text": {"head_dim": 16, "sliding_window": 64, "num_hidden_layers": 7},
    "qwen3_next": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    | {"shared_expert_intermediate_size": 24, "linear_num_value_heads": 4, "linear_num_key_heads": 2}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "lfm2": {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "conv", "full_attention", "conv"]},
}


def tiny(kind: str, attention: str = "eager", **changes):
    """A model of transformers' model_type `kind`, 4 query heads on 2 key heads, on a CPU in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from agenttuning.training import varlen

    varlen.register()
    config = AutoConfig.for_model(kind, **{**SHAPE, **EXTRA.get(kind, {}), **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def trainer_of(model, packing: bool = True, bf16: bool = False, checkpointing: bool = False, device: str = "cpu"):
    """The parts of our Trainer that the probe uses, with TRL's real collator and the real model_inputs."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from agenttuning.training.collate import Collator, rows_lie_apart
    from agenttuning.training.trainer import Trainer

    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packing)
    args = {"device": torch.device(device), "bf16": bf16, "fp16": False}
    args |= {"gradient_checkpointing": checkpointing, "gradient_checkpointing_kwargs": None}
    trainer = SimpleNamespace(model=model, padding_free=packing, args=SimpleNamespace(**args))
    trainer.data_collator = Collator(collator, sources=1, apart=packing and rows_lie_apart(model.config))
    trainer.model_inputs = functools.partial(Trainer.model_inputs, trainer)
    return trainer
