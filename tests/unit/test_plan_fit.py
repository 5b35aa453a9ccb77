"""Which accelerate configs fit, the nearest that does as a command that runs, and measurements beside estimates."""

import json
import shlex
import shutil
import time

import pytest

from agenttuning import cli, plan, recipe
from agenttuning.machine import Gpu, Machine
from agenttuning.recipe.schema import REPOSITORY

CPU = Machine(gpus=(), cpus=2, memory_gib=24.0, world_size=None)
CONFIGS = {path.stem for path in (REPOSITORY / "accelerate_configs").glob("*.yaml")}


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def load(path, *overrides):
    return recipe.load(f"recipes/{path}", overrides)


def made(path, *overrides, machine=CPU):
    return plan.make(load(path, *overrides), machine=machine)


def cells(one):
    return {(cell.accelerate_config, cell.method): cell for cell in one.table}


def test_the_table_has_every_config_with_every_method():
    one = made("agentlm-70b")
    assert set(cells(one)) == {(config, method) for config in CONFIGS for method in ("full", "lora", "qlora")}
    assert cells(one)["fsdp2_multinode", "full"].fits and not cells(one)["fsdp2", "full"].fits
    assert cells(one)["fsdp2", "lora"].fits and cells(one)["single_gpu", "qlora"].fits
    assert cells(one)["cpu", "full"].reason == "for a CPU"
    own = cells(one)["fsdp2_multinode", "full"]
    assert own.processes == 16 and own.total_gib == pytest.approx(one.memory_gib["total"])
    assert own.spare_gib == pytest.approx(140 * 0.9 - own.total_gib)
    text = plan.page(one)
    assert "fsdp2 x 8 " in text and "does not fit, 16.1 over" in text and "nearest" not in text


def test_each_method_is_its_own_files():
    """The columns are the plans of the files that stand side by side, whichever of them is asked."""
    files = {"full": "sft.yaml", "lora": "sft-lora.yaml", "qlora": "sft-qlora.yaml"}
    asked = {method: cells(made(f"agentlm-13b/{file}", "launch.gpus=8")) for method, file in files.items()}
    for config in ("fsdp2", "ddp", "single_gpu"):
        for method in files:
            assert len({table[config, method].total_gib for table in asked.values()}) == 1, (config, method)
    own = made("agentlm-13b/sft-lora.yaml")
    assert own.memory_gib["total"] == pytest.approx(asked["full"]["ddp", "lora"].total_gib)


def test_a_recipe_without_siblings_is_adapted_by_keys():
    table = cells(made("modern/qwen3-8b"))
    assert table["ddp", "qlora"].total_gib < table["ddp", "lora"].total_gib < table["ddp", "full"].total_gib
    sparse = cells(made("modern/qwen3-30b-a3b"))
    assert sparse["fsdp2", "full"].fits and sparse["fsdp2", "lora"].fits


NARROW = [
    ("agentlm-70b", ("launch.gpus=8", "launch.accelerate_config=fsdp2")),
    ("agentlm-70b", ("launch.gpus=2", "launch.accelerate_config=fsdp2", "launch.gpu_memory_gib=80")),
    ("agentlm-7b", ("launch.gpus=1", "launch.accelerate_config=single_gpu", "activation_checkpointing=false")),
    ("agentlm-7b", ("launch.gpus=1", "launch.accelerate_config=single_gpu", "launch.gpu_memory_gib=24")),
    ("agentlm-13b/sft-lora.yaml", ("launch.gpu_memory_gib=40",)),
    ("modern/qwen3-8b", ("launch.gpus=2", "launch.gpu_memory_gib=24", "per_device_train_batch_size=8")),
    ("ablations/agent-only.yaml", ("launch.gpu_memory_gib=12",)),
    ("modern/qwen3-30b-a3b", ("launch.gpu_memory_gib=40",)),
    (
        "agentlm-7b",
        ("activation_checkpointing=null", "gradient_checkpointing=false", "launch.accelerate_config=single_gpu"),
    ),
]


@pytest.mark.parametrize(("path", "overrides"), NARROW)
def test_the_nearest_is_a_command_whose_own_plan_fits(path, overrides):
    start = time.monotonic()
    one = made(path, *overrides)
    assert time.monotonic() - start < 4
    assert one.fits is False and one.nearest
    for near in one.nearest:
        program, verb, *words = shlex.split(near.command)
        assert (program, verb) == ("agenttuning", "plan")
        arguments = cli.parse(verb, words)
        then = plan.make(recipe.load(arguments.recipe, arguments.overrides), machine=CPU)
        assert then.fits is True, near.command
        assert then.memory_gib["total"] == pytest.approx(near.total_gib)
        assert then.settings["launch.gpu_memory_gib"] == one.settings["launch.gpu_memory_gib"], "an override was lost"
        assert near.command in plan.page(one)


def test_the_nearest_is_the_fewest_changes():
    one = made("agentlm-70b", "launch.gpus=8", "launch.accelerate_config=fsdp2")
    same, here = one.nearest
    assert same.which == "with the same method" and "launch.gpus=16" in same.command
    assert "fsdp2_multinode" in same.command and "lora" not in same.command
    assert here.which == "on these GPUs" and "zero3_offload" in here.command and here.host_gib > 1000
    small = ("launch.accelerate_config=single_gpu", "launch.gpus=1", "launch.gpu_memory_gib=80")
    more, offload = made("agentlm-7b", *small).nearest
    assert "launch.gpus=2" in more.command and "zero3_offload" in offload.command
    again = made("agentlm-7b", "launch.accelerate_config=single_gpu", "activation_checkpointing=false").nearest
    assert len(again) == 1 and again[0].changes == ["activation_checkpointing true"]
    batch = made("agentlm-7b", "per_device_train_batch_size=8", "launch.gpu_memory_gib=30")
    assert batch.nearest[0].changes == ["per_device_train_batch_size 4"]


