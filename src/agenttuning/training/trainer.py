"""TRL's SFTTrainer with additions: it counts what it trains on, seals its checkpoints, stops on signals, knows
`optim: muon`, lays packed rows one below the other for an attention with a mask, and on a CPU computes the loss without
per-token statistics.

Rows come ready: input_ids, labels and `origin`, a list as long as them that holds the number of the row's source at
each supervised token and -1 elsewhere. Packing packs it along, so that tokens can be counted by source.
"""

from collections.abc import Sequence
from typing import Any

from transformers import ProgressCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from agenttuning.chat import save_tokenizer
from agenttuning.errors import UserError
from agenttuning.recipe import Recipe
from agenttuning.training import adapters, dropout, optim, order, resume, sealing
from agenttuning.training.collate import COUNTED, Collator, rows_lie_apart
from agenttuning.training.meter import Meter
from agenttuning.training.signals import StopOnSignal
from agenttuning.training.watch import Watch


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
        adapters.keep_float32(self.model)
        dropout.prepare(self, recipe)
        # TRL takes no other collator while packing, so its own is wrapped rather than replaced
        # what fills rows up would be counted among a router's tokens
        apart = self.padding_free and rows_lie_apart(self.model.config) and not self.aux_loss_enabled
        self.data_collator = Collator(self.data_collator, len(sources), apart)
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        for callback in (self.meter, sealing.Continue(self), self.stop):
            self.add_callback(callback)
        plain = not self.aux_loss_enabled and self.args.loss_type == "nll" and not self.args.label_smoothing_factor
        self.cheap_loss = self.args.device.type == "cpu" and plain
        self.watch = Watch(self)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "seq_lengths", "origin", "row"]

    def model_inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model is called with for a batch of the collator; training/probe.py calls its own with the same."""
        if self.padding_free and ("attention_mask" in batch or "position_ids" not in batch):
            raise UserError(
                "a packed batch must have position_ids and no attention_mask; no boundaries would be built and "
                "conversations would attend to each other; install the TRL of constraints.txt, or set packing: false"
            )
        return {**{key: value for key, value in batch.items() if key not in COUNTED}, "use_cache": False}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, summed over supervised tokens and divided by those of the whole step.

        On a CPU it is the model's own: TRL's head also computes entropy and accuracy of every token, which costs a tiny
        model a third of its speed. On a GPU it is TRL's, which never holds all logits.
        """
        counted = {key: inputs.get(key) for key in COUNTED}
        inputs = self.model_inputs(inputs)
        if self.cheap_loss and not return_outputs:
            loss = super(SFTTrainer, self).compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            self.watch.add(**counted)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Called before each update, so that a run that has diverged ends while the weights are still good. DeepSpeed
        has updated by now, though never by a gradient that is no number (it says inf); nothing is saved after it.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.close(norm)
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
