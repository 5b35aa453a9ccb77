"""A Slurm of one computer: `srun` starts a task per "node" here, `scontrol` knows one host and notes a requeue."""

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


class Slurm:
    """Runs slurm/train.slurm in `folder` as a batch job of `nodes` nodes.

    python: what the script finds as its interpreter; by default this one.
    """

    def __init__(self, folder: Path, nodes: int, job: int = 7, python: str = "") -> None:
        self.folder = folder
        (folder / "src").symlink_to(SCRIPT.parents[1] / "src")  # the job is submitted from the repository
        bin = folder / "venv" / "bin"
        bin.mkdir(parents=True)
        for name, body in (("srun", SRUN), ("scontrol", SCONTROL)):
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
