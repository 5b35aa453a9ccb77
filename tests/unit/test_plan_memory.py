"""The memory formulas against what autograd, PEFT, the optimizers and FSDP 2 really hold on small models."""

import os
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from agenttuning import model_size, recipe
from agenttuning.plan import activations
from agenttuning.plan.memory import Case, case, estimate
from agenttuning.plan.method import BYTES_4BIT, BYTES_4BIT_NESTED, Method, method_of, optimizer_bytes, stored_bytes
from agenttuning.recipe.accelerate_config import validate
from agenttuning.recipe.schema import REPOSITORY

GIB = 2**30
TOKENS = 120
SHAPE = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "head_dim": 24}
SHAPE |= {"num_key_value_heads": 2}
MOE = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
FULL32, FULL16 = Method("full"), Method("full", 2, 2)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def saved(model, autocast, batch=None):
    """Bytes that a forward pass over two packed documents keeps, weights and their bf16 copies left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    shapes = {tuple(weight.shape) for weight in model.parameters() if weight.dim() == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept = {}

    def pack(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in own and tuple(tensor.shape) not in shapes:
            kept[place] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    ids = torch.randint(5, 90, (1, TOKENS))
    positions = torch.cat([torch.arange(50), torch.arange(TOKENS - 50)])[None]
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    batch = batch or {"input_ids": ids, "position_ids": positions}
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model.model(**batch, use_cache=False)
    return sum(size for size, _ in kept.values())


def dropping(module, inputs, output):
    """As training with hidden dropout does it: what attention and the MLP add is dropped from."""
    first, *rest = output if isinstance(output, tuple) else (output,)
    first = torch.nn.functional.dropout(first, 0.05, training=True)
    return (first, *rest) if isinstance(output, tuple) else first


def built(family, layers, attention="sdpa", dtype=torch.float32, lora=None, dropped=False, **shape):
    config = transformers.AutoConfig.for_model(family, **SHAPE, num_hidden_layers=layers, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
    for layer in model.model.layers if dropped else ():
        layer.self_attn.register_forward_hook(dropping)
        layer.mlp.register_forward_hook(dropping)
    if lora:
        adapted = get_peft_model(model, lora)
        adapted.enable_input_require_grads()
        model = adapted.get_base_model()
    return model.train()


def of_one_layer(family, autocast=False, **how):
    """Measured bytes of one more layer."""
    one, two = (saved(built(family, layers, **how), autocast) for layers in (1, 2))
    return two - one


def architecture(family, layers=2, **shape):
    return model_size.from_config(
        transformers.AutoConfig.for_model(family, **SHAPE, num_hidden_layers=layers, **shape).to_dict()
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("stream", "autocast", "dtype"),
    [("mixed", True, torch.float32), ("bf16", False, torch.bfloat16), ("bf16", True, torch.bfloat16),
     ("fp32", False, torch.float32)],
)  # fmt: skip
def test_a_llama_layer_keeps_these_bytes(stream, autocast, dtype, attention):
    told = activations.of_layer(architecture("llama"), FULL32, TOKENS, attention, stream, gpu=False)
    assert told == of_one_layer("llama", autocast, attention=attention, dtype=dtype)


@pytest.mark.parametrize(("stream", "dtype"), [("mixed", torch.float32), ("bf16", torch.bfloat16)])
def test_a_qwen3_layer_keeps_its_norms_of_queries_and_keys_as_well(stream, dtype):
    told = activations.of_layer(architecture("qwen3"), FULL32, TOKENS, "sdpa", stream, gpu=False)
    assert told == of_one_layer("qwen3", True, dtype=dtype)


@pytest.mark.parametrize(("stream", "dtype"), [("mixed", torch.float32), ("bf16", torch.bfloat16)])
def test_a_sparse_layer_keeps_the_rows_of_its_active_experts(stream, dtype):
    told = activations.of_layer(architecture("qwen3_moe", **MOE), FULL32, TOKENS, "sdpa", stream, gpu=False)
    # transformers keeps the experts' offsets as well: 4 bytes an expert, whatever the tokens
    assert told == pytest.approx(of_one_layer("qwen3_moe", True, dtype=dtype, **MOE), abs=4 * MOE["num_experts"])


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(
    ("family", "targets", "shape"),
    [("llama", LINEARS, {}), ("llama", ("q_proj", "down_proj"), {}), ("qwen3", LINEARS, {}),
     ("qwen3_moe", LINEARS[:4], MOE)],
)  # fmt: skip
def test_an_adapted_layer_keeps_less_and_more(family, targets, shape, dropout):
    lora = LoraConfig(r=8, target_modules=list(targets), lora_dropout=dropout, task_type="CAUSAL_LM")
    method = Method("lora", 2, 2, 8, targets, (), dropout)
    told = activations.of_layer(architecture(family, **shape), method, TOKENS, "sdpa", "bf16", gpu=False)
    found = of_one_layer(family, True, dtype=torch.bfloat16, lora=lora, **shape)
    assert told == pytest.approx(found, abs=4 * shape.get("num_experts", 0))
    on_gpu = activations.of_layer(architecture(family, **shape), method, TOKENS, "sdpa", "bf16")
    assert (on_gpu < told) == bool(dropout), "a dropout mask has one byte an element there"


def test_hidden_dropout_keeps_two_masks():
    told = activations.of_layer(architecture("llama"), FULL32, TOKENS, "sdpa", "bf16", gpu=False, dropped=True)
    assert told == of_one_layer("llama", dtype=torch.bfloat16, dropped=True)
    bare, masked = (
        activations.of_layer(architecture("llama"), FULL32, TOKENS, "sdpa", "bf16", dropped=dropped)
        for dropped in (False, True)
    )
    assert masked - bare == 2 * 64 * TOKENS


def test_checkpointing_keeps_each_layers_input_and_one_layer():
    config = transformers.AutoConfig.for_model("llama", **SHAPE, num_hidden_layers=6)
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    model.activation_checkpointing_enable()
    kept = saved(model, True)
    size = architecture("llama", 6)
    one = activations.of_layer(size, FULL32, TOKENS, "sdpa", "mixed", gpu=False)
    told = activations.stored(size, FULL32, TOKENS, "sdpa", "mixed", checkpointing=True, gpu=False) - one
    assert told == 6 * 4 * 64 * TOKENS
    assert kept == pytest.approx(told, rel=0.35), "besides: the last norm, positions and rotary tables"
    assert kept < 2 * one


def test_an_attention_that_takes_lengths_stores_no_square():
    llama = model_size.LLAMA_2["7b"]
    flash, sdpa, auto = (
        activations.of_layer(llama, FULL32, 4096, name, "bf16") for name in ("flash_attention_2", "sdpa", "auto")
    )
    assert auto == sdpa
    assert sdpa - flash == 2 * 4096**2, "the mask, cast to bf16; Llama-2-7B has as many keys as queries"
    grouped = model_size.LLAMA_2["70b"]
    repeated = 2 * 2 * (grouped.queries - grouped.keys) * 4096
    flash, sdpa = (activations.of_layer(grouped, FULL32, 4096, name, "bf16") for name in ("varlen", "sdpa"))
    assert sdpa - flash == 2 * 4096**2 + repeated


def test_rows_below_each_other_have_squares_of_their_own():
    """As training/collate.py lays packed rows for an attention with a mask; end to end each pair of tokens counts."""
    ids, positions = torch.randint(5, 90, (1, TOKENS)), torch.arange(TOKENS)[None]

    def kept(rows):
        batch = {"input_ids": ids.expand(rows, -1), "position_ids": positions.expand(rows, -1).clone()}
        batch["position_ids"][:, 50:] -= 50
        one, two = (saved(built("llama", layers, "eager"), False, batch) for layers in (1, 2))
        return two - one

    size = architecture("llama")
    told = activations.of_layer(size, FULL32, 3 * TOKENS, "eager", "fp32", gpu=False, row=TOKENS)
    assert told == kept(3)
    assert activations.of_layer(size, FULL32, 3 * TOKENS, "eager", "fp32", gpu=False) > told
    three = load("7b", "sft.yaml", "per_device_train_batch_size=4", "launch.attention=sdpa")
    assert parts(three).activations == pytest.approx(4 * parts(load("7b")).activations, rel=1e-3)


def test_seven_billion_without_recomputing_is_what_is_known_of_it():
    """About 26 GiB for a 4,096-token row with transformers' own operations and the float32 copies of its norms, by a
    count that casts a norm's output once; autocast casts it once for each layer that takes it. With checkpointing, as
    counted by hand: 1.1, 1.7 and 5.4 GB.
    """
    kept = activations.stored(model_size.LLAMA_2["7b"], FULL32, 4096, "flash_attention_2", "mixed", False)
    assert kept / GIB == pytest.approx(26, rel=0.07)
    for size, gigabytes in (("7b", 1.1), ("13b", 1.7), ("70b", 5.4)):
        model = model_size.LLAMA_2[size]
        one = activations.of_layer(model, FULL32, 4096, "flash_attention_2", "bf16")
        inputs = activations.stored(model, FULL32, 4096, "flash_attention_2", "bf16", True) - one
        assert inputs / 1e9 == pytest.approx(gigabytes, abs=0.06)


# --- states


def optimizer_state(optimizer):
    held = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in held if torch.is_tensor(value) and value.numel() > 1)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "muon", "sgd"])
def test_optimizer_states_of_a_small_model(name):
    model = built("llama", 2)
    ids = torch.randint(5, 90, (1, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    if name == "muon":
        from agenttuning.training.optim import build

        values = {"optim_args": "adamw_lr=0.001", "learning_rate": 0.01, "weight_decay": 0.1}
        optimizer = build(model, [], values)
    else:
        optimizer = (
            torch.optim.AdamW(model.parameters()) if "adamw" in name else torch.optim.SGD(model.parameters(), 0.1)
        )
    optimizer.step()
    size = architecture("llama")
    total = model_size.parameters(size)
    assert optimizer_bytes(name, FULL32, size, total) == optimizer_state(optimizer)
    gradients = sum(weight.grad.nbytes for weight in model.parameters())
    assert gradients == 4 * total and stored_bytes(FULL32, size, total) == 4 * total


def test_eight_bit_states_and_unknown_optimizers():
    size = model_size.LLAMA_2["7b"]
    total = model_size.parameters(size)
    eight = optimizer_bytes("adamw_8bit", FULL32, size, total)
    assert 2 * total < eight < 2.2 * total
    assert eight - 2 * (1 + 4 / 256) * (total - 32000 * 4096) == 8 * 32000 * 4096, "the embedding stays in 32 bits"
    assert optimizer_bytes("galore_adamw", FULL32, size, total) is None


def test_quantised_weights_are_bitsandbytes_bytes():
    """QLoRA's paper: double quantisation takes the constants from 0.5 to 0.127 bits a parameter."""
    bits, nested = ((size - 0.5) * 8 for size in (BYTES_4BIT, BYTES_4BIT_NESTED))
    assert bits == 0.5 and nested == pytest.approx(0.127, abs=0.001)
    size = model_size.LLAMA_2["7b"]
    method = method_of(load("7b", "sft-qlora.yaml").values, size)
    kept = stored_bytes(method, size, model_size.parameters(size))
    linear = model_size.linear_parameters(size)
    rest = model_size.parameters(size) - linear
    adapter = 4 * 159_907_840
    assert kept == pytest.approx(BYTES_4BIT_NESTED * linear + 2 * rest + adapter)


