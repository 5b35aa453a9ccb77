"""jobs/submit.sh and what it has the job do, with an `hf` whose buckets are folders and whose jobs are only noted."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
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
if words[0] == "buckets" and (hub / "down").exists():
    raise ConnectionError("no such host")
if words[:2] == ["jobs", "run"]:
    shutil.copy(words[words.index("--volume") + 1].split(":")[0] + "/commit.bundle", hub / "commit.bundle")
if words[0] == "sync":
    if (hub / "down").exists():
        sys.exit("no connection")
    hidden = words[words.index("--exclude") + 1].removesuffix("/*") if "--exclude" in words else ""
    source, target = (hub / word[13:] if word.startswith("hf://") else Path(word) for word in words[-2:])
    if not source.is_dir():
        sys.exit(f"404 {{source}}")
    if "--delete" in words:
        shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=lambda _, names: fnmatch.filter(names, hidden))
"""
# In place of the interpreter: it reads a chain as the real one; `--dry` is the plan; what was asked for is noted. In
# the job `train` goes on until told to end and saves, and the step that FAILS names fails.
PYTHON = f"""#!/bin/bash
[ "$2" != agenttuning.chain ] || exec {sys.executable} "$@"
verb=$3
if [ "${{@: -1}}" = --dry ]; then
    printf '%s\\n' "$@" > "$FAKE_HUB/planned"
    exit "${{PLAN:-0}}"
fi
printf '%s\\n' "$@" > "$FAKE_HUB/$verb"
echo "$verb" >> "$FAKE_HUB/order"
while [ "$1" != --run-dir ]; do shift; done
run=$2
[ "$verb" = train ] || {{ ls "$run" > "$FAKE_HUB/found"; echo "$verb" > "$run/$verb.json"; }}
[ "$verb" != "${{FAILS:-}}" ] || exit 2
[ "$verb" = train ] || exit 0
cat "$run/note" >> "$FAKE_HUB/train" 2> /dev/null
trap 'echo saved > "$run/note"; exit 143' TERM
echo half > "$run/.checkpoint-1.tmp"
mkdir -p "$run/checkpoints/checkpoint-1"
echo weights > "$run/checkpoints/checkpoint-1/model"
touch "$FAKE_HUB/running"
for i in $(seq "${{TENTHS:-0}}"); do sleep 0.1; done
echo done > "$run/note"
"""
MAKEFILE = ".venv/.ready:\n\tmkdir -p .venv/bin\n\tcp $(FAKE_HUB)/bin/* .venv/bin/\n\ttouch $@\n"
RECIPE = "extends: ../base.yaml\nmodel_name_or_path: me/mine\npublish: {hub_dataset_id: me/rows}\n"
OWN = ["mixture.system_prompt='it''s $HOME; \"me\"'", "--data", "a=/rows/b c*.jsonl"]
WORDS = ["train", "recipes/mine/sft.yaml", *OWN]
THEN = ["--then", "eval-held-in", "--data", "db=/my items/d 'b'.jsonl", "--then", "compare", "--then", "push-data"]
RUN = "runs/mine/sft"