def test_ram_counts_where_it_is_known():
    """Eight GPUs here with little RAM: what is offloaded does not fit, so the nearest is another."""
    poor = Machine(gpus=(Gpu("NVIDIA H200", 140.0),) * 8, cpus=16, memory_gib=256.0, world_size=None)
    one = made("agentlm-70b", "launch.accelerate_config=fsdp2", machine=poor)
    assert one.fits is False
    assert cells(one)["zero3_offload", "full"].reason == "too little RAM"
    here = next(near for near in one.nearest if near.which == "on these GPUs")
    assert "sft-lora.yaml" in here.command


def test_where_nothing_fits_it_says_so():
    one = made("agentlm-70b", "launch.gpu_memory_gib=4")
    assert one.fits is False and one.nearest == [] and "nothing that we know of fits" in plan.page(one)


def test_a_cpu_run_is_held_against_ram(tmp_path):
    shape = {"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "num_attention_heads": 4, "intermediate_size": 176}))
    one = made("agentlm-tiny", f"model_name_or_path={tmp_path}")
    assert one.fits is True and one.memory_gib["total"] < 0.1
    assert cells(one)["fsdp2", "full"].reason == "needs GPUs"


def test_a_config_in_the_hubs_cache_wins_over_our_table(tmp_path, monkeypatch):
    one = load("agentlm-7b")
    folder = tmp_path / "models--meta-llama--Llama-2-7b-chat-hf/snapshots" / one.values["model_revision"]
    folder.mkdir(parents=True)
    shape = {"model_type": "llama", "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps({**shape, "num_attention_heads": 4, "intermediate_size": 176}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert plan.make(one, machine=CPU).parameters < 1e6
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    assert plan.make(one, machine=CPU).parameters == 6_738_415_616


def test_other_optimizers():
    eight = made("agentlm-13b", "optim=adamw_8bit").memory_gib["optimizer"]
    assert eight < 0.3 * made("agentlm-13b").memory_gib["optimizer"]
    strange = made("agentlm-13b", "optim=galore_adamw")
    assert strange.memory_gib is None and strange.fits is None and strange.gpu_hours
    assert "not estimated for optim galore_adamw" in plan.page(strange)


@pytest.fixture
def repository(tmp_path):
    """A copy with a place for results; returns write(name, record)."""
    for folder in ("recipes", "accelerate_configs", "data_cards"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    (tmp_path / "benchmarks/results").mkdir(parents=True)

    def write(name, **changed):
        record = {
            "model": "meta-llama/Llama-2-7b-hf", "method": "full", "weights": "float32",
            "accelerate_config": "single_gpu", "attention": "varlen", "activation_checkpointing": "full",
            "per_device_train_batch_size": 1, "max_length": 4096, "peak_gib": 117.25, "gpu_name": "NVIDIA H200",
            "date": "2026-11-25", "tokens_per_second": 9876.5,
        }  # fmt: skip
        path = tmp_path / "benchmarks/results" / f"{name}.json"
        path.write_text(json.dumps(record | changed) if changed.pop("good", True) else "{")

    return tmp_path, write


ALONE = ("launch.accelerate_config=single_gpu", "activation_checkpointing=true")


def test_a_measured_peak_of_this_setting_stands_beside_the_estimate(repository):
    root, write = repository
    load = lambda *overrides: plan.make(recipe.load(root / "recipes/agentlm-7b", overrides), machine=CPU)  # noqa: E731
    assert load(*ALONE).measured == [] and "not measured" in plan.page(load(*ALONE))
    write("h200")
    write("damaged", good=False)
    write("failed", peak_gib=None)
    write("other", model="meta-llama/Llama-2-13b-hf")
    write("longer", max_length=8192)
    write("adapter", method="lora")
    write("pure", weights="bfloat16")
    write("selective", activation_checkpointing="selective")
    (found,) = load(*ALONE).measured
    assert found["peak_gib"] == 117.25 and found["file"] == "h200.json"
    page = plan.page(load(*ALONE))
    assert "117.2 GiB at the peak on NVIDIA H200, attention varlen, 9,876 tokens/s (2026-11-25" in page
    write("h200", hidden_dropout=0.0, compile=True)
    assert "attention varlen, hidden dropout 0, compiled, 9,876 tokens/s" in plan.page(load(*ALONE))
    write("h200", hidden_dropout=0.05, compile=False)
    assert "attention varlen, 9,876 tokens/s" in plan.page(load(*ALONE))
    write("h200", failed="out of memory: CUDA out of memory.", peak_gib=138.9, tokens_per_second=None)
    page = plan.page(load(*ALONE))
    assert "out of memory after 138.9 GiB on NVIDIA H200, attention varlen (2026" in page and "at the peak" not in page
    assert load(ALONE[0], "activation_checkpointing=false").measured == [], "kept activations are another setting"
    assert load(*ALONE, "launch.attention=sdpa").measured == []
    assert load().measured == [], "another accelerate config"
