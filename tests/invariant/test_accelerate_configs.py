"""Every file in accelerate_configs/ trains what one process trains, on CPU processes, through the command line: losses,
gradient norms, tokens and the saved model are the same, and so they are after SIGKILL and a resume from shards.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from agenttuning.train import train
from helpers.spread_run import ROOT, finish, free_port, kill_at, record, same_training, start
from helpers.tiny_run import tiny_recipe, tiny_world

pytestmark = pytest.mark.slow
TWO, ACCUMULATED = "per_device_train_batch_size=2", "per_device_train_batch_size=1"
HALF = r"2\d,\d{3} of 50,656 parameters on process 0"  # with padding, or with what does not divide
SHARDED = rf"FSDP 2: {HALF}, 2 layers wrapped; 2 x cpu"
FOUND = {
    "cpu": "one process, 50,656 parameters; 1 x cpu, mixed precision no",
    "single_gpu": "one process, 50,656 parameters; 1 x cpu, mixed precision no",
    "ddp": "DDP: all 50,656 parameters on each process; 2 x cpu, gloo, mixed precision no",
    "fsdp2": SHARDED,
    "fsdp2_multinode": SHARDED,
    "zero3": rf"DeepSpeed ZeRO-3: {HALF} \(with padding\); 2 x cpu",
    "zero3_offload": rf"DeepSpeed ZeRO-3: {HALF} \(with padding\), optimizer in cpu and param in cpu memory; 2 x cpu",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    """The run of one process that the others are held to."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    train(tiny_recipe(world, run_dir))
    return run_dir


@pytest.fixture
def environment_as_it_was():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def need(config):
    if config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed; it is in the extra dev")


def spread(shown):
    return re.search(r"^spread +(.*)$", shown, re.M)[1]


def test_every_config_is_run_here():
    assert FOUND.keys() == {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")}


@pytest.mark.parametrize("config", ["cpu", "single_gpu"])
def test_one_process(world, one, tmp_path, capfd, environment_as_it_was, config):
    """single_gpu against one row at a time; the run of `cpu` itself is looked at for its line only."""
    words = [f"launch.accelerate_config={config}", *([ACCUMULATED] if config == "single_gpu" else [])]
    train(tiny_recipe(world, tmp_path / "run", *words), cpu_processes=1 if config == "single_gpu" else None)
    assert re.match(FOUND[config], spread(capfd.readouterr().out))
    same_training(tmp_path / "run", one)


@pytest.mark.parametrize(("config", "batch"), [("ddp", TWO), ("zero3_offload", ACCUMULATED)])
def test_two_processes(world, one, tmp_path, config, batch):
    need(config)
    shown = finish(start(world, tmp_path / "run", config, batch))
    accumulated = "2 per device x 2 processes x 1" if batch == TWO else "1 per device x 2 processes x 2"
    assert f"{accumulated} accumulated" in shown and shown.count("step 1/6") == 1  # one process speaks
    assert re.match(FOUND[config], spread(shown))
    assert record(tmp_path / "run")["processes"] == 2
    same_training(tmp_path / "run", one)


@pytest.mark.parametrize(("config", "batch"), [("fsdp2", TWO), ("zero3", TWO)])
@pytest.mark.timeout(600)
def test_killed_and_resumed_from_shards(world, one, tmp_path, config, batch):
    """SIGKILL to launcher and both processes in the third step; what the second start makes is the whole run."""
    need(config)
    kill_at(start(world, tmp_path / "run", config, batch), "step 3/6")
    assert not (tmp_path / "run" / "train.json").exists()
    shown = finish(start(world, tmp_path / "run", config, batch))
    begun = re.search(r"going on from .*/checkpoint-(\d)\n", shown)[1]
    assert begun in "24" and f"step {int(begun) + 1}/6" in shown and "step 1/6" not in shown
    assert re.match(FOUND[config], spread(shown))
    shards = "zero_pp_rank_*optim_states.pt" if config == "zero3" else "__*.distcp"
    for checkpoint in (2, 6):
        files = list((tmp_path / "run" / "checkpoints" / f"checkpoint-{checkpoint}").rglob(shards))
        assert len(files) == (2 if config == "zero3" else 4), files  # each process its own; FSDP's model too
    same_training(tmp_path / "run", one)


@pytest.mark.timeout(600)
def test_two_machines(world, one, tmp_path):
    """Two launches of one process each, which find each other on loopback."""
    place = {"NUM_MACHINES": "2", "MAIN_PROCESS_IP": "127.0.0.1", "MAIN_PROCESS_PORT": free_port()}
    words = (world, tmp_path / "run", "fsdp2_multinode", ACCUMULATED)
    both = [start(*words, processes=1, **place, MACHINE_RANK=str(rank)) for rank in range(2)]
    try:
        shown = [finish(run) for run in both]
    finally:
        for run in both:
            run.kill()
    assert re.match(FOUND["fsdp2_multinode"], spread(shown[0])) and "step 1/6" not in shown[1]
    same_training(tmp_path / "run", one)


@pytest.mark.timeout(600)
def test_adapters_and_hidden_dropout_on_shards(world, tmp_path):
    """A kill changes nothing, and the adapter that is saved holds what was trained (peft saves an empty one where
    accelerate's own activation checkpointing has renamed the layers)."""
    words = ("use_peft=true", "lora_r=4", "lora_target_modules=[all-linear]", "dtype=bfloat16", "hidden_dropout=0.1")
    words += ("activation_checkpointing=true", TWO)
    shown = finish(start(world, tmp_path / "whole", "fsdp2", *words))
    assert "LoRA of rank 4 in float32 on frozen bfloat16 weights); hidden dropout 0.1 while training" in shown
    kill_at(start(world, tmp_path / "killed", "fsdp2", *words), "step 3/6")
    assert "starting at step 0" not in finish(start(world, tmp_path / "killed", "fsdp2", *words))
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    same_training(killed, whole)
    saved = (killed / "adapter" / "adapter_model.safetensors").read_bytes()
    assert saved == (whole / "adapter" / "adapter_model.safetensors").read_bytes()
    trained = sum(weight.numel() for weight in load_file(killed / "adapter" / "adapter_model.safetensors").values())
    assert trained == record(killed)["parameters_trained"] == record(whole)["parameters_trained"] > 0


def test_the_loss_of_gpus_is_not_rounded(world, tmp_path):
    """TRL's head, which GPUs take, on shards and in bf16: the loss is made of its tokens' losses. Handed out in bf16,
    as accelerate has FSDP do, the two would differ by 0.3 % here, and the gradient by 0.5 %."""
    words = ("bf16=true", "loss_type=dft", "packing=true", "max_steps=1", "save_strategy='no'", ACCUMULATED)
    finish(start(world, tmp_path / "run", "fsdp2", *words))
    found = record(tmp_path / "run")
    [entry], supervised = found["log"], found["supervised_tokens"]
    total = sum(loss * supervised[name] for name, loss in entry["loss_by_source"].items())
    assert entry["loss"] == pytest.approx(total / sum(supervised.values()), rel=1e-5)


def test_a_start_that_ignores_the_file_is_refused(world, tmp_path):
    """torchrun knows nothing of the accelerate config: it would train whole copies under the name of FSDP."""
    words = ["-m", "agenttuning", "train", str(world), "launch.accelerate_config=fsdp2", "--cpu-processes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--standalone", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode != 0
    assert "fsdp2.yaml says distributed_type: FSDP and what came up is MULTI_GPU with 1 processes" in done.stderr
    assert "step 1/6" not in done.stdout
