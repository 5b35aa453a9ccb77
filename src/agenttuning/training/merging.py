"""What an adapted run leaves: run_dir/adapter, what was trained, and the base with it merged in."""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import save_tokenizer
from agenttuning.data.folders import swap
from agenttuning.errors import UserError
from agenttuning.training.adapters import counts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from agenttuning.training.trainer import Trainer


def merge(
    adapter: str | Path, base: str | Path, revision: str | None = None, dtype: torch.dtype | str = "float32"
) -> PreTrainedModel:
    """The model `base` at `revision`, loaded in `dtype` on the CPU, with the adapter of folder `adapter` merged in.

    Weights are added in float32 one layer at a time and rounded to `dtype` once, so that it takes the memory of the
    base in `dtype` (70B in bfloat16: 138 GB of RAM). A quantised base is not de-quantised: the original weights are
    loaded, as for any other adapter. Raises UserError when the adapter does not fit the base or holds no number.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = AutoModelForCausalLM.from_pretrained(
        base, revision=revision or "main", dtype=dtype, trust_remote_code=False
    )
    held = {name: weight.dtype for name, weight in model.named_parameters()}
    try:
        model = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
        with torch.no_grad():
            for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
                inner = layer.get_base_layer()
                own = {name: weight.dtype for name, weight in inner.named_parameters(recurse=False)}
                for name in own:
                    getattr(inner, name).data = getattr(inner, name).data.float()
                layer.merge(safe_merge=True)
                for name, before in own.items():
                    getattr(inner, name).data = getattr(inner, name).data.to(before)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"the adapter {adapter} cannot be merged into {base}: {error}; the result would be another model; was it "
            "trained on this base?"
        ) from error
    merged = model.base_model.unload()
    for name, weight in merged.named_parameters():  # whole layers of lora_modules_to_save come as float32
        weight.data = weight.data.to(held[name])
    return merged


def save(trainer: Trainer, folder: Path) -> None:
    """Write the trained model to `folder`, whole and in the recipe's dtype. Called by all processes.

    Of an adapted run, run_dir/adapter is written first, and `folder` gets the base with it merged in; the main process
    does that on its own, in the memory that `merge` needs.
    """
    recipe = trainer.recipe
    if not recipe.values.get("use_peft"):
        trainer.save_model(str(folder))
        return
    adapter, unfinished = recipe.run_dir / "adapter", recipe.run_dir / ".adapter.tmp"
    if trainer.args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(unfinished))
    trainer.accelerator.wait_for_everyone()
    if not trainer.args.should_save:
        return
    for name in ("training_args.bin", "README.md"):  # a pickle with this machine's paths, and a card of blanks
        (unfinished / name).unlink(missing_ok=True)
    saved, trained = _saved_parameters(unfinished), counts(trainer.model)[0]
    if saved != trained:
        raise UserError(
            f"{unfinished} was saved with {saved:,} of the {trained:,} parameters that were trained; merged, it would "
            "be another model; the checkpoints may lack them, too: look before you use them"
        )
    swap(unfinished, adapter, "adapter_config.json", what="an adapter")
    if trainer.is_deepspeed_enabled:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # from_pretrained would wait for the other processes to load their shards
    get, model = recipe.values.get, trainer.accelerator.unwrap_model(trainer.model)
    merged = merge(adapter, get("model_name_or_path"), get("model_revision"), get("dtype") or "float32")
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the Trainer aligned these with the tokenizer
        setattr(merged.config, token, getattr(model.config, token, None))
    merged.generation_config, merged.config.use_cache = model.generation_config, True
    merged.save_pretrained(str(folder))
    save_tokenizer(trainer.processing_class, folder)


def _saved_parameters(folder: Path) -> int:
    from safetensors import safe_open

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as content:
        return sum(prod(content.get_slice(name).get_shape()) for name in content.keys())  # noqa: SIM118 - no mapping