class Place:
    """A repository with jobs/ in it, a Hub of folders, and the calls of `hf`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.hub = folder / "repository", folder / "hub"
        shutil.copytree(REPOSITORY / "jobs", self.root / "jobs")
        (self.root / "recipes" / "mine").mkdir(parents=True)
        (self.root / "recipes" / "mine" / "sft.yaml").write_text(RECIPE)
        (self.root / "recipes" / "modern" / "new").mkdir(parents=True)
        (self.root / "recipes" / "modern" / "new" / "sft.yaml").write_text(RECIPE.replace("../", "../../"))
        shutil.copy(REPOSITORY / "recipes" / "base.yaml", self.root / "recipes")
        (self.root / "src").symlink_to(REPOSITORY / "src")
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
        self.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        for name in ("WANDB_API_KEY", "FLAVOR", "HOURS", "SECRETS", "MAKEFLAGS", "MAKELEVEL"):
            self.environment.pop(name, None)

    def submit(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.root / "jobs" / "submit.sh"), *words], env={**self.environment, **environment},
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip

    def calls(self, *first: str) -> list[list[str]]:
        path = self.hub / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [words for words in map(json.loads, lines) if words[: len(first)] == list(first)]

    def job(self, folder: Path, stderr=None, **environment: str) -> subprocess.Popen:
        """What the machine of the last submitted job would do, in an empty folder of its own."""
        command = self.calls("jobs", "run")[-1]
        command = command[command.index("python:3.11") + 1 :]
        command = [word.replace("/source/", f"{self.hub}/") for word in command]
        folder.mkdir()
        (self.hub / "running").unlink(missing_ok=True)
        env = {**self.environment, **environment}
        return subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, stderr=stderr)

    def ran(self, verb: str) -> list[str]:
        """The words of a step."""
        return (self.hub / verb).read_text().splitlines()

    def order(self) -> list[str]:
        """The verbs that ran since this was last asked."""
        path = self.hub / "order"
        verbs = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return verbs

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
    assert place.ran("train") == ["-m", "agenttuning", *WORDS[:2], "--run-dir", RUN, *OWN]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place.root, capture_output=True, text=True).stdout
    assert place.mirrored("commit.txt").read_text() == head
    assert place.mirrored("note").read_text() == "done\n"
    assert not place.mirrored(".checkpoint-1.tmp").exists()


def test_a_recipe_below_a_folder_of_its_own_is_mirrored_where_every_other_verb_looks(place, tmp_path):
    submitted(place, "train", "recipes/modern/new/sft.yaml")
    assert place.job(tmp_path / "machine").wait(timeout=60) == 0
    assert place.ran("train")[-2:] == ["--run-dir", "runs/modern/new/sft"]
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
    assert place.ran("train")[-1] == "saved"  # it found what the first one left


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
    assert (place.hub / "planned").read_text().splitlines() == ["-m", "agenttuning", *WORDS, "--dry"]


def test_the_steps_run_one_after_the_other_with_their_own_words(place, tmp_path):
    submitted(place, *WORDS, *THEN)
    assert place.job(tmp_path / "machine").wait(timeout=60) == 0
    assert place.order() == ["train", "eval-held-in", "compare", "push-data"]
    shared = [OWN[0], *THEN[2:4], "--run-dir", RUN]
    assert place.ran("eval-held-in") == ["-m", "agenttuning", "eval-held-in", WORDS[1], *shared]
    assert place.ran("compare") == ["-m", "agenttuning", "compare", WORDS[1], OWN[0], "--run-dir", RUN]
    assert all(place.mirrored(f"{verb}.json").exists() for verb in ("eval-held-in", "compare", "push-data"))


def test_a_step_that_fails_ends_the_chain_and_the_same_command_goes_on(place, tmp_path):
    submitted(place, *WORDS, *THEN)
    with (tmp_path / "said").open("w") as said:  # no pipe: the job's `sleep` outlives it
        assert place.job(tmp_path / "first", said, FAILS="eval-held-in").wait(timeout=60) == 2
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last.startswith("step eval-held-in ended with status 2; those after it did not run; the same command goes")
    assert place.order() == ["train", "eval-held-in"]
    assert place.mirrored("note").read_text() == "done\n" and not place.mirrored("compare.json").exists()
    submitted(place, *WORDS, *THEN)
    assert place.job(tmp_path / "second").wait(timeout=60) == 0
    assert place.order() == ["train", "eval-held-in", "compare", "push-data"]
    assert place.ran("train")[-1] == "done"  # it found what the first one left


def test_no_step_begins_when_the_time_is_up(place, tmp_path):
    submitted(place, *WORDS, *THEN)
    assert place.job(tmp_path / "machine", TENTHS="300", TRAIN_SECONDS="1").wait(timeout=60) == 143
    assert place.order() == ["train"] and place.mirrored("note").read_text() == "saved\n"


def test_a_step_alone_leaves_the_checkpoints_in_the_bucket(place, tmp_path):
    """An evaluation on a small machine: hundreds of GB are not fetched, and not deleted for not being there."""
    submitted(place, *WORDS)
    assert place.job(tmp_path / "first").wait(timeout=60) == 0
    variables = {"FLAVOR": "h200", "SECRETS": "JUDGE_KEY", "JUDGE_KEY": "x"}
    words = submitted(place, "eval-held-in", WORDS[1], "--items", "3", **variables)
    assert words.count("--secrets") == 2 and "JUDGE_KEY" in words and words[words.index("--flavor") + 1] == "h200"
    assert place.job(tmp_path / "second").wait(timeout=60) == 0
    assert place.ran("eval-held-in")[-2:] == ["--items", "3"]
    assert "note" in place.ran("found") and "checkpoints" not in place.ran("found")
    assert place.mirrored("checkpoints/checkpoint-1/model").exists() and place.mirrored("eval-held-in.json").exists()


@pytest.mark.parametrize(
    ("status", "role", "code", "said"),
    [
        (200, "write", 0, "pushes as me, token write"),
        (200, "read", 2, "may only read"),
        (401, "", 2, "does not accept the token"),
        (503, "", 0, "HTTP 503"),
    ],
)
def test_whether_the_token_may_write_is_asked_before_anything_is_paid_for(place, status, role, code, said):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802 (the library's name)
            assert self.path == "/api/whoami-v2" and self.headers["Authorization"] == "Bearer hf_secret"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"name": "me", "auth": {"accessToken": {"role": role}}}).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
        done = place.submit(*WORDS, "--then", "push-data", **where)
        server.shutdown()
    assert done.returncode == code and said in done.stderr and "hf_secret" not in done.stdout + done.stderr
    assert bool(place.calls("jobs", "run")) == (code == 0)


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
        (["train", "recipes/none.yaml"], {}, "is not a file"),
        (["trian", WORDS[1]], {}, "did you mean `train`?"),
        ([*WORDS, "--then", "compair"], {}, "did you mean `compare`?"),
        ([*WORDS, "--then", "eval-held-in", "--itmes", "3"], {}, "does not take"),
        ([*WORDS, "--then"], {}, "a verb or the recipe is missing"),
        ([*WORDS, "--then", "doctor"], {}, "`agenttuning doctor` does not take"),
        ([*WORDS[:2], "--then", "quickstart"], {}, "takes a recipe"),
        ([*WORDS, "max_setps=3"], {}, "max_steps"),
        ([*WORDS, "publish.hub_dataset_id=null", "--then", "push-data"], {}, "add publish.hub_dataset_id=owner/name"),
        ([*WORDS, "--then", "push-data"], {"HF_TOKEN": "", "HF_TOKEN_PATH": "/none"}, "no Hub token was found"),
        (["ablation", WORDS[1]], {}, "one folder is kept"),
        ([], {}, "is not a file"),
        ([*WORDS, "--run-dir=/tmp"], {}, "is set by the job"),
        ([*WORDS, f"hub_token=hf_{'a' * 32}"], {}, "looks like a token"),
    ],
)
def test_refusals(place, words, environment, why):
    done = place.submit(*words, **environment)
    assert done.returncode == 2 and why in done.stderr and not place.calls()


def test_without_the_hub_no_job_is_started_and_nobody_reads_a_traceback(place):
    (place.hub / "down").touch()
    done = place.submit(*WORDS)
    assert done.returncode == 2 and not place.calls("jobs")
    assert "ConnectionError: no such host" in done.stderr and "no job was started" in done.stderr
    assert "Traceback" not in done.stderr and "File" not in done.stderr


def test_changes_that_would_stay_behind_are_refused(place):
    (place.root / "recipes/mine/sft.yaml").write_text("max_steps: 2\n")
    done = place.submit(*WORDS)
    assert done.returncode == 2 and "not committed" in done.stderr and not place.calls()


@pytest.mark.parametrize("name", ["submit.sh", "inside.sh"])
def test_the_scripts_are_sound_shell(name):
    subprocess.run(["bash", "-n", str(REPOSITORY / "jobs" / name)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(REPOSITORY / "jobs" / name)], check=True)
