"""TRL's SFTTrainer with additions: it counts what it trains on, seals its checkpoints, stops on signals, knows
`optim: muon`, lays packed rows one below the other for an attention with a mask, and on a CPU computes the loss without
per-token statistics.

Rows come ready: input_ids, labels and `origin`, a list as long as them that holds the number of the row's source at
each supervised token and -1 elsewhere. Packing packs it along, so that tokens can be counted by source.
"""

import math
from collections.abc import Sequence
from typing import Any

from transformers import ProgressCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from agenttuning.chat import save_tokenizer
from agenttuning.errors import UserError
from agenttuning.recipe import Recipe
from agenttuning.training import optim, order, resume, sealing
from agenttuning.training.collate import Collator
from agenttuning.training.meter import Meter
from agenttuning.training.signals import StopOnSignal


class Trainer(SFTTrainer):
    """See the module's docstring. `seal`: what checkpoints.seal takes as `about`, without the loss; start: the
    checkpoint to go on from.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        sources: Sequence[str],
        seal: dict[str, Any],
        start: resume.Start | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.recipe, self.seal, self.start, self.meter = recipe, seal, start, Meter(sources)
        self.staging = None  # the folder that checkpoints are written into, while one is
        self.keep_best = recipe.values.get("metric_for_best_model") is not None
        self.stop = StopOnSignal(self.accelerator)
        # TRL takes no other collator while packing, so its own is wrapped rather than replaced
        masked = self.model.config._attn_implementation in ("sdpa", "eager")
        self.data_collator = Collator(self.data_collator, len(sources), apart=self.padding_free and masked)
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        for callback in (self.meter, sealing.Continue(self), self.stop):
            self.add_callback(callback)
        self.cheap_loss = self.args.device.type == "cpu" and not self.aux_loss_enabled and self.args.loss_type == "nll"

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "seq_lengths", "origin"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, summed over supervised tokens and divided by those of the whole step.

        On a CPU it is the model's own: TRL's head also computes entropy and accuracy of every token, which costs a tiny
        model a third of its speed. On a GPU it is TRL's, which never holds all logits.
        """
        inputs = {**inputs, "use_cache": False}
        counts = inputs.pop("counts", None)
        if self.padding_free and ("attention_mask" in inputs or "position_ids" not in inputs):
            # with a mask, or without positions, packed conversations would attend to each other
            raise RuntimeError("a packed batch must have position_ids and no attention_mask")
        if self.cheap_loss and not return_outputs:
            inputs = {key: inputs[key] for key in inputs if not key.startswith(("cu_seq", "max_length_", "seq_idx"))}
            loss = super(SFTTrainer, self).compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if counts is not None and self.model.training:
            self.meter.count(self.accelerator.reduce(counts).tolist())
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Called before each update: a gradient that is no number stops the run while the weights are still good. With
        fp16 it is a matter of course, and the scaler skips the step.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not self.args.fp16 and not math.isfinite(norm):
            raise UserError(
                f"the gradient of step {self.state.global_step + 1} is {float(norm)}; the update would destroy the "
                "weights; look at the rows of that step, or lower learning_rate; all checkpoints are from before it"
            )
        return norm

    def create_optimizer(self, model=None):
        if self.recipe.values.get("optim") != optim.NAME or self.optimizer is not None:
            return super().create_optimizer(model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UserError(
                "optim: muon orthogonalises whole matrices and has not been tested on sharded ones; it might train "
                "something else; use adamw_torch_fused, or launch.accelerate_config: ddp or single_gpu"
            )
        model = self.model if model is None else model
        self.optimizer = optim.build(model, self.get_decay_parameter_names(model), self.recipe.values)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.meter.figures(self.state.global_step))
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # training runs without a cache and says so in the config; whoever loads the model wants one
        self.accelerator.unwrap_model(self.model).config.use_cache = True
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # the Trainer saves the tokenizer under a class that only transformers 5 knows
            save_tokenizer(self.processing_class, output_dir or self.args.output_dir)

    def train(self, *arguments: Any, **named: Any):
        """Raises Stopped when a signal ended it early, after a save."""
        with self.stop:
            output = super().train(*arguments, **named)
        sealing.leave_if_stopped(self)
        return output

    def _run_epoch(self, **arguments: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # resumed after the last step, with the model still to be written: the loop would take one more
            self.control.should_training_stop = True
            return
        order.set_epoch(arguments["train_dataloader"], arguments["epoch"])
        super()._run_epoch(**arguments)

    def _get_train_sampler(self, train_dataset=None):
        return order.repeatable(super()._get_train_sampler(train_dataset), self.args)

    def _get_output_dir(self, trial) -> str:
        return str(self.staging) if self.staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        sealing.save(self, lambda: super(Trainer, self)._save_checkpoint(model, trial))

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        if checkpoint is None or resume.OPTIMIZER not in self._lost:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            resume.place_schedule(self.lr_scheduler, self.start.step)

    def _load_rng_state(self, checkpoint) -> None:
        if resume.RANDOM not in self._lost:
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint) -> None:
        if resume.SCALE not in self._lost:
            super()._load_scaler(checkpoint)

    @property
    def _lost(self) -> tuple[str, ...]:
        return self.start.lost if self.start else ()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes a card beside every checkpoint; ours is written once, from the record of the run."""

    def _send_telemetry(self) -> None:
        """TRL reports each run to the Hub; no service is contacted here unless a recipe asks for it."""
