"""LoRA: starts as its base, trains the adapter alone, and is saved as an adapter and as a model like any other."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import adapters, merging
from agenttuning.training.model import load_model
from agenttuning.training.settings import trainer_settings
from helpers.tiny_families import family_world
from helpers.tiny_run import CONFIGS, losses, tiny_model, tiny_recipe, tiny_world, weights

ROOT = Path(__file__).resolve().parents[2]
LORA = ("use_peft=true", "lora_r=4", "lora_alpha=8", "lora_target_modules=[q_proj, down_proj]")
IDS = torch.arange(60).reshape(2, 30)
# rank x (inputs + outputs) of both target matrices in both layers of a model with hidden 32 and mlp 64
TRAINED = 4 * ((32 + 32) + (64 + 32)) * 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """run(name, *overrides): the folder of a LoRA run and what it printed, made once."""
    folder, shown = tmp_path_factory.mktemp("runs"), {}

    def run(name, *overrides):
        if name not in shown:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                train(tiny_recipe(world, folder / name, *LORA, *overrides))
            shown[name] = out.getvalue()
        return folder / name, shown[name]

    return run


def logits(folder, **options):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()(IDS).logits


def adapted_logits(world, run_dir, **options):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world.parents[2] / "base", **options)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, run_dir / "adapter").eval()(IDS).logits


def changed(world, run_dir):
    before, after = weights(world.parents[2] / "base"), weights(run_dir / "model")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])}


def test_before_the_first_step_it_is_its_base(world, run, tmp_path):
    from peft import get_peft_model

    recipe = tiny_recipe(world, tmp_path / "a", *LORA)
    model = get_peft_model(load_model(recipe, "sdpa"), adapters.peft_config(recipe)).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, logits(world.parents[2] / "base"))
    train(tiny_recipe(world, tmp_path / "full", "max_steps=1", "mixture.draws=24", "save_strategy='no'"))
    assert losses(run("a")[0])[0] == losses(tmp_path / "full")[0]


def test_the_loss_goes_down_and_the_adapter_alone_changes(world, run):
    run_dir, shown = run("long", "max_steps=30", "save_steps=30")
    assert sum(losses(run_dir)[-5:]) < sum(losses(run_dir)[:5]) - 0.1
    parts = ("self_attn.q_proj", "mlp.down_proj")
    targets = {f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in parts}
    assert changed(world, run_dir) == targets
    total = sum(weight.numel() for weight in weights(world.parents[2] / "base").values()) + TRAINED
    assert f"trained    {TRAINED:,} of {total:,} parameters (LoRA of rank 4 in float32 on frozen float32" in shown
    record = json.loads((run_dir / "train.json").read_text())
    assert record["parameters_trained"] == TRAINED and record["parameters"] == total and record["versions"]["peft"]


def test_the_merged_model_is_the_adapted_one(world, run):
    run_dir = run("a")[0]
    apart = (logits(run_dir / "model") - adapted_logits(world, run_dir)).abs().max()
    assert apart < 1e-5
    assert (logits(run_dir / "model") - logits(world.parents[2] / "base")).abs().max() > 100 * apart + 1e-3


def test_what_is_saved(world, run):
    run_dir = run("a")[0]
    held = {path.name for path in (run_dir / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= held
    assert not held & {"training_args.bin", "README.md", "model.safetensors"}
    config = json.loads((run_dir / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(world.parents[2] / "base") and config["lora_alpha"] == 8
    checkpoint = run_dir / "checkpoints" / "checkpoint-6"
    assert not (checkpoint / "model.safetensors").exists()
    kept = load_file(checkpoint / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in kept.values()) == TRAINED
    for name, weight in load_file(run_dir / "adapter" / "adapter_model.safetensors").items():
        assert torch.equal(weight, kept[name]) and weight.abs().max() > 0, name
    saved = json.loads((run_dir / "model" / "config.json").read_text())
    assert saved["pad_token_id"] == 0 and saved["use_cache"] is True and saved["dtype"] == "float32"


def test_the_revision_of_a_hub_model_is_kept(world, tmp_path):
    recipe = tiny_recipe(world, tmp_path / "a", *LORA, "model_name_or_path=owner/name", "model_revision=abc")
    config = adapters.peft_config(recipe)
    assert (config.base_model_name_or_path, config.revision) == ("owner/name", "abc")
    assert adapters.peft_config(tiny_recipe(world, tmp_path / "a")) is None


def test_a_list_of_one_target_is_a_name_and_not_a_pattern(world, run):
    run_dir = run("one", "lora_target_modules=[q_proj]")[0]
    assert changed(world, run_dir) == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    pattern = run("pattern", "lora_target_modules=['.*1.*[qk]_proj']")[0]
    assert changed(world, pattern) == {f"model.layers.1.self_attn.{part}_proj.weight" for part in "qk"}


@pytest.mark.parametrize(
    "override",
    [
        "lora_target_modules=[q_proj, query_key_value]",
        "lora_target_modules=['.*query.*']",
        "lora_modules_to_save=[head]",
        "lora_target_parameters=[mlp.experts.down_proj]",
    ],
)
def test_names_that_do_not_exist_are_refused(world, tmp_path, override):
    with pytest.raises(UserError, match=f"{override.split('=')[0]} names .* not found in LlamaForCausalLM"):
        train(tiny_recipe(world, tmp_path / "a", *LORA, override))


def test_a_family_that_peft_does_not_know_needs_targets(tmp_path):
    world = family_world(tmp_path, "smollm3")
    with pytest.raises(UserError, match="no usual targets for smollm3; write lora_target_modules"):
        load_model(tiny_recipe(world, tmp_path / "a", "use_peft=true"), "sdpa")


def test_a_bfloat16_base_has_float32_adapters(world, run):
    run_dir, shown = run("bf16", "dtype=bfloat16")
    assert "in float32 on frozen bfloat16 weights" in shown and "weights bfloat16, compute float32" in shown
    for folder in (run_dir / "adapter", run_dir / "checkpoints" / "checkpoint-6"):
        kept = load_file(folder / "adapter_model.safetensors")
        assert {weight.dtype for weight in kept.values()} == {torch.float32}
        # float32 in more than its name: bfloat16 would round these
        assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in kept.values())
    assert {weight.dtype for weight in weights(run_dir / "model").values()} == {torch.bfloat16}
    assert len(changed(world, run_dir)) == 4
    assert (logits(run_dir / "model") - adapted_logits(world, run_dir, dtype=torch.bfloat16)).abs().max() < 0.02
    assert losses(run_dir) == pytest.approx(losses(run("a")[0]), abs=1e-3)


def test_updates_too_small_for_bfloat16_are_kept(tmp_path):
    model = torch.nn.Linear(4, 4).bfloat16()
    model.bias.requires_grad_(False)
    adapters.keep_float32(model)
    assert model.weight.dtype == torch.float32 and model.bias.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("dora", ("use_dora=true",)),
        ("rslora", ("use_rslora=true",)),
        ("all", ("lora_target_modules=[all-linear]",)),
        ("whole", ("lora_modules_to_save=[embed_tokens, lm_head]",)),
        ("dropped", ("hidden_dropout=0.1", "lora_dropout=0.2", "packing=true", "per_device_train_batch_size=1",
                     "mixture.draws=40", "activation_checkpointing=true")),
    ],
)  # fmt: skip
def test_every_form_is_merged_as_it_was_trained(world, run, name, overrides):
    run_dir = run(name, *overrides)[0]
    assert (logits(run_dir / "model") - adapted_logits(world, run_dir)).abs().max() < 1e-5
    found = changed(world, run_dir)
    assert ("lm_head.weight" in found) == (name == "whole")
    assert len(found) == {"all": 14, "whole": 6}.get(name, 4)


def test_a_bfloat16_base_is_rounded_once(world, run):
    """The sum is formed in float32: the base plus the adapter's product, then one rounding."""
    run_dir = run("bf16", "dtype=bfloat16")[0]
    low = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    base, merged = weights(world.parents[2] / "base"), weights(run_dir / "model")
    scale = 8 / 4
    for name, weight in merged.items():
        wanted = base[name].bfloat16().float()
        up = low.get(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        if up is not None:
            wanted = wanted + scale * (up @ low[f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight"])
        assert torch.equal(weight, wanted.bfloat16()), name


def test_a_head_trained_whole_on_a_bfloat16_base(tmp_path):
    world = tiny_world(tmp_path)
    mixed = (CONFIGS / "cpu.yaml").read_text().replace('mixed_precision: "no"', "mixed_precision: bf16")
    (tmp_path / "accelerate_configs" / "cpu.yaml").write_text(mixed)
    whole = ("lora_modules_to_save=[lm_head]", "dtype=bfloat16", "bf16=true")
    train(tiny_recipe(world, tmp_path / "a", *LORA, *whole))
    head = load_file(tmp_path / "a" / "adapter" / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    assert head.dtype == torch.float32
    assert torch.equal(weights(tmp_path / "a" / "model")["lm_head.weight"], head.bfloat16())
    assert len(changed(world, tmp_path / "a")) == 5


def test_a_head_that_is_trained_whole_is_trained_by_both_losses(world, run, monkeypatch):
    from agenttuning.training.trainer import Trainer

    cheap = run("whole", "lora_modules_to_save=[embed_tokens, lm_head]")[0]
    monkeypatch.setattr(Trainer, "cheap_loss", property(lambda self: False, lambda self, value: None), raising=False)
    fused = run("fused", "lora_modules_to_save=[embed_tokens, lm_head]")[0]
    assert losses(fused) == pytest.approx(losses(cheap), abs=3e-6)
    head = [load_file(one / "model" / "model.safetensors")["lm_head.weight"] for one in (cheap, fused)]
    assert (head[0] - head[1]).abs().max() < 1e-4 and "lm_head.weight" in changed(world, fused)


def test_an_adapter_that_was_not_saved_whole_is_refused(world, tmp_path, monkeypatch):
    from peft import PeftModel

    save = PeftModel.save_pretrained
    empty = lambda self, folder, **named: save(self, folder, **{**named, "state_dict": {"none": torch.zeros(1)}})  # noqa: E731
    monkeypatch.setattr(PeftModel, "save_pretrained", empty)
    with pytest.raises(UserError, match=f"saved with 0 of the {TRAINED:,} parameters"):
        train(tiny_recipe(world, tmp_path / "a", *LORA, "save_strategy='no'"))
    assert not (tmp_path / "a" / "model").exists() and not (tmp_path / "a" / "adapter").exists()


def test_an_adapter_of_another_base_is_refused(world, run, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=500)).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="(?s)cannot be merged into .*was it trained on this base"):
        merging.merge(run("a")[0] / "adapter", tmp_path / "other")


def test_a_broken_adapter_is_refused(world, run, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = shutil.copytree(run("a")[0] / "adapter", tmp_path / "adapter")
    kept = load_file(folder / "adapter_model.safetensors")
    next(iter(kept.values()))[0, 0] = float("nan")
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="cannot be merged into .*NaN"):
        merging.merge(folder, world.parents[2] / "base")


def test_tied_embeddings_are_not_pulled_apart(tmp_path):
    world = family_world(tmp_path, "qwen3")  # its tiny model has tied embeddings
    with pytest.raises(UserError, match="one matrix as embedding and output head"):
        load_model(tiny_recipe(world, tmp_path / "a", *LORA, "lora_modules_to_save=[lm_head]"), "sdpa")


def accelerate_config(world, name):
    """Put one of the repository's own configs into the world; `fsdp2+` is fsdp2 with FSDP's own checkpointing."""
    content = (ROOT / "accelerate_configs" / f"{name.removesuffix('+')}.yaml").read_text()
    if name.endswith("+"):
        content = content.replace("fsdp_activation_checkpointing: false", "fsdp_activation_checkpointing: true")
    (world.parents[2] / "accelerate_configs" / f"{name}.yaml").write_text(content)
    return f"launch.accelerate_config={name}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("lora_r=8",), "`lora_r` without `use_peft: true`"),
        (("use_dora=true",), "`use_dora` without `use_peft: true`"),
        (("load_in_4bit=true",), "`load_in_4bit` without `use_peft: true`"),
        (("dtype=bfloat16",), "most updates at these rates round"),
        ((*LORA, "load_in_4bit=true", "load_in_8bit=true"), "both true"),
        ((*LORA, "bnb_4bit_quant_type=nf4"), "`bnb_4bit_quant_type` without `load_in_4bit: true`"),
        ((*LORA, "load_in_8bit=true", "use_bnb_nested_quant=true"), "`use_bnb_nested_quant` without `load_in_4bit"),
        ((*LORA, "load_in_4bit=true", "bnb_4bit_quant_type=nf3"), "it is nf4 or fp4"),
        ((*LORA, "load_in_4bit=true", "bnb_4bit_quant_storage=int4"), "bnb_4bit_quant_storage is 'int4'"),
        ((*LORA, "lora_task_type=SEQ_CLS"), "causal language models"),
        ((*LORA, "dtype=float16"), "float32 or bfloat16"),
        ((*LORA, "dtype=auto"), "float32 or bfloat16"),
        ((*LORA, "dtype=bfloat16", "lora_modules_to_save=[lm_head]"), "needs bf16: true"),
        ((*LORA, "lora_target_modules=[lm_head]"), "would never be trained"),
        ((*LORA, "lora_r=0"), "lora_r is 0"),
        ((*LORA, "lora_dropout=1.0"), "lora_dropout is 1.0"),
        ((*LORA, "optim=muon", "optim_args='adamw_lr=0.1'"), "muon with use_peft has not been tested"),
        (("model_init_kwargs={use_kernels: true}",), "`model_init_kwargs` is not acted on"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(world, tmp_path, overrides, said):
    with pytest.raises(UserError, match=said):
        trainer_settings(tiny_recipe(world, tmp_path / "a", *overrides))


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        ("zero3", ("load_in_4bit=true",), "ZeRO stage 3, which cannot shard"),
        ("zero3", ("load_in_8bit=true",), "ZeRO stage 3, which cannot shard"),
        ("zero3", ("dtype=bfloat16",), "TRL keeps adapters in the base's dtype"),
        ("zero3", (), None),
        ("fsdp2", ("load_in_8bit=true",), "cannot shard 8-bit"),
        ("fsdp2", ("load_in_4bit=true", "dtype=bfloat16"), "stored in the compute dtype"),
        ("fsdp2", ("load_in_4bit=true", "bnb_4bit_quant_storage=bfloat16"), "stored in the compute dtype"),
        ("fsdp2", ("load_in_4bit=true", "dtype=bfloat16", "bnb_4bit_quant_storage=bfloat16"), None),
        ("fsdp2", ("dtype=bfloat16",), None),
        ("ddp", ("load_in_4bit=true",), None),
        ("fsdp2+", (), "the saved adapter would be empty"),
    ],
)
def test_what_cannot_be_sharded_is_refused(world, tmp_path, config, overrides, said):
    recipe = tiny_recipe(world, tmp_path / "a", *LORA, *overrides, accelerate_config(world, config))
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        adapters.check(recipe)


def test_quantised_weights_without_bitsandbytes_are_refused(world, tmp_path, monkeypatch):
    from agenttuning import preflight

    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else True)
    recipe = tiny_recipe(world, tmp_path / "a", *LORA, "load_in_4bit=true")
    with pytest.raises(UserError, match="bitsandbytes, which is not installed: pip install"):
        adapters.quantization(recipe)
    with pytest.raises(UserError, match="1. quantised weights need bitsandbytes"):
        preflight.check(recipe)


