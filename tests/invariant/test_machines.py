"""Two "machines" of one process each on loopback, started by slurm/train.slurm with accelerate_configs/fsdp2_multinode,
train what one process trains; told that their time is up they save, and the job that is queued again ends as if
nothing had happened.
"""

from __future__ import annotations

import shutil
import time

import psutil
import pytest

from agenttuning.recipe.schema import REPOSITORY
from agenttuning.train import train
from helpers.fake_slurm import Slurm
from helpers.tiny_run import losses, tiny_recipe, tiny_world

STEPS = 40
RUN = [f"max_steps={STEPS}", "save_steps=1000", "learning_rate=5e-4"]


@pytest.mark.slow
def test_a_job_on_two_machines_whose_time_is_up_goes_on_and_equals_one_process(tmp_path):
    """Slurm's signal reaches every process of the step, and accelerate's agent passes it on once more."""
    world = tiny_world(tmp_path)
    train(tiny_recipe(world, tmp_path / "one", *RUN))
    shutil.copy(REPOSITORY / "accelerate_configs" / "fsdp2_multinode.yaml", tmp_path / "accelerate_configs")
    slurm = Slurm(tmp_path, nodes=2, job=int(time.time()) % 40000)
    words = [str(world), *RUN, "launch.accelerate_config=fsdp2_multinode", "per_device_train_batch_size=2"]
    words += ["--cpu-processes", "1", "--run-dir", str(tmp_path / "two")]

    job, said = slurm.start(*words, OMP_NUM_THREADS="1"), []
    for line in job.stdout:
        said.append(line)
        if line.startswith("step 3/"):
            psutil.Process(job.pid).children()[0].terminate()  # srun, which passes it on
            break
    out, errors = job.communicate(timeout=200)
    out = "".join(said) + out
    assert job.returncode == 143, errors
    assert slurm.noted("scontrol") == [f"requeue {slurm.environment['SLURM_JOB_ID']}"]
    assert "2 per device x 2 processes x 1 accumulated" in out and out.count("step 1/") == 1
    assert out.count("--num_machines 2 --machine_rank 1 --main_process_ip 127.0.0.1") == 1
    (saved,) = (tmp_path / "two" / "checkpoints").glob("checkpoint-*")
    step = int(saved.name.removeprefix("checkpoint-"))
    assert 3 <= step < STEPS and f"step {step}/{STEPS}" in out
    assert (saved / "pytorch_model_fsdp_0").is_dir()  # a part from each machine

    job = slurm.start(*words, OMP_NUM_THREADS="1")
    out, errors = job.communicate(timeout=200)
    assert job.returncode == 0, errors
    assert f"going on from {saved}" in out and f"step {step}/{STEPS}" not in out
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
