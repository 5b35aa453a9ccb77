"""Today's families train whole: Llama 3.1's rotary scaling, Qwen3, SmolLM3, and experts with a router."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import pytest
import torch

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training.model import load_model
from helpers.tiny_families import OWN, family_world
from helpers.tiny_run import losses, tiny_recipe, weights

ONE_STEP = ("max_steps=1", "optim=sgd", "learning_rate=1.0", "lr_scheduler_type=constant", "warmup_steps=0",
            "weight_decay=0.0", "max_grad_norm=0.0", "save_strategy='no'", "mixture.draws=12", "launch.global_batch=12",
            "per_device_train_batch_size=12")  # fmt: skip
LORA = ("use_peft=true", "lora_r=4", "hidden_dropout=0.05")
COEFFICIENT = 0.001  # transformers' default router_aux_loss_coef of Qwen3-MoE


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """worlds(family): the recipe of its repository, made once."""
    made = {}

    def world(family):
        if family not in made:
            made[family] = family_world(tmp_path_factory.mktemp(family), family)
        return made[family]

    return world


def run(world, run_dir, *overrides):
    with contextlib.redirect_stdout(io.StringIO()):
        train(tiny_recipe(world, run_dir, *overrides))
    return json.loads((run_dir / "train.json").read_text())


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_gets_its_weights_later_is_the_same_model_otherwise(worlds, tmp_path, monkeypatch, family, dtype):
    """FSDP's other processes: names, shapes, dtypes, tied weights and buffers of the loaded model, no weight read."""
    from transformers import PreTrainedModel

    recipe = tiny_recipe(worlds(family), tmp_path / "run", f"dtype={dtype}")
    whole = load_model(recipe, "sdpa")
    monkeypatch.setattr("agenttuning.training.model.weights_come_later", lambda: True)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    later = load_model(recipe, "sdpa")
    assert type(later) is type(whole) and later.config.to_dict() == whole.config.to_dict()
    form = [[(name, weight.shape, weight.dtype) for name, weight in one.state_dict().items()] for one in (whole, later)]
    assert form[0] == form[1] and form[0]
    assert [name for name, _ in later.named_parameters()] == [name for name, _ in whole.named_parameters()]
    assert all(torch.equal(now, dict(whole.named_buffers())[name]) for name, now in later.named_buffers())
    assert not any(weight.is_meta for weight in later.parameters())


@pytest.mark.parametrize("family", [family for family in OWN if family != "llama"])
def test_it_learns_and_is_saved_as_what_it_was(worlds, tmp_path, family):
    from transformers import AutoModelForCausalLM

    world = worlds(family)
    run(world, tmp_path / "a", "max_steps=12", "save_strategy='no'", "hidden_dropout=0.05")
    assert sum(losses(tmp_path / "a")[-3:]) < sum(losses(tmp_path / "a")[:3]) - 0.5
    base = world.parents[2] / "base"
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "a" / "model"))
    for key in ("architectures", "rope_parameters", "tie_word_embeddings", "num_experts", "router_aux_loss_coef"):
        assert before.get(key) == after.get(key), key
    assert weights(base).keys() == weights(tmp_path / "a" / "model").keys()
    ids = torch.arange(40)[None]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (base, tmp_path / "a" / "model")]
    assert not torch.equal(models[0](ids).logits, models[1](ids).logits)


@pytest.mark.parametrize("family", OWN)
def test_packed_equals_unpacked(worlds, tmp_path, family):
    world = worlds(family)
    apart = ("router_aux_loss_coef=0.0",) if family == "qwen3-moe" else ()  # it is a mean over what a batch holds
    alone = run(world, tmp_path / "a", *ONE_STEP, *apart)
    rows = ("packing=true", "launch.global_batch=3", "per_device_train_batch_size=3", "max_length=768")
    packed = run(world, tmp_path / "b", *ONE_STEP, *apart, *rows)
    assert packed["tokens"] == alone["tokens"] and packed["supervised_tokens"] == alone["supervised_tokens"]
    assert packed["log"][0]["loss"] == pytest.approx(alone["log"][0]["loss"], abs=3e-6)
    one, two = weights(tmp_path / "a" / "model"), weights(tmp_path / "b" / "model")
    start = weights(world.parents[2] / "base")
    for name, weight in one.items():
        gradient = (start[name] - weight).abs().max()
        assert (two[name] - weight).abs().max() <= 5e-6 * gradient + 3e-7, name


