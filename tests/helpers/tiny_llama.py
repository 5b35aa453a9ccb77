"""Tiny Llamas on disk for the evaluation's tests: random weights, or mute (the end token is always the likeliest)."""

from __future__ import annotations

from pathlib import Path

from helpers.llama_tokenizer import build_tokenizer


def save_tiny_llama(folder: Path, mute: bool = False, seed: int = 0) -> Path:
    """Write a model of hidden size 32 with room for 2,048 tokens, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from agenttuning.chat import save_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=2048))
    if mute:
        with torch.no_grad():
            layer = model.model.layers[0]
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
                weight.zero_()
            model.model.embed_tokens.weight.fill_(1.0)  # every position has the same hidden state
            model.lm_head.weight[tokenizer.eos_token_id] = 1.0
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder
