"""A Slurm of one computer: `srun` starts a task per "node" here, `scontrol` knows one host and notes a requeue, and
`sbatch` queues what `Slurm.work` then runs: in order, a requeued job again, one whose dependency failed not at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "train.slurm"
SRUN = """
import json, os, signal, subprocess, sys
import psutil
words = sys.argv[1:]
command = words[next(i for i, word in enumerate(words) if not word.startswith("-")):]
with open(os.environ["FAKE_SLURM"] + "/srun", "a") as out:
    out.write(json.dumps({"options": words[: len(words) - len(command)], "command": command}) + "\\n")
nodes = range(int(os.environ["SLURM_JOB_NUM_NODES"]))
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in nodes]
def end(number, frame):  # as `--signal` does: every process of the step gets it
    for task in map(psutil.Process, [task.pid for task in tasks]):
        for one in [task, *task.children(recursive=True)]:
            one.send_signal(number)
signal.signal(signal.SIGTERM, end)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("127.0.0.1")
else:
    with open(os.environ["FAKE_SLURM"] + "/scontrol", "a") as out:
        out.write(" ".join(sys.argv[1:]) + "\\n")
"""
SBATCH = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
at = next(i for i, word in enumerate(words) if not word.startswith("-"))
queue = Path(os.environ["FAKE_SLURM"], "queue")
jobs = queue.read_text().splitlines() if queue.exists() else []
job = {"id": 101 + len(jobs), "options": words[:at], "script": words[at], "words": words[at + 1:], "place": os.getcwd()}
with queue.open("a") as out:
    out.write(json.dumps(job) + "\\n")
print(f"{job['id']};cluster" if "--parsable" in words[:at] else f"Submitted batch job {job['id']}")
"""


class Slurm:
    """Runs slurm/train.slurm in `folder` as a batch job of `nodes` nodes.

    python: what the script finds as its interpreter; by default this one.
    """

    def __init__(self, folder: Path, nodes: int, job: int = 7, python: str = "") -> None:
        self.folder = folder
        (folder / "src").symlink_to(SCRIPT.parents[1] / "src")  # the job is submitted from the repository
        bin = folder / "venv" / "bin"
        bin.mkdir(parents=True)
        for name, body in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
            _executable(bin / name, f"#!{sys.executable}\n{body}")
        _executable(bin / "python", python or f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        slurm = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]"}
        slurm |= {"SLURM_SUBMIT_DIR": str(folder), "FAKE_SLURM": str(folder), "VENV": str(folder / "venv")}
        self.environment = {**os.environ, **slurm, "PATH": f"{bin}:{os.environ['PATH']}"}

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        """`sbatch slurm/train.slurm WORDS`, its output in pipes."""
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words], env={**self.environment, **environment}, cwd="/", text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def queue(self) -> list[dict]:
        """What `sbatch` was given: {"id", "options", "script", "words", "place"}."""
        return [json.loads(line) for line in self.noted("queue")]

    def work(self, **environment: str) -> dict[int, str]:
        """Run what is queued and empty the queue: {id: COMPLETED, FAILED or CANCELLED}, and each job's stderr in
        `folder`/ID.err. A dependency is honoured as Slurm does with --kill-on-invalid-dep=yes; without it the job would
        wait for ever, which this refuses.
        """
        states: dict[int, str] = {}
        for job in self.queue:
            waits = [option for option in job["options"] if option.startswith("--dependency=")]
            for option in waits:
                kind, _, on = option.removeprefix("--dependency=").partition(":")
                assert kind == "afterok" and "--kill-on-invalid-dep=yes" in job["options"]
                if states[int(on)] != "COMPLETED":
                    states[job["id"]] = "CANCELLED"
            if job["id"] in states:
                continue
            slurm = {"SLURM_JOB_ID": str(job["id"]), "SLURM_SUBMIT_DIR": job["place"]}
            env, again = {**self.environment, **environment, **slurm}, True
            while again:
                before = self.noted("scontrol")
                with (self.folder / f"{job['id']}.err").open("a") as err:
                    command = ["bash", str(Path(job["place"]) / job["script"]), *job["words"]]
                    done = subprocess.run(command, env=env, cwd="/", stderr=err, check=False)
                again = self.noted("scontrol")[len(before) :] == [f"requeue {job['id']}"]
            states[job["id"]] = "COMPLETED" if done.returncode == 0 else "FAILED"
        (self.folder / "queue").unlink()
        return states

    def noted(self, name: str) -> list[str]:
        """What `srun` or `scontrol` wrote down, a line a call."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def steps(self) -> list[dict]:
        """The calls of srun: {"options": [...], "command": [...]}."""
        return [json.loads(line) for line in self.noted("srun")]


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
