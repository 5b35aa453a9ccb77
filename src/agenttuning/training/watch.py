"""Looks at every step before its update: losses by source for the log, and an end to the run when it has diverged.

A run has diverged when the loss or the gradient of a step is no number, when nothing in it was supervised, or when the
loss has jumped and stays up (`Spikes`). Each is found before the update, by all processes at once, and told with the
step, its rows and the conversations in them. Nothing is saved from then on.
"""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from agenttuning.errors import UserError
from agenttuning.training import culprits, mfu, token_losses

if TYPE_CHECKING:
    from agenttuning.training.trainer import Trainer

# what to do about it
EMPTY = "Draw a source with more supervised tokens, or raise launch.global_batch, so that every step has some"
BROKEN = "Look at those rows; if they are as they should be, lower learning_rate or lengthen warmup_steps"
JUMPED = BROKEN + ", or say what jump you expect in launch.max_loss_spike (null: any)"


class Spikes(TrainerCallback, ExportableState):
    """Whether the loss has jumped: STEPS steps in a row above the lowest median of WINDOW steps so far by more than
    `limit` (launch.max_loss_spike, nats per supervised token; None looks at nothing) and by more than DEVIATIONS robust
    standard deviations of a step (1.4826 / sqrt(2) x the median change from one to the next, whatever the trend).

    One nat is a perplexity 2.7 times as high. The noisiest healthy run at hand, the miniature's base model (3 and 6
    short rows a step, Muon at 0.01), never rose by more than 0.36 in a single step of 611; a batch of 64 x 4,096 tokens
    is steadier. Three steps, so that a batch of odd rows passes. The lowest median, rather than the last one, also sees
    a slow climb. A checkpoint due while the loss is up is put off until it has come down again.
    """

    WINDOW, LEAST, STEPS, DEVIATIONS = 50, 20, 3, 10.0

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.recent: list[float] = []  # losses of the last steps that were not up
        self.lowest: float | None = None
        self.up: list[int] = []  # the steps up to now whose loss is up
        self.put_off = False

    def state(self) -> dict[str, Any]:
        kept = {"recent": self.recent, "lowest": self.lowest, "up": self.up, "put_off": self.put_off}
        return {"args": {"limit": self.limit}, "attributes": kept}

    def see(self, step: int, loss: float) -> str | None:
        """Take in the loss of a step; what is wrong, in words, when the run has diverged with it."""
        if self.limit is None:
            return None
        if len(self.recent) >= self.LEAST:
            middle = statistics.median(self.recent)
            self.lowest = middle if self.lowest is None else min(self.lowest, middle)
            changes = [abs(now - then) for then, now in pairwise(self.recent)]
            spread = 1.4826 * statistics.median(changes) / math.sqrt(2)
            if loss > self.lowest + max(self.limit, self.DEVIATIONS * spread):
                self.up.append(step)
                if len(self.up) < self.STEPS:
                    return None
                return (
                    f"the loss of step {step} is {loss:.4f}, up from {self.lowest:.4f} (the lowest median of "
                    f"{len(self.recent)} steps) since step {self.up[0]}"
                )
        self.up = []
        self.recent = [*self.recent, loss][-self.WINDOW :]
        return None

    def on_train_begin(self, args, state, control, **kwargs):
        for name, value in state.stateful_callbacks.get("Spikes", {}).get("attributes", {}).items():
            setattr(self, name, value)

    def on_step_end(self, args, state, control, **kwargs):
        if self.up and control.should_save and not control.should_training_stop:
            self.put_off, control.should_save = True, False
            if state.is_world_process_zero:
                print(f"step {state.global_step}: no checkpoint yet, the loss is up", flush=True)
        elif self.put_off and not self.up:
            self.put_off, control.should_save = False, True


