"""A mixture of experts goes through `train` as our recipe for one asks: with the load-balancing loss, or without."""

import json

from helpers.llama_tokenizer import build_tokenizer
from helpers.tiny_run import losses, tiny_recipe, tiny_world, weights


def test_the_load_balancing_loss_is_trained_and_can_be_turned_off(tmp_path):
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from agenttuning.train import train

    world = tiny_world(tmp_path)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    shape |= {"num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, vocab_size=len(build_tokenizer()), max_position_embeddings=256))
    model.save_pretrained(tmp_path / "base")  # in the place of the Llama, beside its tokenizer
    runs = {"written": ("router_aux_loss_coef=0.001",), "off": ("router_aux_loss_coef=0.0",)}
    for name, overrides in runs.items():
        train(tiny_recipe(world, tmp_path / name, "max_steps=1", "warmup_steps=0", *overrides))
    logged = {name: losses(tmp_path / name) for name in runs}
    # with 2 of 4 experts in perfect balance it would be 2 x 0.001
    assert 0.0015 < logged["written"][0] - logged["off"][0] < 0.004
    router = "model.layers.0.mlp.gate.weight"
    moved = {name: weights(tmp_path / name / "model")[router] for name in ("written", "off")}
    assert not torch.equal(moved["written"], moved["off"]) and moved["off"].isfinite().all()
    kept = json.loads((tmp_path / "off/model/config.json").read_text())
    assert kept["model_type"] == "qwen3_moe"
