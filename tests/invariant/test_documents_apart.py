"""Packed documents are computed as if each stood alone, by every attention here; the probe sees when they are not."""

from __future__ import annotations

import functools

import pytest
import torch

from agenttuning.errors import UserError
from agenttuning.training import attention, probe, varlen
from helpers.tiny_models import tiny, trainer_of

LENGTHS = (11, 24, 5)
KINDS = ("llama", "qwen3", "smollm3", "qwen3_moe", "gemma3_text")


def documents(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 160, (n,), generator=generator) for n in LENGTHS]


def sharpened(model):
    """Large weights: attention far from uniform, logits that a leak would move. All experts, so that none is a tie."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def logits_and_gradient(model, batches):
    weights = torch.randn(sum(LENGTHS), model.config.vocab_size, generator=torch.Generator().manual_seed(1))
    logits = torch.cat([model(**batch, use_cache=False).logits.flatten(0, 1) for batch in batches])
    model.zero_grad()
    (logits * weights).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def packed(rows):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    ids = torch.cat(rows).tolist()
    row = {"input_ids": ids, "labels": ids, "seq_lengths": [len(row) for row in rows]}
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([row])
    return {key: value for key, value in batch.items() if key != "labels"}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_alone(kind, checkpointing):
    torch.manual_seed(0)
    model = sharpened(tiny(kind, num_experts_per_tok=8) if kind == "qwen3_moe" else tiny(kind)).train()
    alone = logits_and_gradient(model, [{"input_ids": row[None]} for row in documents()])
    if checkpointing:
        model.activation_checkpointing_enable()
    for name in ("eager", "sdpa", "varlen"):
        model.set_attn_implementation(name)
        together = logits_and_gradient(model, [packed(documents())])
        assert (together[0] - alone[0]).abs().max() < 2e-5 * alone[0].std(), name
        for weight, gradient in alone[1].items():
            assert (together[1][weight] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-6, (name, weight)


@torch._dynamo.config.patch(disable=True)  # the same arithmetic without a minute of compiling
def test_flex_attention_packs_rightly_and_cannot_train_on_a_cpu(monkeypatch):
    model = sharpened(tiny("llama"))
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in documents()])
        model.set_attn_implementation("flex_attention")
        together = model(**packed(documents()), use_cache=False).logits[0]
    assert (together - alone).abs().max() < 2e-5 * alone.std()
    with pytest.raises(UserError, match=r"flex_attention failed in a small copy.*backward on CPU"):
        probe.probe(trainer_of(model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["eager", "sdpa", "varlen"])
def test_the_probe_passes_what_is_right(kind, name, capsys):
    model = tiny(kind, name)
    before, state = model.state_dict()["model.norm.weight"].clone(), torch.get_rng_state()
    probe.report_probe(trainer_of(model, checkpointing=kind == "llama"))
    assert "probe      conversations packed and alone differ by" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)  # the run's own random numbers are the same with and without it
    assert torch.equal(model.state_dict()["model.norm.weight"], before)
    assert model.config._attn_implementation == name


def test_the_probe_tells_rounding_from_a_leak_in_bf16_too():
    for name in ("eager", "sdpa", "varlen"):
        model = tiny("llama", name)
        assert max(probe.probe(trainer_of(model, bf16=True))) < probe.TOLERANCE["half"] / 2
    leaking = trainer_of(tiny("llama", "sdpa"), bf16=True)
    leaking.model_inputs = lambda batch: {"input_ids": batch["input_ids"], "use_cache": False}
    assert max(probe.probe(leaking)) > 4 * probe.TOLERANCE["half"]


def test_padded_rows_are_right_under_varlen():
    assert max(probe.probe(trainer_of(tiny("qwen3", "varlen"), packing=False))) < 2e-5


def call(trainer, change):
    """What the model is called with, changed."""
    right = trainer.model_inputs
    trainer.model_inputs = lambda batch: change(right(batch))
    return trainer


MUTATIONS = {
    "a cache": lambda inputs: {**inputs, "use_cache": True},
    "a mask of ones": lambda inputs: {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])},
    "no positions": lambda inputs: {key: value for key, value in inputs.items() if key != "position_ids"},
}


@pytest.mark.parametrize("name", ["eager", "sdpa"])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_probe_refuses_what_lets_documents_see_each_other(mutation, name):
    with pytest.raises(UserError, match=f"{name} does not keep the conversations of LlamaForCausalLM apart"):
        probe.report_probe(call(trainer_of(tiny("llama", name)), MUTATIONS[mutation]))


@pytest.mark.parametrize("shift", [1, -1])
def test_the_probe_refuses_boundaries_that_are_one_off(shift):
    def moved(inputs):
        bounds = inputs["cu_seq_lens_q"].clone()
        bounds[1] += shift
        return {**inputs, "cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}

    with pytest.raises(UserError, match="varlen does not keep the conversations"):
        probe.report_probe(call(trainer_of(tiny("llama", "varlen")), moved))


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_next"])
def test_layers_that_carry_state_over_a_boundary_are_refused(kind):
    for name in ("sdpa", "varlen"):
        with pytest.raises(UserError, match="can't keep packed sequences apart without `causal_conv1d`"):
            probe.report_probe(trainer_of(tiny(kind, name)))
    apart = trainer_of(tiny(kind, "sdpa"))
    apart.data_collator.apart = True  # as if rows_lie_apart did not know of such layers: nothing raises, and it leaks
    with pytest.raises(UserError, match="does not keep the conversations"):
        probe.report_probe(apart)


def test_the_probe_is_as_quick_for_the_largest_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=8, vocab_size=32000))
    small = probe.small_copy(model, narrow=True)
    assert sum(p.numel() for p in small.parameters()) < 8e6
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (16, 2, 128)
    assert max(probe.probe(trainer_of(model))) < 2e-5


def test_the_probe_reaches_the_model_below_an_adapter():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("llama", "varlen"), LoraConfig(target_modules=["q_proj"]))
    assert max(probe.probe(trainer_of(model))) < 2e-5


def test_a_model_that_cannot_be_made_small_is_not_packed(monkeypatch):
    model = tiny("llama", "sdpa")
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"no small copy of LlamaForCausalLM could be run \(ZeroDivisionError"):
        probe.report_probe(trainer_of(model))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["varlen", "flash_attention_2", "flash_attention_3", "sdpa", "flex_attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_alone_on_a_gpu(kind, name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    missing = varlen.available("cuda") if name == "varlen" else None
    if name.startswith("flash"):
        missing = attention._flash_missing(name)
    if missing:
        pytest.skip(f"{name}: {missing}")
    for packing in (True, False):
        trainer = trainer_of(tiny(kind, name), packing=packing, bf16=True, device="cuda", checkpointing=packing)
        assert max(probe.probe(trainer)) < probe.TOLERANCE["half"]


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 7])
def test_the_kernel_equals_the_loop_over_documents_on_a_gpu(window):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if reason := varlen.available("cuda"):
        pytest.skip(reason)
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device="cuda")
    make = functools.partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    q, k, v = (make(sum(LENGTHS), heads, 64).requires_grad_() for heads in (8, 2, 2))
    out = varlen._kernel(q, k, v, bounds, max(LENGTHS), 0.2, window)
    gradients = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    plain = [part.detach().float().cpu().requires_grad_() for part in (q, k, v)]
    right = varlen.by_document(*plain, bounds.cpu(), 0.2, window)
    expected = torch.autograd.grad(right.square().sum(), plain)
    assert (out.float().cpu() - right).abs().max() < 0.03
    for got, wanted in zip(gradients, expected, strict=True):
        assert (got.float().cpu() - wanted).norm() < 0.02 * wanted.norm()
