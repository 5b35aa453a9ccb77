"""LoRA adapters: merged into their base, or alone as PEFT wants them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning import model_size
from agenttuning.errors import UserError
from agenttuning.export.readers import Weights
from agenttuning.report.templating import public_name
from agenttuning.training import merging

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from agenttuning.recipe import Recipe

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def merged(recipe: Recipe, folder: Path) -> Weights:
    """The base with the adapter merged in, as `train` leaves it in run_dir/model. Takes the base's memory in the
    recipe's dtype. Raises UserError where the adapter does not fit.
    """
    get = recipe.values.get
    model = merging.merge(folder, get("model_name_or_path"), get("model_revision"), get("dtype") or "float32")
    tensors = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Weights(shapes, tensors.__getitem__, in_memory=True)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter. Raises UserError where there are none, or one is not finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}/{WEIGHTS} cannot be read ({error}); there is no adapter to publish; export another checkpoint"
        ) from error
    wrong = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    if wrong or not found:
        raise UserError(
            f"{folder}/{WEIGHTS} holds {f'no numbers in {wrong[0]}' if wrong else 'no tensor'}; the training diverged "
            "or the file is damaged: export an earlier checkpoint (--checkpoint PATH)"
        )
    return found


def write(partial: Path, found: dict[str, torch.Tensor], folder: Path, recipe: Recipe) -> dict[str, str]:
    """Write weights and config, which names the base as the recipe does, without a path. Returns {file: sha256}."""
    from safetensors.torch import save_file

    save_file(found, partial / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    name = recipe.values["model_name_or_path"]
    config["base_model_name_or_path"] = public_name(name)
    config["revision"] = None if model_size.is_local(name) else recipe.values.get("model_revision")
    config["inference_mode"] = True
    (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {WEIGHTS: hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()}


def compare(partial: Path, folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError unless the tensors equal the source's and PEFT finds in the base a place for each of them."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    written, wanted = tensors(partial), tensors(folder)
    if written.keys() != wanted.keys() or not all(torch.equal(written[name], wanted[name]) for name in wanted):
        raise UserError(f"{partial / WEIGHTS} was read back other than it was written; look at the disk, export again")
    config = PeftConfig.from_pretrained(str(partial))
    config.base_model_name_or_path = None  # the model is here, without weights
    asked = get_peft_model_state_dict(get_peft_model(model, config, low_cpu_mem_usage=True))
    if odd := sorted(asked.keys() ^ written.keys()):
        raise UserError(
            f"the adapter and the base model do not fit: {odd[0]} stands in one of them alone; PEFT would leave it out "
            "in silence; check that it belongs to this recipe's model"
        )
