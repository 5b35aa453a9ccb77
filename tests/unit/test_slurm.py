"""The scripts of slurm/ with a Slurm that notes what it was told, and runs what was queued."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys

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


# The chain's interpreter: it reads a chain as the real one, notes the verb with its words, and ends as the test says.
NOTE_VERB = f"""#!/bin/bash
[ "$2" != agenttuning.chain ] || exec {sys.executable} "$@"
echo "$3" >> "$FAKE_SLURM/order"
printf '%s\\n' "${{@:4}}" > "$FAKE_SLURM/words.$3"
[ "$3" != "${{LATE:-}}" ] || [ -e "$FAKE_SLURM/late" ] || {{ touch "$FAKE_SLURM/late"; exit 143; }}
[ "$3" != "${{FAILS:-}}" ] || exit 2
"""
R13 = "recipes/agentlm-13b/sft.yaml"
CHAIN = ["train", R13, WORDS[1], "publish.hub_dataset_id=me/rows", "--data", "agentinstruct=b c*.jsonl", "--then"]
CHAIN += ["eval-held-in", "--data", "db=/my items/d 'b' $HOME.jsonl", "--then", "compare", "--then"]
CHAIN += ["push-data", "--dry"]
VERBS = ["train", "eval-held-in", "compare", "push-data"]


def submit(slurm, *words, **environment):
    env = {**slurm.environment, **environment}
    command = [str(SCRIPT.with_name("submit.sh")), *words]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path, nodes=1, python=NOTE_VERB)


def test_where_there_is_no_slurm_the_steps_are_listed_and_it_says_so(slurm, tmp_path):
    (bare := tmp_path / "bare").mkdir()
    for tool in ("bash", "dirname", "mktemp", "printf", "rm", "xargs"):
        (bare / tool).symlink_to(shutil.which(tool))
    done = submit(slurm, *CHAIN, PATH=str(bare))
    assert done.returncode == 2 and "no sbatch here, so nothing was queued" in done.stderr
    assert "3. agenttuning compare" in done.stderr and "line" not in done.stderr


def test_a_chain_is_queued_as_jobs_that_wait_for_each_other(slurm):
    options = {"SBATCH": "--nodes=2 --comment='my run'", "EVAL_SBATCH": "--partition=gpu", "CPU_SBATCH": "--qos=c"}
    done = submit(slurm, *CHAIN, **options)
    assert done.returncode == 0, done.stderr
    assert "cancel: scancel 101 102 103 104" in done.stdout and "job 102: eval-held-in" in done.stdout
    train, judge, compare, push = slurm.queue
    assert [job["script"] for job in slurm.queue] == ["slurm/train.slurm", *["slurm/step.slurm"] * 3]
    assert {"--nodes=2", "--comment=my run"} <= set(train["options"])
    assert not [option for option in train["options"] if option.startswith("--dependency")]
    for before, job in zip(slurm.queue, slurm.queue[1:], strict=False):
        assert {f"--dependency=afterok:{before['id']}", "--kill-on-invalid-dep=yes"} <= set(job["options"])
    assert {"--gpus-per-node=1", "--partition=gpu"} <= set(judge["options"])
    for job in (compare, push):
        assert "--qos=c" in job["options"] and not [option for option in job["options"] if "gpu" in option]
    assert slurm.work() == dict.fromkeys((101, 102, 103, 104), "COMPLETED")
    assert slurm.noted("order") == VERBS
    assert slurm.noted("words.train") == CHAIN[1:6]
    assert slurm.noted("words.eval-held-in") == [R13, *CHAIN[2:4], *CHAIN[8:10]]
    assert slurm.noted("words.push-data") == [R13, *CHAIN[2:4], "--dry"]


def test_a_step_that_fails_ends_the_chain_says_so_and_the_same_command_goes_on(slurm):
    submit(slurm, *CHAIN)
    assert list(slurm.work(FAILS="eval-held-in").values()) == ["COMPLETED", "FAILED", "CANCELLED", "CANCELLED"]
    assert slurm.noted("order") == VERBS[:2]
    said = (slurm.folder / "102.err").read_text()
    assert "step eval-held-in failed with status 2; what waits for it does not run" in said
    alone = next(line for line in said.splitlines() if "sbatch" in line)
    assert shlex.split(alone)[1:] == ["slurm/step.slurm", "eval-held-in", *slurm.noted("words.eval-held-in")]
    submit(slurm, *CHAIN)
    assert set(slurm.work().values()) == {"COMPLETED"}
    assert slurm.noted("order")[2:] == VERBS


def test_a_step_whose_time_is_up_is_queued_again_and_the_next_one_waits_for_it(slurm):
    submit(slurm, *CHAIN)
    assert set(slurm.work(LATE="eval-held-in").values()) == {"COMPLETED"}
    assert slurm.noted("order") == ["train", "eval-held-in", "eval-held-in", "compare", "push-data"]
    assert slurm.noted("scontrol") == ["requeue 102"]


def test_a_step_alone(slurm):
    assert submit(slurm, "ablation", R13, "--eval-held-in=--items 5", SBATCH="--time=4-0").returncode == 0
    (job,) = slurm.queue
    assert {"--gpus-per-node=8", "--time=4-0"} <= set(job["options"]) and job["words"][0] == "ablation"
    assert slurm.work() == {101: "COMPLETED"}
    assert slurm.noted("words.ablation") == [R13, "--eval-held-in=--items 5"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["train", "recipes/none.yaml"], "There is no recipe"),
        ([*CHAIN, "--then", "compair"], "did you mean `compare`?"),
        ([*CHAIN[:3], "--then", "push-data"], "add publish.hub_dataset_id=owner/name"),
        ([*CHAIN, f"hub_token=hf_{'a' * 32}"], "looks like a token"),
        ([*CHAIN[:3], "--", "--flavor", "x"], "`--flavor` is not an override"),
        (["SBATCH=--comment=it's", *CHAIN[:3]], "SBATCH=--comment=it's is no list of words"),
    ],
)
def test_what_could_not_run_is_refused_before_anything_is_queued(slurm, words, why):
    environment = dict([words.pop(0).split("=", 1)]) if "SBATCH" in words[0] else {}
    done = submit(slurm, *words, **environment)
    assert done.returncode == 2 and why in done.stderr and not slurm.queue


@pytest.mark.parametrize("name", ["train.slurm", "step.slurm", "submit.sh"])
def test_the_scripts_are_sound_shell(name):
    script = str(SCRIPT.with_name(name))
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        found = subprocess.run(["shellcheck", "-f", "json", script], capture_output=True, text=True)
        assert json.loads(found.stdout) == []
