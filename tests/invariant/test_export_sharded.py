"""What two processes sharded is exported like any other: Llama, tied weights, experts; by FSDP2 and ZeRO-3."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from agenttuning.chat import save_tokenizer
from agenttuning.errors import UserError
from agenttuning.export import export
from helpers.llama_tokenizer import build_tokenizer
from helpers.sharded_checkpoint import FACTOR, make
from helpers.tiny_run import tiny_recipe, tiny_world, weights

MODELS = ("llama", "tied", "experts")
ZERO = pytest.param(
    "zero3", marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is not installed (extra: gpu)")
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of three models, in float32, whose experts and tied weights transformers stores in its own ways."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    world = tmp_path_factory.mktemp("world")
    tiny_world(world)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    torch.manual_seed(1)
    (world / "base").rename(world / "llama")
    LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).save_pretrained(world / "tied")
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, head_dim=16)).save_pretrained(world / "experts")
    for name in ("tied", "experts"):
        save_tokenizer(tokenizer, world / name)
    return world


@pytest.fixture(scope="module")
def sharded(models):
    """kind -> the folder with a checkpoint of each model, made once."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = models / kind
            make(kind, {models / name: made[kind] / name for name in MODELS})
        return made[kind]

    return of


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["fsdp2", ZERO])
def test_an_export_of_shards_equals_the_weights(models, sharded, kind, model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    recipe = tiny_recipe(models / "recipes/tiny/sft.yaml", tmp_path / "run", f"model_name_or_path={models / model}")
    folder = export(recipe, tmp_path / "out", str(sharded(kind) / model)).folder
    trained = {name: tensor * FACTOR for name, tensor in weights(models / model).items()}
    written = weights(folder)
    assert written.keys() == trained.keys()  # the names that save_pretrained gave
    assert all(torch.equal(written[name], trained[name].to(torch.bfloat16)) for name in trained)
    said = json.loads((folder / "export.json").read_text())
    assert said["from"]["kind"] == kind and said["logits"]["difference"] <= said["logits"]["tolerance"]
    _, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".distcp")]


def test_a_model_with_experts_is_exported_from_its_own_folder(models, tmp_path):
    """Where only a loader can put the experts together, it does so for the comparison."""
    recipe = tiny_recipe(models / "recipes/tiny/sft.yaml", tmp_path / "run", f"model_name_or_path={models / 'experts'}")
    said = json.loads((export(recipe, tmp_path / "out", str(models / "experts")).folder / "export.json").read_text())
    assert said["logits"]["difference"] <= said["logits"]["tolerance"] < said["logits"]["spread"]


def test_a_shard_that_is_gone_is_said(models, sharded, tmp_path):
    shutil.copytree(sharded("fsdp2") / "llama", tmp_path / "checkpoint")
    (tmp_path / "checkpoint/pytorch_model_fsdp_0/__1_0.distcp").unlink()
    recipe = tiny_recipe(models / "recipes/tiny/sft.yaml", tmp_path / "run", f"model_name_or_path={models / 'llama'}")
    with pytest.raises(UserError, match="cannot be read"):
        export(recipe, tmp_path / "out", str(tmp_path / "checkpoint"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


@pytest.mark.skipif(bool(find_spec("deepspeed")), reason="deepspeed is installed")
def test_without_deepspeed_a_zero_checkpoint_says_how_to_install_it(models, tmp_path):
    (tmp_path / "checkpoint/global_step1").mkdir(parents=True)
    (tmp_path / "checkpoint/latest").write_text("global_step1")
    recipe = tiny_recipe(models / "recipes/tiny/sft.yaml", tmp_path / "run", f"model_name_or_path={models / 'llama'}")
    with pytest.raises(UserError, match="pip install --no-build-isolation deepspeed"):
        export(recipe, tmp_path / "out", str(tmp_path / "checkpoint"))


def test_a_sharded_adapter_is_said(models, sharded, tmp_path, monkeypatch):
    from agenttuning.export import readers, run

    real = readers.open_weights(sharded("fsdp2") / "llama", "fsdp2")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    monkeypatch.setattr(run, "open_weights", lambda *_: readers.Weights({name: (4, 32)}, real.read, in_memory=True))
    recipe = tiny_recipe(models / "recipes/tiny/sft.yaml", tmp_path / "run", f"model_name_or_path={models / 'llama'}")
    with pytest.raises(UserError, match="shards of an adapter"):
        export(recipe, tmp_path / "out", str(sharded("fsdp2") / "llama"))
