"""Runs of `agenttuning train --cpu-processes` in processes of their own, and what they leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240  # a run takes about ten on two idle cores


def start(recipe: Path, run_dir: Path, config: str, *words: str, processes: int = 2, **environment: str):
    """A started `agenttuning train`, its output in pipes."""
    command = [sys.executable, "-m", "agenttuning", "train", str(recipe), f"launch.accelerate_config={config}", *words]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [*command, "--cpu-processes", str(processes), "--run-dir", str(run_dir)],
        env=os.environ | quiet | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(run: subprocess.Popen) -> str:
    """Wait for a run that must succeed; returns what it printed."""
    try:
        out, errors = run.communicate(timeout=SECONDS)
    finally:
        stop(run)
    assert run.returncode == 0, out + errors
    return out


def kill_at(run: subprocess.Popen, line: str) -> None:
    """Read a run's output until `line`, then SIGKILL its launcher and all its processes."""
    shown = []
    for shown_line in run.stdout:
        shown.append(shown_line)
        if shown_line.startswith(line):
            stop(run)
            run.communicate()
            return
    pytest.fail("".join(shown) + run.stderr.read())


def stop(run: subprocess.Popen) -> None:
    import psutil

    if run.poll() is None:
        family = psutil.Process(run.pid).children(recursive=True)
        for process in [run, *family]:
            process.kill()
        psutil.wait_procs(family, timeout=30)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "train.json").read_text())


def same_training(run_dir: Path, other: Path) -> None:
    """Assert that two runs trained alike: losses to 1e-5, gradient norms to 5e-5, tokens to the last, weights to 1e-4
    (AdamW magnifies rounding where gradients are about 0), and that what was saved loads.
    """
    from transformers import AutoModelForCausalLM

    one, two = record(run_dir), record(other)
    assert len(two["log"]) >= 6
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 5e-5), ("learning_rate", 0)):
        assert [entry[name] for entry in one["log"]] == pytest.approx(
            [entry[name] for entry in two["log"]], abs=tolerance, rel=0
        ), name
    for ours, whole in zip(one["log"], two["log"], strict=True):
        assert ours["loss_by_source"] == pytest.approx(whole["loss_by_source"], abs=1e-5)
    assert one["tokens"] == two["tokens"] and one["supervised_tokens"] == two["supervised_tokens"]
    models = [AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto") for folder in (run_dir, other)]
    mine, theirs = (dict(model.named_parameters()) for model in models)
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert weight.dtype == theirs[name].dtype and (weight - theirs[name]).abs().max() < 1e-4, name
