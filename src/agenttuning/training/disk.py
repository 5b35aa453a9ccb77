"""Room on the disk: enough before the run and before each save, and what is said when it runs out all the same."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.training import adapters, checkpoints

if TYPE_CHECKING:
    from agenttuning.training.trainer import Trainer

# What torch 2.13, safetensors 0.8 and Rust say; only some of it arrives as an OSError with a number.
FULL = ("no space left", "disk quota exceeded", "file write failed", "iostream error", "unexpected pos")
SPARE = 1 << 20  # free bytes below which a failed write is put down to the disk


def estimate(trainer: Trainer) -> tuple[int, int]:
    """Bytes of one checkpoint and of the final model: 4 per weight in float32 and 8 per trained one for AdamW's two
    moments. Checkpoints of an adapter are without the model that it sits on; what the run ends with is the adapter and
    that model in the recipe's dtype. DeepSpeed, and FSDP with a full state dict, write the weights twice.
    """
    trained, total = adapters.counts(trainer.model)
    adapted = hasattr(trainer.model, "peft_config")
    weights = 4 * (trained if adapted else total)
    held = 4 if trainer.recipe.values.get("dtype") in (None, "float32") else 2
    model = weights + held * (total - trained) if adapted else weights
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    twice = trainer.is_deepspeed_enabled or "FULL" in str(getattr(plugin, "state_dict_type", ""))
    optimizer = 0 if trainer.args.save_only_model else 8 * trained
    return weights * (2 if twice else 1) + optimizer, model


def check_run(trainer: Trainer) -> None:
    """Raise UserError unless run_dir has room for all checkpoints that it will hold at once and for the final model."""
    run_dir, limit, state = trainer.recipe.run_dir, trainer.recipe.values.get("save_total_limit"), trainer.state
    one, model = estimate(trainer)
    there = checkpoints.sealed(run_dir)
    if there:
        one = checkpoints.bytes_of(there[0])
    every = state.save_steps if trainer.args.save_strategy == "steps" else state.max_steps
    saves = 0 if trainer.args.save_strategy == "no" else math.ceil((state.max_steps - state.global_step) / every)
    if limit and saves:  # the kept ones, the best and the one that is being written
        saves = min(saves, max(1, limit + trainer.keep_best + 1 - len(there)))
    free, needed = free_bytes(run_dir), saves * one + model
    if free < needed:
        raise UserError(
            f"{run_dir} has {size(free)} free, and this run will hold {saves} more checkpoints of {size(one)} at "
            f"once, and a model of {size(model)}: {size(needed)}; it would stop at a save, hours from now; make "
            f"room, save less (save_total_limit is {limit}, save_steps {every}), or take another --run-dir"
        )


def check_save(trainer: Trainer) -> None:
    """Raise UserError when the next checkpoint, as large as the last one, has no room."""
    run_dir, there = trainer.recipe.run_dir, checkpoints.sealed(trainer.recipe.run_dir)
    needed, free = checkpoints.bytes_of(there[0]) if there else estimate(trainer)[0], free_bytes(run_dir)
    if free < needed:
        raise UserError(
            f"{run_dir} has {size(free)} free, and the checkpoint of step {trainer.state.global_step} takes "
            f"{size(needed)}; it is not begun. {go_on(run_dir)}"
        )


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error of a save means that the disk, or the user's quota on it, is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    written = type(error).__name__ == "SafetensorError" or isinstance(error, RuntimeError | OSError)
    return written and (any(text in str(error).lower() for text in FULL) or free_bytes(folder) < SPARE)


def ran_out(trainer: Trainer, what: str, error: BaseException) -> UserError:
    """The error for a disk that filled up while `what` was written."""
    run_dir = trainer.recipe.run_dir
    return UserError(f"the disk of {run_dir} is full, {what} could not be written ({error}). {go_on(run_dir)}")


def go_on(run_dir: Path) -> str:
    """Which checkpoint is left, and what to do."""
    there = checkpoints.sealed(run_dir)
    left = f"{there[0]} is whole: make room and type the same command" if there else "No checkpoint was written yet"
    return f"{left}; or lower save_total_limit, which may change under a resume."


def free_bytes(folder: Path) -> int:
    """Free bytes on the file system of a folder that may not be there yet."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def size(count: int) -> str:
    """`84.2 GB`, in powers of 1000 as disks are sold."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
