"""jobs/train.sh and what it has the job do, with an `hf` whose buckets are folders and whose jobs are only noted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttuning.recipe.schema import REPOSITORY

HF = f"""#!{sys.executable}
import fnmatch, json, os, shutil, sys
from pathlib import Path
hub, words = Path(os.environ["FAKE_HUB"]), sys.argv[1:]
with (hub / "calls").open("a") as out:
    out.write(json.dumps(words) + "\\n")
if words[:2] == ["jobs", "run"]:
    shutil.copy(words[words.index("--volume") + 1].split(":")[0] + "/commit.bundle", hub / "commit.bundle")
if words[0] == "sync":
    if (hub / "down").exists():
        sys.exit("no connection")
    hidden = words[words.index("--exclude") + 1] if "--exclude" in words else ""
    source, target = (hub / word[13:] if word.startswith("hf://") else Path(word) for word in words[-2:])
    if not source.is_dir():
        sys.exit(f"404 {{source}}")
    if "--delete" in words:
        shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=lambda _, names: fnmatch.filter(names, hidden))
"""
# In place of the interpreter: `--dry` is the plan. In the job it notes its words, "trains" until told to end and saves.
PYTHON = """#!/bin/bash
if [ "${@: -1}" = --dry ]; then
    printf '%s\\n' "$@" > "$FAKE_HUB/planned"
    exit "${PLAN:-0}"
fi
printf '%s\\n' "$@" > "$FAKE_HUB/trained"
run=${@: -1}
cat "$run/note" >> "$FAKE_HUB/trained" 2> /dev/null
trap 'echo saved > "$run/note"; exit 143' TERM
echo half > "$run/.checkpoint-1.tmp"
touch "$FAKE_HUB/running"
for i in $(seq "${TENTHS:-0}"); do sleep 0.1; done
echo done > "$run/note"
"""
MAKEFILE = ".venv/.ready:\n\tmkdir -p .venv/bin\n\tcp $(FAKE_HUB)/bin/* .venv/bin/\n\ttouch $@\n"
WORDS = ["recipes/mine/sft.yaml", "mixture.system_prompt='it''s $HOME; \"me\"'", "--data", "a=/rows/b c*.jsonl"]
RUN = "runs/mine/sft"


class Place:
    """A repository with jobs/ in it, a Hub of folders, and the calls of `hf`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.hub = folder / "repository", folder / "hub"
        shutil.copytree(REPOSITORY / "jobs", self.root / "jobs")
        (self.root / "recipes" / "mine").mkdir(parents=True)
        (self.root / "recipes" / "mine" / "sft.yaml").write_text("max_steps: 1\n")
        (self.root / "recipes" / "modern" / "new").mkdir(parents=True)
        (self.root / "recipes" / "modern" / "new" / "sft.yaml").write_text("max_steps: 1\n")
        (self.root / "Makefile").write_text(MAKEFILE)
        (self.root / ".gitignore").write_text(".venv\nruns\n")
        (self.hub / "bin").mkdir(parents=True)
        for name, text in (("hf", HF), ("python", PYTHON)):
            (self.hub / "bin" / name).write_text(text)
            (self.hub / "bin" / name).chmod(0o755)
        git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
        for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "all"]):
            subprocess.run([*git, *words], cwd=self.root, check=True)
        self.environment = {**os.environ, "FAKE_HUB": str(self.hub), "HF_TOKEN": "hf_secret", "BUCKET": "me/runs"}
        self.environment |= {"VENV": str(self.hub)}
        for name in ("WANDB_API_KEY", "FLAVOR", "HOURS", "MAKEFLAGS", "MAKELEVEL"):
            self.environment.pop(name, None)

    def submit(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.root / "jobs" / "train.sh"), *words], env={**self.environment, **environment},
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip

    def calls(self, *first: str) -> list[list[str]]:
        path = self.hub / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if words[: len(first)] == list(first)]

    def job(self, folder: Path, **environment: str) -> subprocess.Popen:
        """What the machine of the last submitted job would do, in an empty folder of its own."""
        command = self.calls("jobs", "run")[-1]
        command = command[command.index("python:3.11") + 1 :]
        command = [word.replace("/source/", f"{self.hub}/") for word in command]
        folder.mkdir()
        (self.hub / "running").unlink(missing_ok=True)
        return subprocess.Popen(command, cwd=folder, env={**self.environment, **environment}, start_new_session=True)

    def trained(self) -> list[str]:
        return (self.hub / "trained").read_text().splitlines()

    def mirrored(self, name: str) -> Path:
        return self.hub / "me/runs" / RUN / name


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def submitted(place, *words, **environment):
    done = place.submit(*words, **environment)
    assert done.returncode == 0, done.stderr
    return place.calls("jobs", "run")[-1]


def test_the_job_trains_this_commit_with_these_words(place, tmp_path):
    submitted(place, *WORDS)
    assert place.job(tmp_path / "machine").wait(timeout=60) == 0
    assert place.trained() == ["-m", "agenttuning", "train", *WORDS, "--run-dir", RUN]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place.root, capture_output=True, text=True).stdout
    assert place.mirrored("commit.txt").read_text() == head
    assert place.mirrored("note").read_text() == "done\n"
    assert not place.mirrored(".checkpoint-1.tmp").exists()


