"""Which tensors an exported model has, under which names, and where each comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from agenttuning.export.readers import Weights


@dataclass(frozen=True)
class Layout:
    """specs: {name on the Hub: meta tensor}, in the order to write; read(name): that tensor in its dtype; source(name):
    a tensor of the model in memory as the checkpoint holds it, or None where only a loader can put it together.
    """

    specs: dict[str, torch.Tensor]
    read: Callable[[str], torch.Tensor]
    source: Callable[[str], torch.Tensor] | None


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a config without weights (they are on the meta device), in float32, with its buffers."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype="float32", attn_implementation="sdpa").eval()
    model.tie_weights()  # each weight was moved on its own
    return model


def lay_out(model: PreTrainedModel, weights: Weights) -> Layout:
    """Compare the weights with what the model needs. Raises UserError for tensors too few, too many or of another
    shape, and for tied ones that differ.

    Floating point becomes bfloat16, but for what the model's class insists to keep in float32.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    whole = model.state_dict()
    memory = remove_tied_weights_from_state_dict(dict(whole), model)
    saved = revert_weight_conversion(model, dict(memory))
    tied = _tied(model, whole.keys() - memory.keys())
    wanted = memory if weights.in_memory else saved
    place = _match(wanted, weights, tied)

    keep = [re.compile(name) for name in model._keep_in_fp32_modules_strict or ()]

    def cast(name: str, tensor: torch.Tensor) -> torch.Tensor:
        exact = any(pattern.search(name) for pattern in keep) or not tensor.is_floating_point()
        return tensor if exact and tensor.dtype != torch.float64 else tensor.to(torch.bfloat16)

    specs = {name: cast(name, tensor.to("meta")) for name, tensor in saved.items()}
    if not weights.in_memory:
        plain = memory.keys() <= saved.keys()  # no expert is stored in parts
        read = _alias(place, tied, weights.read)
        return Layout(specs, lambda name: cast(name, weights.read(place[name])), read if plain else None)

    origin = {part: name for name in memory for part in revert_weight_conversion(model, {name: memory[name]})}
    if origin.keys() != saved.keys():
        raise UserError(
            f"the weights of {type(model).__name__} are put together from several tensors when they are stored, which "
            "an export one tensor at a time cannot do; export run_dir/model, or a checkpoint with model.safetensors"
        )
    last: dict[str, Any] = {}  # an expert's tensor gives many; they are written one after the other

    def read_part(name: str) -> torch.Tensor:
        if last.get("name") != origin[name]:
            last.clear()
            tensor = weights.read(place[origin[name]])
            last.update(name=origin[name], parts=revert_weight_conversion(model, {origin[name]: tensor}))
        return cast(name, last["parts"][name])

    return Layout(specs, read_part, _alias(place, tied, weights.read))


def _tied(model: PreTrainedModel, names: set[str]) -> dict[str, str]:
    """{tied name: the name it is stored under}."""
    stated = dict(getattr(model, "all_tied_weights_keys", None) or {})
    pairs = {**{second: first for first, second in stated.items()}, **stated}
    return {name: pairs[name] for name in names}


def _match(wanted: dict[str, torch.Tensor], weights: Weights, tied: dict[str, str]) -> dict[str, str]:
    """{wanted name: name in the checkpoint}."""
    import torch

    if any(".lora_" in name for name in weights.shapes):
        raise UserError(
            "these are the shards of an adapter, which are not put together here; let the run end and export its "
            "model or (--adapter) its adapter, or checkpoint with fsdp_state_dict_type: FULL_STATE_DICT"
        )
    place = {name: name for name in wanted if name in weights.shapes}
    for name, stored in tied.items():
        if name in weights.shapes and stored not in weights.shapes:
            place[stored] = name
        elif name in weights.shapes and not torch.equal(weights.read(name), weights.read(stored)):
            raise UserError(
                f"the config ties {name} to {stored}, and the checkpoint holds two different tensors; one of them "
                "would be lost; check tie_word_embeddings of the base model"
            )
    missing = sorted(wanted.keys() - place.keys())
    unknown = sorted(weights.shapes.keys() - set(place.values()) - tied.keys())
    shaped = [name for name in sorted(place) if tuple(wanted[name].shape) != weights.shapes[place[name]]]
    for what, names in (("lacks", missing), ("has, unknown to the model,", unknown), ("has in another shape", shaped)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"the checkpoint {what} {', '.join(names[:3])}{more}; a loader would fill in random numbers or drop "
                "what was trained; check that it belongs to this recipe's model"
            )
    return place


def _alias(
    place: dict[str, str], tied: dict[str, str], read: Callable[[str], torch.Tensor]
) -> Callable[[str], torch.Tensor]:
    return lambda name: read(place[tied.get(name, name)])
