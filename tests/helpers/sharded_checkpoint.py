"""Real sharded checkpoints, made by two processes over gloo: `make("fsdp2", {model folder: checkpoint folder})`.

The weights are those of the model times FACTOR, so that a reader that takes the model's own is found out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FACTOR = 1.5
TESTS = Path(__file__).resolve().parents[1]


def make(kind: str, places: dict[Path, Path]) -> None:
    """Write a checkpoint of each model. kind: fsdp2 or zero3."""
    words = [f"{model}={out}" for model, out in places.items()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*launch, "-m", "helpers.sharded_checkpoint", kind, *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


def fsdp2(places: dict[str, str]) -> None:
    """As accelerate's launcher would, but on CPUs, where it falls back to DDP in silence."""
    import torch
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, save_fsdp_model
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForCausalLM

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="SHARDED_STATE_DICT",
        activation_checkpointing=True,  # wraps each layer, and its name
    )
    accelerator = Accelerator(fsdp_plugin=plugin)
    assert accelerator.distributed_type == DistributedType.FSDP
    for folder, out in places.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        plugin.transformer_cls_names_to_wrap = model._no_split_modules  # it remembers those of its first model
        model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
        for weight in model.parameters():
            assert isinstance(weight, DTensor)
            weight.data.mul_(FACTOR)
        save_fsdp_model(plugin, accelerator, model, out)
        accelerator.free_memory()


def zero3(places: dict[str, str]) -> None:
    """What DeepSpeedEngine.save_checkpoint leaves in a checkpoint of the Trainer."""
    import deepspeed
    import torch
    from deepspeed import ops
    from transformers import AutoModelForCausalLM

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # minutes of compiling, see training/spread.py
    deepspeed.init_distributed("gloo")
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    settings["zero_allow_untested_optimizer"] = True
    for folder, out in places.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for weight in model.parameters():
            weight.data.mul_(FACTOR)
        engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=settings)
        engine.save_checkpoint(out, tag="global_step1")


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    {"fsdp2": fsdp2, "zero3": zero3}[sys.argv[1]](dict(word.split("=", 1) for word in sys.argv[2:]))
    import torch.distributed

    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