def test_a_recipe_below_a_folder_of_its_own_is_mirrored_where_every_other_verb_looks(place, tmp_path):
    submitted(place, "recipes/modern/new/sft.yaml")
    assert place.job(tmp_path / "machine").wait(timeout=60) == 0
    assert place.trained()[-2:] == ["--run-dir", "runs/modern/new/sft"]
    assert (place.hub / "me/runs/runs/modern/new/sft/note").read_text() == "done\n"


def test_a_job_told_to_end_saves_and_the_next_one_goes_on(place, tmp_path):
    submitted(place, *WORDS)
    job = place.job(tmp_path / "first", TENTHS="300")
    while not (place.hub / "running").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 143
    assert place.mirrored("note").read_text() == "saved\n"
    assert place.job(tmp_path / "second").wait(timeout=60) == 0
    assert place.trained()[-1] == "saved"  # it found what the first one left


def test_training_ends_before_the_job_does(place, tmp_path):
    submitted(place, *WORDS)
    assert place.job(tmp_path / "machine", TENTHS="300", TRAIN_SECONDS="1").wait(timeout=60) == 143
    assert place.mirrored("note").read_text() == "saved\n"


def test_the_bucket_follows_while_it_trains_and_is_not_emptied_by_a_failure(place, tmp_path):
    submitted(place, *WORDS)
    assert place.job(tmp_path / "first").wait(timeout=60) == 0
    (place.hub / "down").touch()
    assert place.job(tmp_path / "second").wait(timeout=60) != 0  # it could not fetch, so it does not train
    (place.hub / "down").unlink()
    assert place.mirrored("note").read_text() == "done\n"
    job = place.job(tmp_path / "third", TENTHS="40", MIRROR_SECONDS="0.2")
    while not (place.hub / "running").exists():
        time.sleep(0.05)
    before = len(place.calls("sync", "--delete"))
    time.sleep(1)
    assert job.poll() is None and len(place.calls("sync", "--delete")) > before
    assert job.wait(timeout=60) == 0


def test_what_is_asked_of_hf_jobs(place):
    """The real `hf` takes it (--dry-run), and no token is on a command line."""
    words = submitted(place, *WORDS, "--", "--namespace", "org", WANDB_API_KEY="w_secret", FLAVOR="a100x8", HOURS="5")
    assert place.calls("buckets") == [["buckets", "create", "--private", "--exist-ok", "me/runs"]]
    assert "_secret" not in (place.hub / "calls").read_text()
    options = words[: words.index("python:3.11")]
    for option in (["--flavor", "a100x8"], ["--timeout", "5h"], ["--namespace", "org"], ["--secrets", "WANDB_API_KEY"]):
        at = len(options) - 1 - options[::-1].index(option[1])
        assert options[at - 1 : at + 1] == option
    assert options.count("--secrets") == 2 and "HF_TOKEN" in options
    hf = Path(sys.executable).with_name("hf")
    if not hf.exists():
        pytest.skip("hf is not beside this interpreter")
    dry = subprocess.run(
        [str(hf), "jobs", "run", "--dry-run", *words[2:]], env=place.environment, capture_output=True, text=True
    )
    assert dry.returncode == 0, dry.stderr
    assert "a100x8" in dry.stdout and "jobs/inside.sh" in dry.stdout and "w_secret" not in dry.stdout


def test_a_mistake_is_found_by_the_plan_before_a_job_is_paid_for(place):
    done = place.submit(*WORDS, PLAN="2")
    assert done.returncode == 2 and not place.calls()
    assert (place.hub / "planned").read_text().splitlines() == ["-m", "agenttuning", "train", *WORDS, "--dry"]


def test_defaults_are_eight_gpus_and_a_day(place):
    words = submitted(place, *WORDS)
    assert words[words.index("--flavor") + 1] == "h200x8" and words[words.index("--timeout") + 1] == "24h"
    assert words.count("--secrets") == 1


@pytest.mark.parametrize(
    ("words", "environment", "why"),
    [
        (WORDS, {"BUCKET": ""}, "no disk of its own"),
        (WORDS, {"VENV": "/nowhere"}, "no environment /nowhere"),
        (WORDS, {"HOURS": "24h"}, "whole number of hours"),
        (["recipes/none.yaml"], {}, "is not a file"),
        ([], {}, "is not a file"),
        ([*WORDS, "--run-dir=/tmp"], {}, "is set by the job"),
        ([*WORDS, f"hub_token=hf_{'a' * 32}"], {}, "looks like a token"),
    ],
)
def test_refusals(place, words, environment, why):
    done = place.submit(*words, **environment)
    assert done.returncode == 2 and why in done.stderr and not place.calls()


def test_changes_that_would_stay_behind_are_refused(place):
    (place.root / "recipes/mine/sft.yaml").write_text("max_steps: 2\n")
    done = place.submit(*WORDS)
    assert done.returncode == 2 and "not committed" in done.stderr and not place.calls()


@pytest.mark.parametrize("name", ["train.sh", "inside.sh"])
def test_the_scripts_are_sound_shell(name):
    subprocess.run(["bash", "-n", str(REPOSITORY / "jobs" / name)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(REPOSITORY / "jobs" / name)], check=True)
