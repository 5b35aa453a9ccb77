"""Two "machines" of one process each on loopback, started by slurm/train.slurm, train what one process trains; told
that their time is up they save, and the job that is queued again ends as if nothing had happened.
"""

from __future__ import annotations

import time

import pytest

from agenttuning.train import train
from helpers.fake_slurm import Slurm
from helpers.tiny_run import losses, tiny_recipe, tiny_world

# As accelerate_configs/fsdp2_multinode.yaml, but whole copies.
TWO = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: "no"
use_cpu: false
num_machines: 2
num_processes: 2
rdzv_backend: static
same_network: true
"""
QUIET = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def world(tmp_path):
    path = tiny_world(tmp_path)
    train(tiny_recipe(path, tmp_path / "one"))
    (tmp_path / "accelerate_configs" / "cpu.yaml").write_text(TWO)
    return path


@pytest.mark.slow
def test_two_machines_equal_one_process(world, tmp_path):
    slurm = Slurm(tmp_path, nodes=2, job=int(time.time()) % 40000)
    words = [str(world), "per_device_train_batch_size=2", "--cpu-processes", "1", "--run-dir", str(tmp_path / "two")]
    job = slurm.start(*words, **QUIET)
    out, errors = job.communicate(timeout=200)
    assert job.returncode == 0, errors
    assert "2 per device x 2 processes x 1 accumulated" in out and out.count("step 1/6") == 1
    assert out.count("--num_machines 2 --machine_rank 1 --main_process_ip 127.0.0.1") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-6)
