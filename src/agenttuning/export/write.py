"""Safetensors files written a tensor at a time: the library's own writer wants a whole file (50 GB) in memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.export.readers import INDEX

if TYPE_CHECKING:
    import torch


def default_shard_size() -> str:
    """What transformers splits at."""
    import inspect

    from transformers import PreTrainedModel

    return inspect.signature(PreTrainedModel.save_pretrained).parameters["max_shard_size"].default


def check_size(text: str) -> str:
    """The text of a shard size. Raises UserError unless huggingface_hub can read it."""
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]?B", text, re.IGNORECASE):
        raise UserError(f"--max-shard-size {text} is no size; write a number and a unit, such as 5GB or 500MB")
    return text.upper()


def write_shards(
    folder: Path,
    specs: dict[str, torch.Tensor],
    read: Callable[[str], torch.Tensor],
    max_shard_size: str,
) -> dict[str, str]:
    """Write model*.safetensors, and the index where there are several, as save_pretrained names and splits them.

    specs: meta tensors in the order to write; read(name) gives the tensor with that shape and dtype. Returns {file:
    sha256}. Raises OSError, and UserError for a tensor that is not finite.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(specs, max_shard_size=max_shard_size)
    digests = {
        file: _write(folder / file, {name: specs[name] for name in names}, read)
        for file, names in split.filename_to_tensors.items()
    }
    if split.is_sharded:
        parameters = sum(spec.numel() for spec in specs.values())
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / INDEX).write_text(text, encoding="utf-8")
    return digests


def _write(path: Path, specs: dict[str, torch.Tensor], read: Callable[[str], torch.Tensor]) -> str:
    """One file in the format of github.com/huggingface/safetensors: length of the header, header, data."""
    import torch

    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, spec in specs.items():
        end = place + spec.numel() * spec.element_size()
        header[name] = {"dtype": _dtype(spec.dtype), "shape": list(spec.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for name, spec in specs.items():
            tensor = read(name).contiguous()
            if tensor.shape != spec.shape or tensor.dtype != spec.dtype:
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} where {spec} was announced")
            # the extremes, because isfinite() of the tensor would take its memory twice over
            if tensor.is_floating_point() and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
                raise UserError(
                    f"{name} holds values that are no numbers; the model would answer with nothing; the training "
                    "diverged or the file is damaged: export an earlier checkpoint (--checkpoint PATH)"
                )
            data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _dtype(dtype: torch.dtype) -> str:
    """The format's name of a dtype."""
    import torch

    return {
        torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
        torch.uint8: "U8", torch.bool: "BOOL",
    }[dtype]  # fmt: skip
