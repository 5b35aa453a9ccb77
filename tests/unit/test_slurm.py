"""slurm/train.slurm with a Slurm that only notes what it was told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from helpers.fake_slurm import SCRIPT, Slurm

# In place of the interpreter: each task notes where it is and what it was given, and ends as the test says.
NOTE = """#!/bin/bash
exec > "$FAKE_SLURM/task$MACHINE_RANK"
printf '%s\\n' "$NUM_MACHINES" "$MACHINE_RANK" "$MAIN_PROCESS_IP" "$MAIN_PROCESS_PORT" "$PWD" "$@"
exit "${STATUS:-0}"
"""
WORDS = ["recipes/agentlm-70b/sft.yaml", "mixture.system_prompt='it''s $HOME; \"me\"'", "--data", "a=b c*.jsonl"]


def test_each_node_runs_the_command_that_anybody_types(tmp_path):
    slurm = Slurm(tmp_path, nodes=3, job=123456, python=NOTE)
    run = slurm.start(*WORDS)
    assert (run.communicate(), run.returncode) == (("", ""), 0)
    for rank in range(3):
        place = ["3", str(rank), "127.0.0.1", str(10000 + 123456 % 50000), str(tmp_path)]
        assert slurm.noted(f"task{rank}") == [*place, "-m", "agenttuning", "train", *WORDS]
    (step,) = slurm.steps
    assert {"--ntasks-per-node=1", "--kill-on-bad-exit=1"} <= set(step["options"])
    assert not slurm.noted("scontrol")


@pytest.mark.parametrize(("status", "again"), [(143, True), (2, False), (1, False), (137, False)])
def test_a_run_that_saved_when_its_time_was_up_is_queued_again_and_no_other(tmp_path, status, again):
    slurm = Slurm(tmp_path, nodes=1, python=NOTE)
    run = slurm.start("r.yaml", STATUS=str(status))
    run.communicate()
    assert run.returncode == status
    assert slurm.noted("scontrol") == (["requeue 7"] if again else [])


def test_the_notice_before_the_end_leaves_time_to_save():
    from agenttuning.launch import SAVE_SECONDS

    text = SCRIPT.read_text()
    # without `B:` the signal goes to the tasks, and only a cancelled job's reaches this shell, which must die of it
    notice = re.search(r"^#SBATCH --signal=TERM@(\d+)$", text, re.M)
    assert int(notice[1]) > int(SAVE_SECONDS["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text
    assert "trap" not in text


def test_the_script_is_sound_shell():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        found = subprocess.run(["shellcheck", "-f", "json", str(SCRIPT)], capture_output=True, text=True)
        assert json.loads(found.stdout) == []
