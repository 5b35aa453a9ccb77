"""TRL's SFTTrainer with additions: it counts what it trains on, seals its checkpoints, knows `optim: muon`, lays packed
rows one below the other for an attention with a mask, and on a CPU computes the loss without per-token statistics.

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
from agenttuning.training import checkpoints, optim
from agenttuning.training.collate import COUNTED, Collator
from agenttuning.training.meter import Meter
from agenttuning.training.watch import Watch


class Trainer(SFTTrainer):
    """See the module's docstring. `seal`: data_key and versions for the manifests of checkpoints.seal."""

    def __init__(self, *, recipe: Recipe, sources: Sequence[str], seal: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.recipe, self.seal, self.meter = recipe, seal, Meter(sources)
        # TRL takes no other collator while packing, so its own is wrapped rather than replaced
        masked = self.model.config._attn_implementation in ("sdpa", "eager")
        self.data_collator = Collator(self.data_collator, len(sources), apart=self.padding_free and masked)
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.add_callback(self.meter)
        plain = not self.aux_loss_enabled and self.args.loss_type == "nll" and not self.args.label_smoothing_factor
        self.cheap_loss = self.args.device.type == "cpu" and plain
        self.watch = Watch(self)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "seq_lengths", "origin", "row"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of one micro-batch, summed over supervised tokens and divided by those of the whole step.

        On a CPU it is the model's own: TRL's head also computes entropy and accuracy of every token, which costs a tiny
        model a third of its speed. On a GPU it is TRL's, which never holds all logits.
        """
        inputs = {**inputs, "use_cache": False}
        counted = {key: inputs.pop(key, None) for key in COUNTED}
        if self.padding_free and ("attention_mask" in inputs or "position_ids" not in inputs):
            # with a mask, or without positions, packed conversations would attend to each other
            raise RuntimeError("a packed batch must have position_ids and no attention_mask")
        if self.cheap_loss and not return_outputs:
            inputs = {key: inputs[key] for key in inputs if not key.startswith(("cu_seq", "max_length_", "seq_idx"))}
            loss = super(SFTTrainer, self).compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            self.watch.add(**counted)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Called before each update, so that a run that has diverged ends while the weights are still good."""
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

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes its own random state
        if self.args.should_save:
            run_dir, step = self.recipe.run_dir, self.state.global_step
            folder = run_dir / "checkpoints" / f"checkpoint-{step}"
            checkpoints.seal(folder, step, self.recipe, processes=self.args.world_size, **self.seal)
            checkpoints.rotate(run_dir, self.recipe.values.get("save_total_limit"))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes a card beside every checkpoint; ours is written once, from the record of the run."""

    def _send_telemetry(self) -> None:
        """TRL reports each run to the Hub; no service is contacted here unless a recipe asks for it."""
