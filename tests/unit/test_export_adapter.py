"""A LoRA run exported: merged into its base as PEFT merges it, or the adapter alone, without a path in it."""

from __future__ import annotations

import json
import shutil

import pytest

from agenttuning.errors import UserError
from agenttuning.export import export, export_adapter
from helpers.tiny_run import tiny_recipe, tiny_world, weights

LORA = ("use_peft=true", "lora_r=4", "lora_alpha=8", "lora_target_modules=[q_proj, v_proj]", "max_steps=2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    from agenttuning.train import train

    world = tmp_path_factory.mktemp("world")
    path = tiny_world(world)
    made = tiny_recipe(path, world / "run", *LORA)
    train(made)
    return made


def merged_by_peft(recipe, adapter):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(recipe.values["model_name_or_path"], dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()


def test_an_adapters_checkpoint_is_exported_as_the_merged_model(recipe, tmp_path):
    import torch

    last = recipe.run_dir / "checkpoints" / "checkpoint-2"
    folder = export(recipe, tmp_path / "out", str(last)).folder
    wanted, written = merged_by_peft(recipe, last), weights(folder)
    assert written.keys() == wanted.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, wanted[name].to(torch.bfloat16)), name
    base = weights(recipe.root / "base")
    moved = [name for name in base if not torch.equal(written[name], base[name].to(torch.bfloat16))]
    assert moved and all(".q_proj." in name or ".v_proj." in name for name in moved)
    assert json.loads((folder / "export.json").read_text())["from"]["kind"] == "adapter"
    assert not (folder / "adapter_config.json").exists()


def test_the_finished_run_gives_the_same(recipe, tmp_path):
    import torch

    one = weights(export(recipe, tmp_path / "a").folder)
    other = weights(export(recipe, tmp_path / "b", "last").folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_adapter_alone_loads_onto_the_base(recipe, tmp_path):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = export_adapter(recipe, tmp_path / "out").folder
    written = load_file(folder / "adapter_model.safetensors")
    source = load_file(recipe.run_dir / "adapter" / "adapter_model.safetensors")
    assert written.keys() == source.keys() and all(torch.equal(written[name], source[name]) for name in source)
    base = AutoModelForCausalLM.from_pretrained(recipe.values["model_name_or_path"], dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(folder)).merge_and_unload().state_dict()
    wanted = weights(recipe.run_dir / "model")
    assert all(torch.allclose(merged[name], wanted[name], atol=1e-6) for name in wanted)
    text = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md", ".yaml"))
    assert str(recipe.root) not in text
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base" and config["inference_mode"] is True
    assert "AutoPeftModelForCausalLM" in (folder / "README.md").read_text()
    assert "library_name: peft" in (folder / "README.md").read_text()
    assert not list(folder.glob("*.bin")) and (folder / "chat_template.jinja").exists()


def test_a_hub_base_is_named_with_its_revision(recipe, tmp_path):
    from dataclasses import replace

    from agenttuning.export import adapter

    name = {"model_name_or_path": "meta-llama/Llama-2-7b-chat-hf", "model_revision": "abc123"}
    named = replace(recipe, values={**recipe.values, **name})
    adapter.write(tmp_path, adapter.tensors(recipe.run_dir / "adapter"), recipe.run_dir / "adapter", named)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "meta-llama/Llama-2-7b-chat-hf" and config["revision"] == "abc123"


def test_an_adapter_that_does_not_fit_its_base_is_refused(recipe, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(recipe.run_dir / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = tensors.popitem()[1]
    save_file(tensors, file)
    with pytest.raises(UserError, match="do not fit"):
        export_adapter(recipe, tmp_path / "out", str(tmp_path / "adapter"))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
