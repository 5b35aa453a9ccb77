"""Counts in closed form against transformers' own, with full-size models on the meta device, and PEFT's."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from agenttuning import model_size
from agenttuning.plan.method import method_of, trained_parameters

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 80}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
WIDE = {"head_dim": 16}
MOE = {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2}
CASES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", WIDE),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", WIDE),
    ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    ("smollm3", {"pad_token_id": 0}),
    ("smollm3", {"pad_token_id": 0, "tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}),
    ("qwen3_moe", MOE | WIDE),
    ("qwen3_moe", MOE | {"num_hidden_layers": 4, "decoder_sparse_step": 2}),
    ("qwen3_moe", MOE | {"mlp_only_layers": [0, 2], "attention_bias": True}),
]
# The Hub ids of the table as transformers' configs: what is left out is the config class's default.
FULL = {
    "meta-llama/Llama-2-7b-chat-hf": ("llama", {"vocab_size": 32000}),
    "meta-llama/Llama-2-13b-chat-hf": (
        "llama", {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}),
    "meta-llama/Llama-2-70b-chat-hf": (
        "llama", {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
                  "num_key_value_heads": 8}),
    "meta-llama/Llama-3.1-8B-Instruct": (
        "llama", {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}),
    "Qwen/Qwen3-8B": (
        "qwen3", {"intermediate_size": 12288, "num_hidden_layers": 36, "num_key_value_heads": 8}),
    "HuggingFaceTB/SmolLM3-3B": ("smollm3", {}),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ("qwen3_moe", {"num_hidden_layers": 48, "head_dim": 128}),
}  # fmt: skip


def on_meta(family, **shape):
    config = transformers.AutoConfig.for_model(family, **shape)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return config, model


def counted(model):
    return sum(weight.numel() for weight in {id(weight): weight for weight in model.parameters()}.values())


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_parameters_of_small_models_of_each_family(family, shape):
    config, model = on_meta(family, **(SMALL | shape))
    size = model_size.from_config(config.to_dict())
    assert model_size.parameters(size) == counted(model)
    largest = max(counted(layer) for layer in model.model.layers)
    assert model_size.layer_parameters(size) == pytest.approx(largest, rel=0.03 if size.experts else 0)
    linear = sum(
        module.weight.numel()
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("layers")
    )
    assert model_size.linear_parameters(size) == linear


@pytest.mark.parametrize("name", FULL)
def test_parameters_of_the_models_of_our_recipes(name):
    family, shape = FULL[name]
    config, model = on_meta(family, **shape)
    assert model_size.KNOWN[name] == model_size.from_config(config.to_dict())
    assert model_size.parameters(model_size.KNOWN[name]) == counted(model)


def test_published_sizes():
    """Meta's; and Qwen's name says 30B, A3B: the card on the Hub gives 30.5 and 3.3 billion."""
    sizes = {name: model_size.parameters(model) for name, model in model_size.KNOWN.items()}
    assert sizes["meta-llama/Llama-2-7b-hf"] == 6_738_415_616
    assert sizes["meta-llama/Llama-2-13b-chat-hf"] == 13_015_864_320
    assert sizes["meta-llama/Llama-2-70b-chat-hf"] == 68_976_648_192
    assert sizes["meta-llama/Llama-3.1-8B"] == 8_030_261_248
    moe = model_size.KNOWN["Qwen/Qwen3-30B-A3B"]
    assert round(model_size.parameters(moe) / 1e9, 1) == 30.5
    assert round(model_size.active_parameters(moe) / 1e9, 2) == 3.35
    dense = model_size.KNOWN["Qwen/Qwen3-8B"]
    assert model_size.active_parameters(dense) == sizes["Qwen/Qwen3-8B"]


@pytest.mark.parametrize(
    ("name", "six", "causal"),
    [
        ("meta-llama/Llama-2-7b-hf", 39.64, 42.87),
        ("meta-llama/Llama-2-13b-hf", 77.11, 82.15),
        ("meta-llama/Llama-2-70b-hf", 412.29, 428.39),
        ("meta-llama/Llama-3.1-8B", 45.03, 48.25),
        ("Qwen/Qwen3-8B", 45.41, 49.03),
    ],
)
def test_flops_per_token_are_the_tables(name, six, causal):
    """GFLOP per token, worked out by hand: 6 x matrix parameters, and with causal attention at 4,096 tokens."""
    model = model_size.KNOWN[name]
    assert model_size.flops_per_token(model, 0) / 1e9 == pytest.approx(six, abs=0.006)
    assert model_size.flops_per_token(model, 4096) / 1e9 == pytest.approx(causal, abs=0.011)


def test_flops_of_an_adapter_leave_out_the_gradients_of_frozen_weights():
    model = model_size.KNOWN["meta-llama/Llama-3.1-8B"]
    adapted = model_size.flops_per_token(model, 4096, adapter=0)
    assert adapted / 1e9 == pytest.approx(45.03 * 4 / 6 + 3.22, abs=0.01)
    # NeMo AutoModel publishes 12,473 tokens/s and 402 TFLOP/s for it with LoRA on one H100: 32.2 GFLOP per token
    assert adapted == pytest.approx(402e12 / 12473, rel=0.04)
    assert model_size.flops_per_token(model, 4096, adapter=10) - adapted == 60


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("family", "shape", "values"),
    [
        ("llama", {}, {"lora_target_modules": ALL, "lora_r": 4}),
        ("llama", {}, {"lora_target_modules": ["q_proj", "v_proj"], "lora_r": 3}),
        ("llama", {}, {"lora_target_modules": ["all-linear"], "lora_r": 4, "use_dora": True}),
        ("qwen3", {}, {"lora_target_modules": ["all-linear"]}),
        ("qwen3_moe", MOE, {"lora_target_modules": ALL[:4]}),
        ("llama", {}, {"lora_target_modules": ALL, "lora_modules_to_save": ["lm_head"]}),
    ],
)
def test_an_adapter_has_pefts_size(family, shape, values):
    config, model = on_meta(family, **(SMALL | shape))
    size = model_size.from_config(config.to_dict())
    targets = values["lora_target_modules"]
    with torch.device("meta"):
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=values.get("lora_r", 16),
                target_modules="all-linear" if targets == ["all-linear"] else targets,
                use_dora=values.get("use_dora", False),
                modules_to_save=values.get("lora_modules_to_save"),
                task_type="CAUSAL_LM",
            ),
        )
    real = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    method = method_of({"use_peft": True, **values}, size)
    assert trained_parameters(method, size, model_size.parameters(size)) == real


@pytest.mark.parametrize(
    "values",
    [
        {"lora_target_modules": ["wq"]},
        {"lora_target_modules": None},
        {"lora_target_modules": ["q_proj"], "lora_target_parameters": ["mlp.experts.down_proj"]},
        {"lora_target_modules": ["q_proj"], "dtype": "auto"},
        {"lora_target_modules": ["all-linear"], "model": "Qwen/Qwen3-30B-A3B"},
        {"lora_target_modules": ["down_proj"], "model": "Qwen/Qwen3-30B-A3B"},
    ],
)
def test_an_adapter_that_we_cannot_count_is_not_guessed(values):
    model = model_size.KNOWN[values.get("model", "Qwen/Qwen3-8B")]
    assert "not estimated" in method_of({"use_peft": True, **values}, model)


def test_a_local_folder_and_the_hubs_cache_win_over_the_table(tmp_path):
    config = {"model_type": "qwen3", **{**SMALL, "vocab_size": 11}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_size.find("Qwen/Qwen3-8B", tmp_path).vocabulary == 11
    assert model_size.find(str(tmp_path)).vocabulary == 11
    assert model_size.find("Qwen/Qwen3-8B", tmp_path / "none") == model_size.KNOWN["Qwen/Qwen3-8B"]
    assert "not in our table" in model_size.find("someone/else")
