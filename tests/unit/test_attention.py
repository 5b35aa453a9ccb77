"""Which attention is chosen, with which reason, and what varlen refuses."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from agenttuning import recipe as recipes
from agenttuning.errors import UserError
from agenttuning.training import attention, collate, varlen
from agenttuning.training.attention import choose_attention
from helpers.tiny_run import tiny_recipe, tiny_world

FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def gpu(monkeypatch):
    """A pretended GPU: gpu(generation, installed flash packages, why varlen cannot run)."""
    from transformers.utils import import_utils

    def pretend(generation: int = 9, installed: str = "", varlen_missing: str | None = None):
        monkeypatch.setattr(attention, "device_of", lambda recipe: "cuda")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (generation, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")
        monkeypatch.setattr(varlen, "available", lambda device: varlen_missing)
        for number in "234":
            monkeypatch.setattr(import_utils, f"is_flash_attn_{number}_available", lambda n=number: n in installed)

    return pretend


def edited(world, tmp_path, *overrides, **config):
    """A recipe whose model has these values in config.json."""
    folder = tmp_path / "model"
    folder.mkdir()
    content = json.loads((world.parents[2] / "base" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return tiny_recipe(world, tmp_path / "run", f"model_name_or_path={folder}", *overrides)


@pytest.mark.parametrize("name", FLASH)
def test_a_pinned_attention_that_is_absent_is_refused(world, tmp_path, name):
    with pytest.raises(UserError, match=f"{name} is not installed here, or there is no GPU for it"):
        choose_attention(tiny_recipe(world, tmp_path, f"launch.attention={name}"))


@pytest.mark.parametrize(
    ("machine", "chosen", "said"),
    [
        ((9, "23"), "flash_attention_3", "auto: the fastest that runs here"),
        ((8, "23"), "flash_attention_2", "flash_attention_3 was not made for a pretended GPU"),
        ((9, "4"), "varlen", "flash_attention_2 is not installed here"),
        ((7, "23", "older than Ampere"), "sdpa", "varlen cannot be used: older than Ampere"),
    ],
)
def test_auto_on_a_gpu_takes_the_fastest_and_says_why_not_another(world, tmp_path, gpu, machine, chosen, said):
    gpu(*machine)
    name, why = choose_attention(tiny_recipe(world, tmp_path, "bf16=true"))
    assert (name, said in why) == (chosen, True), why


@pytest.mark.parametrize(("overrides", "chosen"), [((), "sdpa"), (("packing=true",), "varlen")])
def test_auto_on_a_cpu_goes_by_speed(world, tmp_path, overrides, chosen):
    name, why = choose_attention(tiny_recipe(world, tmp_path, *overrides))
    assert (name, "on a CPU the fastest" in why) == (chosen, True)


def test_auto_never_takes_a_kernel_without_the_dropout_of_the_model(world, tmp_path, gpu):
    packed = edited(world, tmp_path, "packing=true", attention_dropout=0.1)
    assert choose_attention(packed) == (
        "sdpa",
        "auto: on a CPU varlen would be faster for packed rows, but attention_dropout is 0.1 and the kernel has none",
    )
    gpu(9, "23")
    packed.values["bf16"] = True
    name, why = choose_attention(packed)
    assert name == "flash_attention_2"  # which has dropout
    assert "flash_attention_3 has no dropout and the model asks for 0.1" in why


@pytest.mark.parametrize("name", ["varlen", *FLASH])
def test_float32_on_a_gpu_is_refused(world, tmp_path, gpu, name):
    gpu(9, "234")
    with pytest.raises(UserError, match="takes bf16 or fp16 and the recipe computes in float32"):
        choose_attention(tiny_recipe(world, tmp_path, f"launch.attention={name}", "bf16=false"))
    assert choose_attention(tiny_recipe(world, tmp_path, "bf16=false"))[0] == "sdpa"


def test_flex_attention_on_a_cpu_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="no backward pass on a CPU"):
        choose_attention(tiny_recipe(world, tmp_path, "launch.attention=flex_attention"))


def test_a_hub_kernel_is_never_taken_without_its_loader(world, tmp_path, monkeypatch):
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_kernels_available", lambda: False)
    with pytest.raises(UserError, match=r"loads it with kernels >=.* installed; install one of these"):
        choose_attention(tiny_recipe(world, tmp_path, "launch.attention=kernels-community/flash-attn2@v1"))


def test_a_hub_kernel_is_loaded_when_pinned_and_named_when_it_fails(world, tmp_path, monkeypatch):
    from transformers.integrations import hub_kernels
    from transformers.utils import import_utils

    loaded = []
    monkeypatch.setattr(import_utils, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", loaded.append)
    name, why = choose_attention(tiny_recipe(world, tmp_path, "launch.attention=owner/kernel"))
    assert (name, loaded) == ("owner/kernel", ["owner/kernel"])
    assert why == "pinned by the recipe; no @revision, so whichever is newest"
    assert "newest" not in choose_attention(tiny_recipe(world, tmp_path, "launch.attention=owner/kernel@v2"))[1]

    def fails(name):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub_kernels, "load_and_register_attn_kernel", fails)
    with pytest.raises(UserError, match=r"owner/kernel could not be loaded \(ConnectionError: no route\)"):
        choose_attention(tiny_recipe(world, tmp_path, "launch.attention=owner/kernel"))


@pytest.mark.parametrize("word", ["flash", "owner/", "/kernel", "owner/kernel@", "a/b/c", "owner/kernel:function"])
def test_a_word_that_names_no_attention_is_refused(world, tmp_path, word):
    with pytest.raises(UserError, match="is not one of auto, flash_attention_3"):
        recipes.load(world, (f"launch.attention='{word}'",), tmp_path)


def states(length=12, heads=4, groups=2, width=8):
    torch.manual_seed(0)
    return (torch.randn(1, count, length, width) for count in (heads, groups, groups))


class Causal:
    is_causal = True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dropout": 0.1}, "dropout 0.1"),
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.ones(4)}, "s_aux"),
        ({"position_bias": torch.ones(4)}, "position_bias"),
        ({"is_causal": False}, "attention that is not causal"),
        ({"attention_mask": torch.ones(1, 12)}, "an attention_mask"),
    ],
)
def test_what_varlen_does_not_do_is_refused(change, said):
    arguments = {"attention_mask": None, **change}
    with pytest.raises(UserError, match=f"does not do: {said}"):
        varlen.attention(Causal(), *states(), **arguments)


def test_decoding_left_padding_and_dropout_are_refused_by_the_model():
    from helpers.tiny_models import tiny

    model = tiny("llama", "varlen").eval()
    ids = torch.randint(3, 160, (2, 6))
    with pytest.raises(UserError, match="a cache is in use"):
        model.generate(ids, max_new_tokens=3)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    with pytest.raises(UserError, match="padded on the left or inside"):
        model(ids, attention_mask=mask, use_cache=False)
    with pytest.raises(UserError, match="attention_dropout is 0.1"):
        tiny("llama", "varlen", attention_dropout=0.1)(ids)


@pytest.mark.parametrize("bounds", [[0, 5], [1, 12], [0, 7, 7, 12], [0, 12, 24]])
def test_boundaries_of_another_batch_are_refused(bounds):
    with pytest.raises(ValueError, match="do not cut 1 rows of 12 into documents"):
        varlen.attention(Causal(), *states(), None, cu_seq_lens_q=torch.tensor(bounds))


def test_a_document_ends_where_its_positions_do():
    positions = torch.tensor([[0, 1, 2, 0, 1], [3, 4, 0, 0, 1]])
    bounds, longest = varlen.boundaries(2, 5, positions.device, None, None, positions)
    assert (bounds.tolist(), longest, bounds.dtype) == ([0, 3, 5, 7, 8, 10], 3, torch.int32)


def old_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal
    assert query.shape == key.shape
    return varlen.by_document(query, key, value, cu_seq_q, query.shape[-1] ** -0.5, None)


def middle_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size[1] == 0
    assert query.shape == key.shape
    return varlen.by_document(query, key, value, cu_seq_q, scale, None if window_size[0] == -1 else window_size[0] + 1)


def new_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    assert enable_gqa
    return middle_kernel(query, *(p.repeat_interleave(2, 1) for p in (key, value)), cu_seq_q, cu_seq_k, max_q, max_k,
                         scale=scale, window_size=window_size)  # fmt: skip


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kernel", [old_kernel, middle_kernel, new_kernel])
def test_each_signature_of_the_kernel_gets_the_same_attention(monkeypatch, kernel, window):
    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    query, key, value = (part[0].transpose(0, 1) for part in states())
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)
    call = (query, key, value, bounds, 7, 0.2, window)
    if kernel is old_kernel and window:
        with pytest.raises(UserError, match="has no window_size"):
            varlen._kernel(*call)
        return
    assert torch.allclose(varlen._kernel(*call), varlen.by_document(query, key, value, bounds, 0.2, window), atol=1e-6)


def test_the_kernel_of_this_torch_takes_what_it_is_given():
    """Its shapes and keywords, on the meta device: the numbers need a GPU."""
    if varlen.kernel() is None:
        pytest.skip("this torch has no varlen_attn")
    query, key, value = (torch.empty(12, heads, 8, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2))
    bounds = torch.empty(3, device="meta", dtype=torch.int32)
    assert varlen._kernel(query, key, value, bounds, 7, 0.2, 3).shape == (12, 4, 8)


def test_the_kernels_path_is_traced_without_a_break(monkeypatch):
    """A break inside a checkpointed layer would leave all of it uncompiled. On the CPU, with a stand-in kernel."""

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return query * scale + (key.sum() + value.sum()) * cu_seq_q.sum() * max_q

    def call(query, key, value, bounds):
        with torch.autocast("cpu", torch.bfloat16):
            return varlen.attention(Causal(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=7)[0]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(varlen, "_cover", lambda *_: True)
    monkeypatch.setattr(
        varlen, "by_document", lambda q, k, v, b, scale, window: varlen._kernel(q, k, v, b, 7, scale, window)
    )
    varlen.kernel.cache_clear()
    inputs = (*states(), torch.tensor([0, 5, 12], dtype=torch.int32))
    wanted = call(*inputs)
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(*inputs), wanted)
    varlen.kernel.cache_clear()


def test_varlen_says_where_it_cannot_run():
    assert varlen.available("cpu") is None
    assert "not on mps" in varlen.available("mps")
    if not torch.cuda.is_available():
        assert varlen.available("cuda") == "no CUDA device is visible"


def packed_batch():
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [{"input_ids": list(range(9)), "labels": list(range(9)), "seq_lengths": [4, 5]}]
    rows[0] |= {"origin": numpy.zeros(9, dtype="int8"), "row": 0}
    return DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True, pad_to_multiple_of=4), rows


def spoiled(name, batch):
    batch = dict(batch)
    if name == "position_ids":
        batch[name] = torch.arange(batch["input_ids"].shape[1])[None]
    elif name == "max_length_q":
        batch[name] = 4
    else:
        batch[name] = batch[name] + torch.tensor([0, 1, *[0] * (len(batch[name]) - 2)])
    return batch


@pytest.mark.parametrize("name", ["position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q"])
def test_boundaries_that_are_not_those_of_the_rows_are_refused(name):
    collator, rows = packed_batch()
    collate.Collator(collator, 1)(rows)  # as it is, also with 3 tokens of padding, it is right
    wrong = type("Wrong", (), {"padding_free": True, "__call__": lambda self, rows: spoiled(name, collator(rows))})
    with pytest.raises(UserError, match=f"the packed batch has {name}"):
        collate.Collator(wrong(), 1)(rows)
    batch = collator(rows)
    del batch["cu_seq_lens_q"]
    with pytest.raises(UserError, match="the packed batch has cu_seq_lens_q None"):
        collate.check_boundaries(batch, [4, 5])


def test_rows_lie_apart_with_their_padding_left_out():
    collator, rows = packed_batch()
    batch = collate.Collator(collator, 1, apart=True)([*rows, {**rows[0], "seq_lengths": [9]}])
    assert batch["input_ids"].shape == (2, 9)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4], list(range(9))]
