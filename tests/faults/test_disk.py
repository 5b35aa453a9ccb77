"""A disk that is too small is seen before the run or before a save; one that fills up leaves no half folder."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from agenttuning.errors import UserError
from agenttuning.train import train
from agenttuning.training import checkpoints, disk
from helpers.tiny_run import losses, tiny_recipe

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def small_disk(tmp_path):
    """A function of a size in KiB: a folder on a tmpfs of that size."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free(monkeypatch, counts: list[int]) -> None:
    """Let the disk report these free bytes, one look after the other; the last one stays."""
    monkeypatch.setattr(
        disk.shutil, "disk_usage", lambda path: Usage(0, 0, counts.pop(0) if len(counts) > 1 else counts[0])
    )


def test_too_small_for_the_run(world, tmp_path, monkeypatch):
    free(monkeypatch, [1_000_000])
    with pytest.raises(UserError, match=r"has 1.0 MB free, and this run will hold 3 more checkpoints of .* at once"):
        train(tiny_recipe(world, tmp_path / "a"))
    assert not checkpoints.in_order(tmp_path / "a")


def test_the_estimate_is_near_the_real_size(world, whole, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(disk, "check_run", lambda trainer: seen.append(disk.estimate(trainer)))
    train(tiny_recipe(world, tmp_path / "a"))
    [(one, model)] = seen
    folder = whole() / "checkpoints" / "checkpoint-6"
    files = {name: (folder / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")}
    assert one == pytest.approx(sum(files.values()), rel=0.1)
    assert model == pytest.approx(files["model.safetensors"], rel=0.1)


def test_the_estimate_of_an_adapter_holds_the_merged_model(world, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(disk, "check_run", lambda trainer: seen.append(disk.estimate(trainer)))
    lora = ("use_peft=true", "lora_r=4", "lora_target_modules=[q_proj]", "dtype=bfloat16", "max_steps=2")
    train(tiny_recipe(world, tmp_path / "a", *lora))
    [(one, model)] = seen
    run = tmp_path / "a"
    written = [run / "model" / "model.safetensors", run / "adapter" / "adapter_model.safetensors"]
    assert model == pytest.approx(sum(path.stat().st_size for path in written), rel=0.1)
    assert one < model / 2


def test_too_small_for_the_next_save(world, whole, tmp_path, monkeypatch):
    run, one = tmp_path / "a", checkpoints.bytes_of(whole() / "checkpoints" / "checkpoint-2")
    few = one - 5_000  # the log in it is some digits longer or shorter from run to run
    free(monkeypatch, [10**9, 10**9, few])  # before the run, before the first save, before the second
    with pytest.raises(UserError, match="the checkpoint of step 4 takes .* it is not begun. .*checkpoint-2 is whole"):
        train(tiny_recipe(world, run))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    train(tiny_recipe(world, run))
    assert losses(run) == losses(whole())


@pytest.mark.parametrize("missing", [100_000, 300_000, 600_000])
def test_a_disk_that_fills_up_in_a_save(world, whole, tmp_path, small_disk, monkeypatch, missing):
    """The second checkpoint lacks this many bytes: it ends in the optimizer or in the weights."""
    one = checkpoints.bytes_of(whole() / "checkpoints" / "checkpoint-2")
    run = Path(shutil.copytree(whole(), tmp_path / "a"))
    for name in ("model", "checkpoints/checkpoint-4", "checkpoints/checkpoint-6"):
        shutil.rmtree(run / name)
    used = sum(path.stat().st_blocks * 512 for path in run.rglob("*"))
    folder = small_disk((used + one - missing) // 1024 + 64)
    shutil.copytree(run, folder / "a")
    monkeypatch.setattr(disk, "check_run", lambda trainer: None)
    monkeypatch.setattr(disk, "check_save", lambda trainer: None)
    with pytest.raises(UserError, match="the checkpoint of step 4 could not be written .*checkpoint-2 is whole"):
        train(tiny_recipe(world, folder / "a"))
    left = [path.name for path in (folder / "a" / "checkpoints").iterdir() if any(path.iterdir())]
    assert left == ["checkpoint-2"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    monkeypatch.undo()
    train(tiny_recipe(world, folder / "a"))
    assert losses(folder / "a") == losses(whole())


def test_a_disk_that_fills_up_under_the_final_model(world, whole, tmp_path, monkeypatch):
    from agenttuning.training import trainer

    run, save = tmp_path / "a", trainer.Trainer._save

    def full(self, output_dir=None, state_dict=None):
        if Path(output_dir).name == ".model.tmp":
            Path(output_dir, "model.safetensors").parent.mkdir(exist_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, output_dir, state_dict)

    monkeypatch.setattr(trainer.Trainer, "_save", full)
    with pytest.raises(UserError, match="the final model could not be written .*checkpoint-6 is whole"):
        train(tiny_recipe(world, run))
    assert not (run / "model").exists() and not (run / ".model.tmp").exists()
    monkeypatch.undo()
    train(tiny_recipe(world, run))
    assert losses(run) == losses(whole())
    assert (run / "model/model.safetensors").read_bytes() == (whole() / "model/model.safetensors").read_bytes()


def test_another_error_of_a_save_stays_what_it_is(tmp_path):
    for error in (RuntimeError("CUDA error"), ValueError("no space left")):
        assert not disk.is_full(error, tmp_path)
    assert disk.is_full(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path)
    assert disk.is_full(RuntimeError("basic_ios::clear: iostream error"), tmp_path)