class Watch:
    """Adds up the micro-batches of a step, on the device; one sum over all processes a step, before its update."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.spikes = trainer, Spikes(trainer.recipe.launch.max_loss_spike)
        self.losses: torch.Tensor | None = None  # of the micro-batch whose forward has just been
        self.sums: torch.Tensor | None = None
        self.rows: list[tuple[list[list[int]], torch.Tensor]] = []  # rows of the step's micro-batches and their losses
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if trainer.cheap_loss:
            token_losses.keep_own(model, self.keep)
        else:
            token_losses.keep_fused(model, self.keep, trainer.args.loss_type)
        trainer.add_callback(self.spikes)
        gpu = torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else None
        trainer.meter.work = mfu.work(model)
        trainer.meter.peak, self.mfu = mfu.peak(trainer.recipe, gpu, trainer.args.world_size)

    def keep(self, losses: torch.Tensor) -> None:
        """Losses as token_losses hands them over."""
        self.losses = losses

    def add(self, counts: torch.Tensor, origin: torch.Tensor, rows: list[list[int]]) -> None:
        """After the forward of a micro-batch: what training.collate.Collator counted of it."""
        losses, origin = self.losses, origin[:, 1:]
        if losses is None or losses.shape != origin.shape:
            seen = None if losses is None else tuple(losses.shape)
            raise RuntimeError(f"losses of {seen} tokens for a batch of {tuple(origin.shape)} cannot be told apart")
        # where, not a product: what is no number in one source is not the others'
        numbers = range(len(counts) - 2)
        by_source = [torch.where(origin == number, losses, 0).sum(dtype=torch.float64) for number in numbers]
        # one more place: whether this process saw a gradient that is no number
        sums = torch.cat([counts.to(torch.float64), torch.stack(by_source), counts.new_zeros(1, dtype=torch.float64)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.rows.append((rows, losses))
        self.losses = None

    def close(self, norm: torch.Tensor | float | None) -> None:
        """Before the update: the step's counts go to the meter. Raises UserError when the run has diverged. norm: of
        the gradient; with fp16 one that is no number is a matter of course, and the scaler skips the step.
        """
        trainer, step = self.trainer, self.trainer.state.global_step + 1
        if norm is not None and not trainer.args.fp16 and not math.isfinite(norm):
            self.sums[-1] += 1
        # every process decides by the same numbers, so that none is left waiting for another
        tokens, attended, *sums, broken = trainer.accelerator.reduce(self.sums).tolist()
        supervised, losses = sums[: len(sums) // 2], sums[len(sums) // 2 :]
        trainer.meter.count(int(tokens), int(attended), list(map(int, supervised)), losses)
        loss = sum(losses) / max(1.0, sum(supervised))
        if not sum(supervised):
            wrong = culprits.Wrong(f"step {step} holds no supervised token; no loss would guide its update", EMPTY)
        elif not math.isfinite(loss):
            wrong = culprits.Wrong(f"the loss of step {step} is {loss}; the update would destroy the weights", BROKEN)
        elif broken:
            what = f"the gradient of step {step} is {float(norm)}; the update would destroy the weights"
            wrong = culprits.Wrong(what, BROKEN)
        elif up := self.spikes.see(step, loss):
            wrong = culprits.Wrong(f"{up}; it would hardly come back by itself", JUMPED)
        else:
            self.sums, self.rows = None, []
            return
        raise UserError(self.report(step, wrong))

    def report(self, step: int, wrong: culprits.Wrong) -> str:
        """The message, the same in every process; the main one writes run_dir/diverged.json first."""
        from accelerate.utils import broadcast_object_list, gather_object

        trainer = self.trainer
        own = [row for rows, losses in self.rows for row in culprits.by_row(rows, losses.float().cpu())]
        rows = gather_object(own) if trainer.args.world_size > 1 else own
        told: list[Any] = [None]
        if trainer.args.process_index == 0:
            # the weights before the first step that was up gave its loss: they are not known to be good
            newest = min(self.spikes.up) - 2 if self.spikes.up else step - 1
            told = [culprits.report(trainer.recipe.run_dir, step, wrong, rows, trainer.train_dataset, newest)]
        if trainer.args.world_size > 1:
            broadcast_object_list(told)  # the others wait: a process that ends first takes the main one with it
        return told[0]