QLORA = (*LORA, "load_in_4bit=true", "dtype=bfloat16", "lora_target_modules=[all-linear]")


FORMS = [("use_bnb_nested_quant=true",), ("bnb_4bit_quant_type=fp4", "bnb_4bit_quant_storage=bfloat16")]


@pytest.mark.parametrize("form", FORMS, ids=["nf4 nested", "fp4 stored as bfloat16"])
def test_qlora(world, tmp_path, capsys, form):
    pytest.importorskip("bitsandbytes")
    tiny_model(world.parents[2] / "base")
    run_dir = tmp_path / "q"
    train(tiny_recipe(world, run_dir, *QLORA, *form, "max_steps=30", "save_steps=15"))
    assert losses(run_dir)[-1] < losses(run_dir)[0] - 0.1
    trained = 4 * (4 * (32 + 32) + 3 * (64 + 32)) * 2
    total = sum(weight.numel() for weight in weights(world.parents[2] / "base").values()) + trained
    shown = capsys.readouterr().out
    assert f"{trained:,} of {total:,} parameters (LoRA of rank 4 in float32 on frozen 4-bit weights)" in shown
    kept = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in kept.values())
    saved = json.loads((run_dir / "model" / "config.json").read_text())
    assert "quantization_config" not in saved and saved["dtype"] == "bfloat16"
    # merged into the original weights, not into the rounded ones
    assert (logits(run_dir / "model") - adapted_logits(world, run_dir, dtype=torch.bfloat16)).abs().max() < 0.02
    assert len(changed(world, run_dir)) == 14
    (run_dir / "train.json").unlink()
    import shutil

    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-30")
    before = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    train(tiny_recipe(world, run_dir, *QLORA, *form, "max_steps=30", "save_steps=15"))
    after = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
