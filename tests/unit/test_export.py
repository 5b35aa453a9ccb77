"""export: the folder holds the source's weights, rounded once, loads as any other model, and names no machine."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agenttuning import cli
from agenttuning.errors import UserError
from agenttuning.export import check, export, layout, run, write
from helpers.tiny_run import tiny_recipe, tiny_world, weights

# Stand-ins: the texts of real licences are their owners'.
BASE_FILES = {
    "README.md": "---\nlicense: llama2\nlanguage: en\n---\n# base\n",
    "LICENSE.txt": "LLAMA 2 COMMUNITY LICENSE AGREEMENT (stand-in of the tests)\n",
    "USE_POLICY.md": "# Llama 2 Acceptable Use Policy (stand-in of the tests)\n",
    "generation_config.json": '{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}',
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from agenttuning.train import train

    path = tmp_path_factory.mktemp("world")
    made = tiny_world(path)
    for name, text in BASE_FILES.items():
        (path / "base" / name).write_text(text)
    train(tiny_recipe(made, path / "run"))
    return path


@pytest.fixture(scope="module")
def recipe(world):
    return tiny_recipe(world / "recipes/tiny/sft.yaml", world / "run")


@pytest.fixture(scope="module")
def exported(world, recipe):
    return export(recipe).folder


@pytest.fixture
def copied(world, tmp_path):
    """The run, for a test that damages it."""
    shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    return tiny_recipe(world / "recipes/tiny/sft.yaml", tmp_path / "run")


def rounded(tensors):
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def left(folder: Path) -> list[str]:
    """What an export left beside its source: nothing, when it failed."""
    return [path.name for path in folder.iterdir() if "export" in path.name or path.name.startswith((".check", ".out"))]


def test_it_holds_the_trained_weights_rounded_once(world, exported):
    assert exported == world / "run" / "export"
    assert same(weights(exported), rounded(weights(world / "run" / "model")))
    assert not same(weights(exported), rounded(weights(world / "base")))


def test_it_loads_generates_and_speaks_the_trained_format_as_anybody_would_load_it(exported, recipe):
    from jinja2 import Environment
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agenttuning.chat import encode, load_for

    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    assert model.dtype == torch.bfloat16 and model.config.use_cache is True
    for probe in check.PROBES:
        trained = encode(probe, load_for(recipe)).input_ids
        assert tokenizer.apply_chat_template(probe, tokenize=True, return_dict=False) == trained
    prompt = tokenizer.apply_chat_template(check.PROBES[1][:1], return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=3, max_length=None).shape[1] == prompt["input_ids"].shape[1] + 3
    # servers render it with a plain engine, which knows no {% generation %}
    text = (exported / "chat_template.jinja").read_text()
    shown = Environment().from_string(text).render(messages=check.PROBES[1], bos_token="<s>", eos_token="</s>")
    assert shown == "<s>[INST] 2 + 3? [/INST] 5 </s>"


def test_sampling_is_the_bases_and_ends_with_the_trained_token(exported):
    values = json.loads((exported / "generation_config.json").read_text())
    wanted = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
    wanted |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert {key: values.get(key) for key in wanted} == wanted


def test_licence_notice_and_card(exported):
    from huggingface_hub import ModelCard

    assert (exported / "LICENSE.txt").read_text() == BASE_FILES["LICENSE.txt"]
    assert (exported / "USE_POLICY.md").read_text() == BASE_FILES["USE_POLICY.md"]
    assert (exported / "Notice.txt").read_text() == (
        "Llama 2 is licensed under the LLAMA 2 Community License, "
        "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
    )
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "llama2" and card.data.library_name == "transformers"
    assert json.loads((exported / "train.json").read_text())["recipe_hash"] in card.text
    assert "| trained | the whole model |" in card.text and "hidden dropout" not in card.text
    assert "trained in float32 weights, rounded once to bfloat16" in card.text
    counts = json.loads((exported / "train.json").read_text())["supervised_tokens"]
    share = f"{100 * counts['agents'] / sum(counts.values()):.1f} %"
    assert f"(agents {share}, chats " in card.text


def test_the_card_says_how_it_was_trained(recipe, exported):
    from dataclasses import replace

    from agenttuning.export import base, card

    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj"], "load_in_4bit": True, "dtype": "bfloat16"}
    told = replace(recipe, values={**recipe.values, **lora, "hidden_dropout": 0.05})
    merged, alone = (card.write(told, base.find(recipe), 2, None, adapter=adapter) for adapter in (False, True))
    assert "| hidden dropout | 0.05 while it trained, none in use |" in merged
    assert "a LoRA adapter of rank 4, alpha 32 (q_proj) on frozen 4-bit weights" in merged
    assert "merged into the base's bfloat16 weights, rounded once |" in merged
    assert "the adapter was trained in float32 and is stored so" in alone and "merged" not in alone


def test_a_local_base_is_said_to_lack_its_name_and_nothing_else(recipe, exported):
    lacking = json.loads((exported / "export.json").read_text())["lacking"]
    assert len(lacking) == 1 and "base_model" in lacking[0] and lacking[0] in (exported / "README.md").read_text()


def test_no_pickle_and_no_path_of_this_machine(world, exported):
    names = {path.name for path in exported.rglob("*")}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    for path in exported.iterdir():
        raw = path.read_bytes()
        for place in (world, Path.home(), Path.cwd()):
            assert str(place).encode() not in raw, path.name
    assert "model_name_or_path: base\n" in (exported / "recipe.yaml").read_text()


def test_a_path_of_this_machine_in_a_companion_is_refused(world, copied):
    record = copied.run_dir / "train.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "device": f"made in {world}/somewhere"}))
    with pytest.raises(UserError, match="a path of this machine"):
        export(copied)
    assert left(copied.run_dir) == []


def test_a_secret_in_a_companion_is_refused(world, copied, monkeypatch):
    from agenttuning.export import base

    found = base.find(copied)
    monkeypatch.setattr(base, "find", lambda *_: found)
    found.terms["LICENSE.txt"] = b"hf_" + b"aBcDeFgHiJ0123456789kLmNoPqRsTuVwX"
    with pytest.raises(UserError, match="secret"):
        export(copied)
    assert left(copied.run_dir) == []


def test_a_checkpoint_in_small_shards_equals_the_same_step(world, recipe, tmp_path):
    folder = export(recipe, tmp_path / "out", "last", "12KB").folder
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert len(files) == 7 and files[0] == "model-00001-of-00007.safetensors"
    assert json.loads((folder / "export.json").read_text())["from"] == {
        "kind": "safetensors", "folder": "checkpoint-6", "step": 6,
    }  # fmt: skip
    tensors = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    assert same(tensors, rounded(weights(world / "run" / "model")))  # step 6 is the last
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def test_another_checkpoint_is_another_model(world, recipe, tmp_path):
    folder = export(recipe, tmp_path / "out", str(world / "run/checkpoints/checkpoint-4")).folder
    assert same(weights(folder), rounded(weights(world / "run/checkpoints/checkpoint-4")))
    assert not same(weights(folder), rounded(weights(world / "run" / "model")))
    assert not (folder / "train.json").exists()  # it tells of the whole run


def test_best_is_the_checkpoint_with_the_lowest_loss(recipe, tmp_path):
    folder = export(recipe, tmp_path / "out", "best").folder
    assert json.loads((folder / "export.json").read_text())["from"]["folder"] == "checkpoint-6"  # losses fall


def flip(path: Path, place: int = -3) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("where", ["model", "checkpoints/checkpoint-6"])
def test_a_flipped_byte_of_the_source_is_refused(copied, where):
    flip(copied.run_dir / where / "model.safetensors")
    with pytest.raises(UserError, match="is not whole"):
        export(copied, checkpoint=str(copied.run_dir / where))
    assert left(copied.run_dir) == []


def test_last_walks_back_over_a_damaged_checkpoint(copied, tmp_path, capsys):
    flip(copied.run_dir / "checkpoints/checkpoint-6/model.safetensors")
    folder = export(copied, tmp_path / "out", "last").folder
    assert json.loads((folder / "export.json").read_text())["from"]["folder"] == "checkpoint-4"
    assert "checkpoint-6 is not used" in capsys.readouterr().out


def test_an_unsealed_checkpoint_is_refused(copied):
    (copied.run_dir / "checkpoints/checkpoint-6/manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest\.json"):
        export(copied, checkpoint=str(copied.run_dir / "checkpoints/checkpoint-6"))


def test_another_recipe_than_the_trained_one_is_refused(world):
    other = tiny_recipe(world / "recipes/tiny/sft.yaml", world / "run", "learning_rate=1e-3")
    with pytest.raises(UserError, match=r"another recipe \(learning_rate: 0.005 then, 0.001 now\)"):
        export(other)


def test_what_only_says_where_it_runs_may_change(world, tmp_path):
    other = tiny_recipe(world / "recipes/tiny/sft.yaml", world / "run", "publish.hub_model_id=me/tiny")
    card = (export(other, tmp_path / "out").folder / "README.md").read_text()
    assert 'name, revision = "me/tiny", None' in card and "# tiny\n" in card


def test_a_full_disk_leaves_nothing(copied):
    before = (copied.run_dir / "model" / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the kernel refuses to write beyond, as on a full disk
    try:
        with pytest.raises(UserError, match="could not be written: File too large"):
            export(copied)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left(copied.run_dir) == []
    assert (copied.run_dir / "model" / "model.safetensors").read_bytes() == before


def test_too_little_room_is_seen_before_anything_is_written(copied, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GiB free"):
        export(copied)
    assert left(copied.run_dir) == []


def test_somebodys_folder_is_not_replaced_and_an_older_export_is(world, recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("ten years")
    with pytest.raises(UserError, match="not an export"):
        export(recipe, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "thesis.tex").exists()
    (tmp_path / "out" / "thesis.tex").unlink()
    for checkpoint in ("last", None):
        folder = export(recipe, tmp_path / "out", checkpoint, "12KB" if checkpoint else None).folder
    assert len(list(folder.glob("*.safetensors"))) == 1  # nothing of the older one is left


def test_a_tensor_that_reads_back_otherwise_is_found(copied, monkeypatch):
    real = write.write_shards

    def damaged(folder, *arguments):
        digests = real(folder, *arguments)
        flip(folder / "model.safetensors")
        return digests

    monkeypatch.setattr(write, "write_shards", damaged)
    with pytest.raises(UserError, match="read back other"):
        export(copied)
    assert left(copied.run_dir) == []


def test_a_config_that_computes_something_else_is_found(copied, monkeypatch):
    from agenttuning.export import settings

    real = settings.published_config

    def wrong(*arguments):
        config = real(*arguments)
        config.rms_norm_eps = 0.5
        return config

    monkeypatch.setattr(settings, "published_config", wrong)
    with pytest.raises(UserError, match="logits differ"):
        export(copied)
    assert left(copied.run_dir) == []


def test_a_tokenizer_that_gives_other_ids_is_found(copied, monkeypatch):
    real = run.save_tokenizer

    def wrong(tokenizer, folder):
        real(tokenizer, folder)
        config = json.loads((folder / "tokenizer.json").read_text())
        config["normalizer"] = None  # what AutoTokenizer's own Llama class makes of it
        (folder / "tokenizer.json").write_text(json.dumps(config))

    monkeypatch.setattr(run, "save_tokenizer", wrong)
    with pytest.raises(UserError, match=r"\[INST\]|ids|token"):
        export(copied)
    assert left(copied.run_dir) == []


def edited(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "lacks model.norm.weight"),
        (lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()), "unknown to the model, extra"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}), "another shape"),
        (lambda tensors: tensors["model.norm.weight"].fill_(float("nan")), "no numbers"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(world, recipe, tmp_path, change, said):
    shutil.copytree(world / "run" / "model", tmp_path / "elsewhere")
    edited(tmp_path / "elsewhere", change)
    with pytest.raises(UserError, match=said):
        export(recipe, tmp_path / "out", str(tmp_path / "elsewhere"))
    assert left(tmp_path) == []


def test_nothing_to_export_is_said(world, tmp_path):
    empty = tiny_recipe(world / "recipes/tiny/sft.yaml", tmp_path / "none")
    with pytest.raises(UserError, match="neither a finished model nor a whole checkpoint"):
        export(empty)
    with pytest.raises(UserError, match="no such folder"):
        export(empty, checkpoint=str(tmp_path / "missing"))
    with pytest.raises(UserError, match="no weights that can be exported"):
        export(empty, checkpoint=str(world / "raw"))
    with pytest.raises(UserError, match="--max-shard-size 5 apples"):
        export(empty, max_shard_size="5 apples")


def test_the_command(world, tmp_path, capsys):
    words = [str(world / "recipes/tiny/sft.yaml"), "--run-dir", str(world / "run")]
    assert cli.main(["export", *words, str(tmp_path / "out"), "--checkpoint", "last", "--max-shard-size", "12KB"]) == 0
    assert "checked: every tensor equals" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 7
    assert cli.main(["export", *words, "a", "b"]) == 2
    assert cli.main(["export", *words, "--adapter"]) == 2
    assert "holds a whole model" in capsys.readouterr().err


PASSES = r"""
import re, sys
from pathlib import Path
from agenttuning.export import check, layout, readers, settings, write
def bytes_of(what):  # getrusage's peak would be that of the process that started this one
    return int(re.search(what + r":\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
def passed(folder):
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(), scratch.mkdir()
    trained = settings.trained_config(folder, folder)
    plan = layout.lay_out(layout.empty_model(trained), readers.open_weights(folder, "safetensors"))
    write.write_shards(out, plan.specs, plan.read, "35MB")
    trained.dtype = "bfloat16"
    trained.save_pretrained(out)
    check.compare_weights(out, plan)
    def reference(_):
        return check.fetching(layout.empty_model(trained), list(plan.specs), plan.source)
    check.compare_logits(out, reference, list(range(40)), scratch)
small, large = map(Path, sys.argv[1:])
passed(small)  # what the libraries take for themselves
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = bytes_of("VmRSS")
passed(large)
print(bytes_of("VmHWM") - before)
"""


def save_constant(folder: Path, hidden: int) -> int:
    """Write a model of constants, whose logits still differ from each other; returns its bytes."""
    from transformers import LlamaConfig

    shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 10, "num_attention_heads": 8}
    model = layout.empty_model(LlamaConfig(**shape, vocab_size=8000, max_position_embeddings=64))
    tensors = {name: torch.full(tensor.shape, 0.01) for name, tensor in model.state_dict().items()}
    tensors["lm_head.weight"].mul_(torch.arange(8000)[:, None] / 8000)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
def test_memory_stays_below_the_model(tmp_path):
    """200 MB of float32 are written, compared and computed with in about the memory of one shard (of 35 MB). What it
    takes is the largest tensor (16 MB here) as it was stored, in bfloat16 and in float32.
    """
    save_constant(tmp_path / "small", 32)
    total = save_constant(tmp_path / "large", 512)
    assert total > 190e6
    words = [sys.executable, "-c", PASSES, str(tmp_path / "small"), str(tmp_path / "large")]
    # glibc would keep what was freed, the more the larger it was, and it would count
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    largest = max(path.stat().st_size for path in (tmp_path / "large" / "out").glob("*.safetensors"))
    used = int(done.stdout.split()[-1])
    print(f"used {used / 1e6:.0f} MB, largest shard {largest / 1e6:.0f} MB, source {total / 1e6:.0f} MB")
    assert largest / 4 < used < 1.5 * largest


def test_layouts_of_every_modern_kind_give_the_names_that_transformers_saves(tmp_path):
    """Tied weights once, experts one by one, from a folder and from a state dict in memory."""
    from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    from agenttuning.export.readers import Weights, from_safetensors

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    models = {
        "tied": LlamaForCausalLM(LlamaConfig(**shape, vocab_size=300, tie_word_embeddings=True)),
        "moe": Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, vocab_size=300, head_dim=16)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        saved, held = weights(tmp_path / name), model.state_dict()
        in_memory = Weights({key: tuple(one.shape) for key, one in held.items()}, held.__getitem__, in_memory=True)
        for source in (from_safetensors(tmp_path / name), in_memory):
            empty = layout.empty_model(AutoConfig.from_pretrained(tmp_path / name))
            plan = layout.lay_out(empty, source)
            assert same({key: plan.read(key) for key in plan.specs}, rounded(saved)), name
            assert all(plan.read(key).dtype == torch.bfloat16 for key in plan.specs)
    assert "lm_head.weight" not in weights(tmp_path / "tied")

    held = dict(models["tied"].state_dict())
    held["lm_head.weight"] = held["lm_head.weight"] + 1
    wrong = Weights({key: tuple(one.shape) for key, one in held.items()}, held.__getitem__, in_memory=True)
    with pytest.raises(UserError, match="ties lm_head.weight"):
        layout.lay_out(layout.empty_model(models["tied"].config), wrong)


def test_what_a_model_keeps_in_float32_stays_so(tmp_path):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    from agenttuning.export.readers import from_safetensors

    config = DeepseekV3Config(
        hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, q_lora_rank=8,
        kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, vocab_size=300,
    )  # fmt: skip
    DeepseekV3ForCausalLM(config).save_pretrained(tmp_path / "model")
    plan = layout.lay_out(layout.empty_model(config), from_safetensors(tmp_path / "model"))
    exact = [name for name, spec in plan.specs.items() if spec.dtype == torch.float32]
    assert exact == ["model.layers.1.mlp.gate.e_score_correction_bias"]