def load(size, file="sft.yaml", *overrides):
    return recipe.load(REPOSITORY / f"recipes/agentlm-{size}" / file, overrides)


def parts(one, name=None, processes=8, machines=1, micro=8):
    name = name or one.launch.accelerate_config
    size = model_size.KNOWN[one.values["model_name_or_path"]]
    made = case(one, size, validate(REPOSITORY / f"accelerate_configs/{name}.yaml"), processes, machines, micro)
    assert isinstance(made, Case), made
    return estimate(made)


@pytest.mark.parametrize(
    ("size", "gib"),
    [("7b", {1: 100.4, 8: 12.6, 16: 6.3, 32: 3.1}), ("13b", {1: 193.95, 8: 24.2, 16: 12.1, 32: 6.1}),
     ("70b", {8: 128.5, 16: 64.2, 32: 32.1})],
)  # fmt: skip
def test_sixteen_bytes_a_parameter_shard_as_they_should(size, gib):
    for processes, states in gib.items():
        held = parts(load(size), "fsdp2", processes, 1, 64 // processes)
        assert (held.weights + held.gradients + held.optimizer) / GIB == pytest.approx(states, abs=0.06)


def test_what_is_not_sharded_has_copies():
    one = load("7b", "sft.yaml", "activation_checkpointing=true")
    alone, ddp = parts(one, "single_gpu", 1, 1, 64), parts(one, "ddp")
    assert alone.copies / GIB == pytest.approx(12.06, abs=0.01), "12.5 GiB of bf16, less embedding and head"
    assert ddp.weights == alone.weights and ddp.copies - alone.copies == ddp.gradients


def test_offloaded_states_lie_in_ram():
    """18 bytes a parameter: DeepSpeed's own estimate_zero3_model_states_mem_needs."""
    held = parts(load("13b"), "zero3_offload")
    assert held.weights == held.gradients == held.optimizer == 0
    assert held.host == 18 * 13_015_864_320
    assert parts(load("13b"), "zero3").weights * 8 == 6 * 13_015_864_320
    # parameters that it holds at once and a bucket of gradients, its defaults, in bf16
    assert held.copies == parts(load("13b"), "zero3").copies == 2 * (1_000_000_000 + 500_000_000)


def test_gradients_that_wait_for_the_last_micro_batch_are_whole_on_every_gpu():
    waits = "accelerator_config=null"
    held, sent = (
        parts(load("70b", "sft.yaml", waits), processes=16, machines=2, micro=4),
        parts(load("70b"), processes=16),
    )
    assert held.copies - sent.copies == 2 * 68_976_648_192
    alone = parts(load("70b", "sft.yaml", waits), processes=64, micro=1)
    assert alone.copies == sent.copies


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_fsdp_really_holds_such_gradients_whole_and_in_bf16(group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    layer = torch.nn.Linear(64, 32, bias=False)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)  # as accelerate's
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
    (held,) = layer._get_fsdp_state()._fsdp_param_group.fsdp_params
    layer.set_requires_gradient_sync(False)  # as accelerate.Accelerator.no_sync
    layer(torch.randn(4, 64)).sum().backward()
    assert held._unsharded_param.grad.nbytes == 2 * 64 * 32 and layer.weight.grad is None
    layer.set_requires_gradient_sync(True)
    layer(torch.randn(4, 64)).sum().backward()
    assert layer.weight.grad.dtype == torch.float32 and held._unsharded_param.grad is None


def test_our_recipes_ask_for_the_reduction_in_words_that_trl_takes(tmp_path):
    from trl import SFTConfig

    asked = load("70b").values["accelerator_config"]
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    settings = SFTConfig(output_dir=str(tmp_path), accelerator_config=asked, use_cpu=True, bf16=False)
    assert settings.accelerator_config.gradient_accumulation_kwargs == {"sync_each_batch": True}
    source = (Path(transformers.__file__).parent / "trainer.py").read_text()
    assert 'plugin_kwargs.get("sync_each_batch", False)' in source, "transformers reads it elsewhere now: look again"


@pytest.mark.parametrize(
    ("file", "overrides", "config", "words"),
    [
        ("sft-qlora.yaml", (), "zero3", "no quantised weights"),
        ("sft-lora.yaml", (), "zero3", "bfloat16"),
        ("sft-qlora.yaml", ("bnb_4bit_quant_storage=null",), "fsdp2", "bnb_4bit_quant_storage"),
        ("sft-qlora.yaml", ("load_in_4bit=false", "load_in_8bit=true"), "fsdp2", "8-bit"),
    ],
)
def test_what_cannot_be_spread_so_says_why(file, overrides, config, words):
    one = load("7b", file, *overrides)
    config = validate(REPOSITORY / f"accelerate_configs/{config}.yaml")
    assert words in case(one, model_size.LLAMA_2["7b"], config, 8, 1, 8)


def test_a_run_that_reduces_each_micro_batch_is_the_same_run(tmp_path):
    from agenttuning.train import train
    from helpers.tiny_run import losses, tiny_recipe, tiny_world

    world = tiny_world(tmp_path)
    spread = ("per_device_train_batch_size=1", "max_steps=3")
    sync = "accelerator_config={gradient_accumulation_kwargs: {sync_each_batch: true}}"
    for name, overrides in (("waits", spread), ("sends", (*spread, sync))):
        train(tiny_recipe(world, tmp_path / name, *overrides))
    assert losses(tmp_path / "waits") == losses(tmp_path / "sends")
