"""Weights that are read one tensor at a time, however a checkpoint stores them."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.export.source import FSDP

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """shapes: {name: shape}; read(name): that tensor, on the CPU, as it was stored. in_memory: whether the names are
    those of the model's own state dict, rather than those that save_pretrained gives (experts are stored one by one).
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    in_memory: bool


def open_weights(folder: Path, kind: str) -> Weights:
    """The weights of a source (Source.kind without adapter). Raises UserError for what cannot be read."""
    return {"safetensors": from_safetensors, "fsdp2": from_fsdp, "zero3": from_zero}[kind](folder)


def from_safetensors(folder: Path) -> Weights:
    """model.safetensors, or the files that its index names."""
    from safetensors import SafetensorError, safe_open

    files, shapes = {}, {}
    for path in _files(folder):
        try:
            with safe_open(path, "pt") as content:
                for name in content.keys():  # noqa: SIM118 (not a mapping)
                    files[name], shapes[name] = path, tuple(content.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); the model would lack its tensors; restore the file, or export "
                "another checkpoint"
            ) from error

    def read(name: str) -> torch.Tensor:
        # opened anew each time: pages of a file that stays open would count as this process's memory
        with safe_open(files[name], "pt") as content:
            return content.get_tensor(name)

    return Weights(shapes, read, in_memory=False)


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / "model.safetensors"]
    return sorted({folder / name for name in json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()})


def from_fsdp(folder: Path) -> Weights:
    """A sharded FSDP checkpoint of accelerate, through torch.distributed.checkpoint. Its .metadata is a pickle: from
    a run that you trust.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    path, prefix = folder / FSDP, "model."
    entries = checkpoint.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = {
        key.removeprefix(prefix): entry
        for key, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata) and key.startswith(prefix)
    }

    def read(name: str) -> torch.Tensor:
        import torch

        tensor = torch.empty(tensors[name].size, dtype=tensors[name].properties.dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no process group is there, which no_dist=True says
                reader = checkpoint.FileSystemReader(path)
                checkpoint.load({prefix + name: tensor}, storage_reader=reader, no_dist=True)
        except (checkpoint.api.CheckpointException, OSError, RuntimeError) as error:
            raise UserError(
                f"{name} cannot be read from {path}: {_last_line(error)}; the model would lack it; restore the files, "
                "or export another checkpoint"
            ) from error
        return tensor

    return Weights({name: tuple(entry.size) for name, entry in tensors.items()}, read, in_memory=True)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def from_zero(folder: Path) -> Weights:
    """A ZeRO checkpoint: the float32 master weights, through DeepSpeed's own zero_to_fp32 in its lazy mode, which maps
    the files. They are pickles: from a run that you trust.
    """
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise UserError(
            f"{folder} is a ZeRO checkpoint, which only DeepSpeed can read, and it is not installed here; install it: "
            "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed (no GPU or compiler is needed for that)"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints counts of parameters
        lazy = get_fp32_state_dict_from_zero_checkpoint(str(folder), lazy_mode=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in lazy.items()}
    return Weights(shapes, lambda name: lazy[name].contiguous(), in_memory=True)
