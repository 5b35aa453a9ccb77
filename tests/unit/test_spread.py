"""What spreads a run is compared with its file: each silent fall-back stops the run and is named."""

from __future__ import annotations

import os
import re
import shlex
import sys
from types import SimpleNamespace

import pytest
import torch

from agenttuning import cli, launch, plan, preflight, recipe
from agenttuning.errors import UserError
from agenttuning.recipe.accelerate_config import check_optimizer, checkpoints_activations, validate
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.training import spread

R7 = REPOSITORY / "recipes/agentlm-7b/sft.yaml"


def config(name):
    return validate(REPOSITORY / "accelerate_configs" / f"{name}.yaml")


def trainer(kind="FSDP", processes=8, device="cpu", precision="bf16", bf16=True, n_gpu=1, **more):
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), mixed_precision=precision)
    args = SimpleNamespace(world_size=processes, device=torch.device(device), bf16=bf16, fp16=False, n_gpu=n_gpu)
    return SimpleNamespace(accelerator=accelerator, args=args, **more)


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE", launch.LAUNCHED):
        monkeypatch.delenv(name, raising=False)


def test_what_fits_passes():
    spread.check_processes(trainer(), config("fsdp2"), "fsdp2.yaml")
    spread.check_processes(trainer("NO", 1), config("single_gpu"), "single_gpu.yaml")


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("fsdp2", {"kind": "MULTI_CPU"}, "says distributed_type: FSDP and what came up is MULTI_CPU with 8 processes"),
        ("fsdp2", {"kind": "NO", "processes": 1}, "what came up is NO with 1 processes"),
        ("zero3", {"kind": "MULTI_GPU"}, "says distributed_type: DEEPSPEED and what came up is MULTI_GPU"),
        ("single_gpu", {"kind": "NO", "processes": 1, "n_gpu": 2}, "one GPU at most"),
        ("fsdp2", {"precision": "no"}, "computes in no and the recipe asks for bf16"),
        ("fsdp2_multinode", {}, "says num_machines: 2 and the launch has 1"),
    ],
)
def test_what_does_not_fit_is_named(name, found, words):
    with pytest.raises(UserError, match=words):
        spread.check_processes(trainer(**found), config(name), f"{name}.yaml")


def test_gpus_without_a_process_are_not_idle_in_silence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    spread.check_processes(trainer(device="cuda"), config("fsdp2"), "fsdp2.yaml")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="8 GPUs are visible and 4 processes run"):
        spread.check_processes(trainer(device="cuda"), config("fsdp2"), "fsdp2.yaml")


def test_the_count_of_machines_is_the_launchs(monkeypatch):
    monkeypatch.setenv("GROUP_WORLD_SIZE", "4")  # as many as Slurm gave: no result depends on it
    spread.check_processes(trainer(), config("fsdp2_multinode"), "fsdp2_multinode.yaml")
    with pytest.raises(UserError, match="says num_machines: 1 and the launch has 4"):
        spread.check_processes(trainer(), config("fsdp2"), "fsdp2.yaml")


def wrapped(model, kind, version=2):
    optimizer = torch.optim.AdamW(model.parameters())
    made = trainer(kind, 2, model=model, model_wrapped=model, optimizer=optimizer)
    made.accelerator.state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=version))
    return made


@pytest.mark.parametrize(
    ("name", "kind", "version", "words"),
    [
        ("ddp", "MULTI_GPU", 2, "the model is not in DDP"),
        ("fsdp2", "FSDP", 1, "says fsdp_version: 2 and FSDP 1 runs"),
        ("fsdp2", "FSDP", 2, r"shards over 2 processes and weight \(2 parameters in all\) is not"),
        ("zero3", "DEEPSPEED", 2, "says zero_stage: 3 and stage None runs"),
    ],
)
def test_a_model_that_is_not_wrapped_is_found(name, kind, version, words):
    with pytest.raises(UserError, match=words):
        spread.look(wrapped(torch.nn.Linear(2, 2), kind, version), config(name), f"{name}.yaml")


def test_a_model_under_data_parallel_is_found():
    made = wrapped(torch.nn.Linear(2, 2), "NO")
    assert spread.look(made, config("single_gpu"), "single_gpu.yaml").startswith("one process, 6 parameters")
    made.model_wrapped = torch.nn.Sequential(made.model)
    with pytest.raises(UserError, match="for one process and the model is in a Sequential"):
        spread.look(made, config("single_gpu"), "single_gpu.yaml")