@pytest.mark.parametrize("family", ["qwen3", "smollm3", "qwen3-moe"])
def test_lora_is_merged_into_its_own_architecture(worlds, tmp_path, family):
    world = worlds(family)
    targets = ("lora_target_modules=[q_proj, o_proj]",)
    record = run(world, tmp_path / "a", *LORA, *targets, "save_strategy='no'")
    assert record["parameters_trained"] == 2 * 2 * 4 * (32 + 32)
    before, after = weights(world.parents[2] / "base"), weights(tmp_path / "a" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qo"}


def test_dropout_on_stacked_experts_is_refused_before_peft_does(worlds, tmp_path):
    with pytest.raises(UserError, match="weights of all experts in one tensor.*lora_dropout: 0.0"):
        run(worlds("qwen3-moe"), tmp_path / "a", *LORA, "lora_target_modules=[all-linear]", "lora_dropout=0.05")
    layers = "lora_target_modules=[all-linear]"
    record = run(worlds("qwen3-moe"), tmp_path / "b", *LORA, layers, "lora_dropout=0.0", "save_strategy='no'")
    assert record["parameters_trained"] > 0


def test_lora_on_the_experts_themselves(worlds, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    world = worlds("qwen3-moe")
    experts = ("lora_target_parameters=[mlp.experts.gate_up_proj, mlp.experts.down_proj]", "lora_dropout=0.0")
    run(world, tmp_path / "a", *LORA, *experts, "lora_target_modules=[q_proj]", "save_strategy='no'")
    before, after = weights(world.parents[2] / "base"), weights(tmp_path / "a" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert sum(".experts." in name for name in changed) == sum(".experts." in name for name in before)
    assert len(changed) == sum(".experts." in name for name in before) + 2
    base = AutoModelForCausalLM.from_pretrained(world.parents[2] / "base")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "a" / "adapter").eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model").eval()(ids).logits
    assert (adapted - merged).abs().max() < 1e-5


def test_the_routers_loss_is_added_by_its_coefficient(worlds, tmp_path):
    """The logged loss is cross-entropy plus coefficient x balance, and the balance is what transformers computes."""
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    from agenttuning.training.trainer import Trainer

    world, compute, batches = worlds("qwen3-moe"), Trainer.compute_loss, []

    def watched(self, model, inputs, *arguments, **named):
        batches.append(copy.deepcopy(inputs))
        return compute(self, model, inputs, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "compute_loss", watched)
        bare = run(world, tmp_path / "bare", *ONE_STEP, "router_aux_loss_coef=0.0")["log"][0]["loss"]
    usual = run(world, tmp_path / "usual", *ONE_STEP)["log"][0]["loss"]
    heavy = run(world, tmp_path / "heavy", *ONE_STEP, "router_aux_loss_coef=0.5")["log"][0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(world.parents[2] / "base").train()
    with torch.no_grad():
        given = model(batches[0]["input_ids"], attention_mask=batches[0]["attention_mask"], output_router_logits=True)
        balance = load_balancing_loss_func(given.router_logits, 4, 2, batches[0]["attention_mask"]).item()
    assert usual - bare == pytest.approx(COEFFICIENT * balance, abs=5e-6) and balance > 1
    assert heavy - bare == pytest.approx(0.5 * balance, abs=5e-5)
    saved = json.loads((tmp_path / "heavy" / "model" / "config.json").read_text())
    assert saved["router_aux_loss_coef"] == 0.5


def test_the_cheap_loss_is_used_only_without_the_routers(worlds, tmp_path, monkeypatch):
    from agenttuning.training.trainer import Trainer

    world, seen, build = worlds("qwen3-moe"), [], Trainer.__init__

    def watched(self, **arguments):
        build(self, **arguments)
        seen.append((self.cheap_loss, self.aux_loss_enabled, self.data_collator.apart))

    monkeypatch.setattr(Trainer, "__init__", watched)
    packed = ("packing=true", "launch.global_batch=2", "per_device_train_batch_size=2", "max_steps=1")
    packed += ("launch.attention=sdpa",)  # the one that lays rows apart
    with_router = run(world, tmp_path / "a", *packed, "save_strategy='no'")
    without = run(world, tmp_path / "b", *packed, "save_strategy='no'", "router_aux_loss_coef=0.0")
    # rows filled up to one length would show the router tokens that no conversation holds
    assert seen == [(False, True, False), (True, False, True)]
    assert 0 < with_router["log"][0]["loss"] - without["log"][0]["loss"] < 0.01
