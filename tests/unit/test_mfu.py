"""The work that the MFU counts, the peak it is divided by, and when there is none."""

from __future__ import annotations

import pytest

from agenttuning import model_size, recipe
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.training import mfu
from agenttuning.training.meter import Meter, log_line


def tiny(kind, **more):
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 8, **more}  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape))


@pytest.mark.parametrize("tied", [False, True])
def test_the_work_is_the_plans_and_attention_stays_inside_conversations(tied):
    model = tiny("Llama", tie_word_embeddings=tied)
    shape = model_size.from_config(model.config.to_dict())
    count = mfu.work(model)
    # one conversation of 50 tokens; two of them are twice the work, not that of one of 100
    assert count(50, 50**2) == 50 * model_size.flops_per_token(shape, 50)
    assert count(100, 2 * 50**2) == 2 * count(50, 50**2) < count(100, 100**2)


@pytest.mark.parametrize("tied", [False, True])
def test_another_family_is_counted_from_its_parameters(tied):
    model = tiny("Olmo2", tie_word_embeddings=tied)
    matrices = sum(weight.numel() for weight in model.parameters()) - (0 if tied else 100 * 32)
    assert mfu.work(model)(10, 0) == 6 * 10 * matrices
    assert mfu.work(model)(10, 100) - mfu.work(model)(10, 0) == 6 * 2 * 4 * 8 * 100


def test_a_mixture_of_experts_counts_the_active_ones_where_the_family_is_known():
    experts = {"num_experts": 8, "moe_intermediate_size": 16, "decoder_sparse_step": 1, "num_experts_per_tok": 2}
    sparse = tiny("Qwen3Moe", **experts)
    met = sum(weight.numel() for name, weight in sparse.named_parameters() if "experts." not in name) - 100 * 32
    met += 2 * 2 * 3 * 32 * 16  # two layers, two experts, three matrices
    assert mfu.work(sparse)(10, 0) == 6 * 10 * met
    assert mfu.work(tiny("Mixtral", num_local_experts=4)) is None


def test_frozen_weights_have_no_gradients_of_their_own():
    from peft import LoraConfig, get_peft_model

    for kind in ("Llama", "Olmo2"):
        whole = tiny(kind)
        matrices = sum(weight.numel() for weight in whole.parameters()) - 100 * 32
        adapted = get_peft_model(whole, LoraConfig(r=2, target_modules=["q_proj"]))
        adapter = adapted.get_nb_trainable_parameters()[0]
        assert mfu.work(adapted.get_base_model())(1, 0) == 4 * matrices + 6 * adapter, kind


def stated(*overrides):
    return recipe.load(REPOSITORY / "recipes/agentlm-13b", overrides)


def test_the_peak_is_the_recipes_and_only_for_its_gpu():
    found, said = mfu.peak(stated(), "NVIDIA H200", 8)
    assert found == 8 * 989e12 and "989 TFLOP/s a GPU" in said and "causal" in said
    for device, overrides, why in (
        (None, (), "no peak is stated for a CPU"),
        ("NVIDIA A100-SXM4-80GB", (), "is that of NVIDIA H200 and this is NVIDIA A100"),
        ("NVIDIA H200", ("launch.gpu_peak_tflops=null",), "is not set"),
    ):
        found, said = mfu.peak(stated(*overrides), device, 1)
        assert found is None and why in said


def test_the_share_of_the_peak(monkeypatch):
    meter = Meter(["agent", "chat"])
    meter.work, meter.peak = (lambda tokens, attended: 10 * tokens + attended), 1e6
    monkeypatch.setattr(meter, "tick", lambda: setattr(meter, "seconds", meter.seconds + 2.0))
    meter.count(1000, 40_000, [100, 0], [250.0, 0.0])
    found = meter.figures(1)
    assert found["mfu"] == pytest.approx(50_000 / 2 / 1e6) and found["tokens_per_second"] == 500
    assert found["loss/agent"] == 2.5 and "loss/chat" not in found and found["supervised_tokens_per_second"] == 50
    meter.count(1000, 40_000, [50, 50], [50.0, 100.0])
    again = meter.figures(3)  # since the last line only, which was two steps ago
    assert (again["loss/agent"], again["loss/chat"], again["supervised_per_step"]) == (1.0, 2.0, 50)
    line = log_line(3, 9, {"loss": 1.5, "learning_rate": 1e-3, "grad_norm": 1.0, **again})
    assert "mfu 2.5 %" in line and "loss 1.5000 (agent 1.0000, chat 2.0000)  lr" in line
    del again["loss/chat"]
    assert "loss 1.5000  lr" in log_line(3, 9, {"loss": 1.5, "learning_rate": 1e-3, **again})
