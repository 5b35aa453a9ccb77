"""The finished model in run_dir/model: written whole or not at all, and looked at before it counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import encode, load_tokenizer, template_record
from agenttuning.data.folders import swap
from agenttuning.errors import UserError
from agenttuning.training import checkpoints, disk, merging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.training.trainer import Trainer

PROBE = [
    {"role": "user", "content": "Open the drawer.\n  It holds a </s> and a café."},
    {"role": "assistant", "content": "Thought: I look.\nAction: open drawer 1", "loss": True},
]


def save_model(trainer: Trainer, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write run_dir/model whole or not at all: full weights, config, tokenizer. Called by all processes."""
    folder = trainer.recipe.run_dir / "model"
    partial = folder.with_name(".model.tmp")
    if trainer.args.should_save:
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    try:
        _save(trainer, tokenizer, partial, folder)
    except Exception as error:
        if disk.is_full(error, trainer.recipe.run_dir):
            shutil.rmtree(partial, ignore_errors=True)
            raise disk.ran_out(trainer, "the final model", error) from error
        raise
    trainer.accelerator.wait_for_everyone()
    return folder


def _save(trainer: Trainer, tokenizer: PreTrainedTokenizerFast, partial: Path, folder: Path) -> None:
    if trainer.is_fsdp_enabled:
        # with a sharded state dict, Trainer.save_model writes nothing and says nothing
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    merging.save(trainer, partial)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle with this machine's paths
        check_saved(partial, tokenizer)
        for path in partial.rglob("*"):
            checkpoints.sync(path)
        # a kill between its two renames leaves no model under the name, and all of it in the last checkpoint
        swap(partial, folder, "config.json", "adapter_config.json", what="a model")
        checkpoints.sync(folder.parent)


def check_saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise UserError unless weights, config and template are there and the tokenizer gives the same ids again."""
    absent = [name for name in ("config.json", "tokenizer.json", "chat_template.jinja") if not (folder / name).exists()]
    if not any(path.stat().st_size for path in folder.glob("*.safetensors")):
        absent.append("weights")
    if absent:
        raise UserError(f"{folder} was saved without {', '.join(absent)}; it cannot be used; a checkpoint still can")
    again = load_tokenizer(folder)
    if encode(PROBE, again) != encode(PROBE, tokenizer) or template_record(again) != template_record(tokenizer):
        raise UserError(f"{folder}: its tokenizer gives other ids than the one trained with; do not use this model")