class Engine:
    """What `look` asks of a DeepSpeed engine of two processes."""

    def __init__(self, numel, optimizer="none", stage=3):
        self.module, self.stage = torch.nn.Linear(3, 3, bias=False), stage
        self.module.weight.ds_numel, self.module.weight.ds_tensor = 9, torch.zeros(numel)
        self.offload = SimpleNamespace(device=f"OffloadDeviceEnum.{optimizer}")
        self.optimizer = SimpleNamespace(optimizer=torch.optim.AdamW(self.module.parameters()))

    def zero_optimization_stage(self):
        return self.stage

    def zero_offload_optimizer(self):
        return self.offload

    def zero_offload_param(self):
        return None


def test_zero_is_looked_at_parameter_by_parameter():
    block = config("zero3")["deepspeed_config"]
    assert spread._zero(Engine(5), block, 2, "zero3.yaml").startswith("DeepSpeed ZeRO-3: 5 of 9 parameters")
    with pytest.raises(UserError, match="shards over 2 processes and weight .* is held whole"):
        spread._zero(Engine(9), block, 2, "zero3.yaml")
    with pytest.raises(UserError, match="says offload_optimizer_device: none and it is cpu"):
        spread._zero(Engine(5, "cpu"), block, 2, "zero3.yaml")
    with pytest.raises(UserError, match="says zero_stage: 3 and stage 2 runs"):
        spread._zero(Engine(5, stage=2), block, 2, "zero3.yaml")


def load(*overrides):
    return recipe.load(R7, overrides)


def test_a_rehearsal_is_started_as_the_run_would_be():
    words = launch.command(load(), {}, "auto", cpu_processes=3)
    assert words[5:9] == ["--num_processes", "3", "--main_process_port", "0"]
    assert words[words.index("--cpu-processes") + 1] == "3"


@pytest.mark.parametrize(
    ("overrides", "processes", "words"),
    [
        (("launch.accelerate_config=single_gpu",), 2, "is for one process"),
        ((), 0, "at least one"),
        (("fp16=true", "bf16=false"), 2, "loss scaling"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(overrides, processes, words):
    with pytest.raises(UserError, match=words):
        launch.command(load(*overrides), {}, "auto", cpu_processes=processes)


@pytest.mark.parametrize(("override", "precision"), [("bf16=false", "no"), ("bf16=true", "bf16")])
def test_the_precision_of_a_rehearsal_is_the_recipes(monkeypatch, override, precision):
    """fsdp2.yaml says bf16, and outside of a rehearsal the two must agree."""
    environment = {"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setattr(os, "environ", environment)
    launch.prepare_process(load(override), 2)
    assert environment["ACCELERATE_MIXED_PRECISION"] == precision and environment["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(UserError, match="--cpu-processes 3, and 2 came up"):
        launch.prepare_process(load(override), 3)


def test_a_rehearsal_needs_no_gpu(monkeypatch):
    monkeypatch.setattr(preflight, "_gpu", lambda *_: ["GPU: none"])
    monkeypatch.setattr(preflight, "_wanted", lambda *_: ([], []))
    preflight.check(load(), {}, on_cpu=True)
    with pytest.raises(UserError, match="GPU: none"):
        preflight.check(load(), {})


def test_the_rehearsal_in_the_readme_is_one(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    page = (REPOSITORY / "accelerate_configs/README.md").read_text()
    words = shlex.split(re.search(r"^make train-tiny ARGS='(.*)'$", page, re.M)[1])
    asked = cli.parse("train", ["recipes/agentlm-tiny/sft.yaml", *words])
    one = recipe.load(asked.recipe, asked.overrides, asked.run_dir)
    assert plan.accumulation(one, asked.cpu_processes) == 1
    config = validate(one.accelerate_config)
    checkpoints_activations(one, config)
    check_optimizer(one, config)  # the twin's own cannot be sharded
    assert launch.command(one, {}, asked.resume, cpu_processes=asked.cpu_processes)[6] == "2"


def test_what_is_installed_beside_this_python_is_found_by_the_processes():
    first = "import os, sys; assert os.environ['PATH'].split(os.pathsep)[0] == os.path.dirname(sys.executable)"
    launch.run([sys.executable, "-c", first])
