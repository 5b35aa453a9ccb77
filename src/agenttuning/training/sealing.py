"""How the Trainer saves a checkpoint here: beside the others under another name, sealed, renamed; then old ones go."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from agenttuning.errors import Stopped
from agenttuning.training import checkpoints, disk
from agenttuning.training.together import on_main

if TYPE_CHECKING:
    from agenttuning.training.trainer import Trainer

CARRIED = "carried.json"


def save(trainer: Trainer, write: Callable[[], None]) -> None:
    """Save a checkpoint of `trainer`, whose `write` writes files into trainer.staging. Called by all processes, on one
    file system. Raises UserError, naming the last good checkpoint, when there is no room or the disk fills up.
    """
    run_dir, step, begun = trainer.recipe.run_dir, trainer.state.global_step, time.perf_counter()
    on_main(trainer.args, lambda: disk.check_save(trainer))
    trainer.staging = checkpoints.staging(run_dir)
    staged, folder = trainer.staging / f"checkpoint-{step}", run_dir / "checkpoints" / f"checkpoint-{step}"
    try:
        write()
        carried = _carried(trainer)
        trainer.accelerator.wait_for_everyone()  # every process writes its own random state, and shards
        if trainer.is_world_process_zero():
            (staged / CARRIED).write_text(json.dumps(carried), encoding="utf-8")
            about = {**trainer.seal, "loss": recent_loss(trainer)}
            checkpoints.seal(staged, step, trainer.recipe, trainer.args.world_size, about)
            checkpoints.publish(staged, folder)
            checkpoints.rotate(run_dir, trainer.recipe.values.get("save_total_limit"), trainer.keep_best)
            with contextlib.suppress(OSError):  # NFS keeps files that are open elsewhere; the next start sweeps
                trainer.staging.rmdir()
            print(_line(trainer, folder, about["loss"], time.perf_counter() - begun), flush=True)
    except Exception as error:
        # no barrier: the other processes may wait in one of the save's own, and end with this one
        if disk.is_full(error, run_dir):
            shutil.rmtree(staged, ignore_errors=True)
            raise disk.ran_out(trainer, f"the checkpoint of step {step}", error) from error
        raise
    finally:
        trainer.staging = None
    trainer.accelerator.wait_for_everyone()  # a process that leaves earlier would take the others with it


def recent_loss(trainer: Trainer) -> dict[str, Any] | None:
    """What `best` compares: {"mean", "steps": [first, last]}, the mean training loss of the last save_steps steps as it
    was logged, None where none was. It is the loss on rows that are being learned, not on held-out ones.
    """
    state = trainer.state
    by_steps = trainer.args.save_strategy == "steps"
    window = state.save_steps if by_steps else state.max_steps // max(1, state.num_train_epochs)
    logged = [entry for entry in state.log_history if "loss" in entry]
    starts = [0, *(entry["step"] for entry in logged)]
    recent = [place for place, entry in enumerate(logged) if entry["step"] > state.global_step - window]
    if not recent:
        return None
    first, last = starts[recent[0]], logged[-1]["step"]
    # each line is the mean of the steps since the line before
    total = sum(logged[place]["loss"] * (logged[place]["step"] - starts[place]) for place in recent)
    return {"mean": total / (last - first), "steps": [first + 1, last]}


def _line(trainer: Trainer, folder: Any, loss: dict[str, Any] | None, seconds: float) -> str:
    line = f"saved {folder}: {disk.size(checkpoints.bytes_of(folder))} in {seconds:.1f} s"
    if loss is None or not trainer.keep_best:
        return line
    best = checkpoints.best(trainer.recipe.run_dir)
    steps = f"steps {loss['steps'][0]} to {loss['steps'][1]}"
    lowest = "the lowest so far" if best == folder else f"{best.name} is still the best"
    return f"{line}; training loss {loss['mean']:.4f} over {steps}, {lowest}"


def _carried(trainer: Trainer) -> dict[str, float]:
    """The part of a log line that has not been logged yet, which the Trainer forgets in a resume."""
    loss = trainer.accelerator.reduce(trainer._tr_loss.detach().clone(), "mean")
    return {"loss": loss.item(), "logged": trainer._globalstep_last_logged}


class Continue(TrainerCallback):
    """Before the first step: what a resume must not forget, and room on the disk."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        state.compute_steps(args, state.max_steps)  # trainer_state.json holds those of the run that saved it
        carried = trainer.start.folder / CARRIED if trainer.start else None
        if carried is not None and carried.is_file():
            content = json.loads(carried.read_text(encoding="utf-8"))
            trainer._tr_loss += content["loss"]
            trainer._globalstep_last_logged = content["logged"]
        on_main(args, lambda: disk.check_run(trainer))


def leave_if_stopped(trainer: Trainer) -> None:
    """Raise Stopped when a signal ended the training early; the main process says how to go on."""
    if trainer.stop.asked is None or trainer.state.global_step >= trainer.state.max_steps:
        return
    name, step = signal.Signals(trainer.stop.asked).name, trainer.state.global_step
    if trainer.is_world_process_zero():
        folder = trainer.recipe.run_dir / "checkpoints" / f"checkpoint-{step}"
        at = f"step {step}/{trainer.state.max_steps}"
        print(f"stopped by {name} at {at}; the same command goes on from {folder}", flush=True)
    raise Stopped(trainer.stop.asked)
