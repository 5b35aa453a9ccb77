"""How a run is really spread over its processes: looked at, not believed.

accelerate falls back in silence: an FSDP file on a machine without GPUs trains as plain DDP, MULTI_CPU starts one
process, torchrun without accelerate's environment knows nothing of the file (accelerate 1.15). `watch` compares what
runs with what the accelerate config says, when the trainer is made and again when the model is wrapped. `pose` lets CPU
processes take the very path of GPUs, for `train --cpu-processes`.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from agenttuning.errors import UserError
from agenttuning.recipe.accelerate_config import validate

if TYPE_CHECKING:
    from torch.nn import Module
    from trl import SFTConfig

    from agenttuning.training.trainer import Trainer


def pose(settings: SFTConfig, config: dict[str, Any]) -> None:
    """Make accelerate treat the CPU processes of this launch as it treats GPUs. Called once `settings` exist, by which
    its state says MULTI_CPU over gloo, and before a model is loaded: for MULTI_CPU it ignores FSDP.
    """
    if config["distributed_type"] == "NO":
        return
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    if config["distributed_type"] == "DEEPSPEED":
        from deepspeed import ops

        # What DeepSpeed would compile for minutes at the first start: a shared-memory all-reduce for inference, which
        # training over gloo never calls, and its own AdamW for offloaded state, in whose place PyTorch's steps here.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
        settings.deepspeed_plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] = False


class Watch(TrainerCallback):
    """Looks at the model once it is wrapped, and lets the main process say what was found."""

    def __init__(self, trainer: Trainer, config: dict[str, Any], name: str) -> None:
        self.trainer, self.config, self.name = trainer, config, name

    def on_train_begin(self, args, state, control, **kwargs):
        found = look(self.trainer, self.config, self.name)
        if state.is_world_process_zero:
            print(f"{'spread':<10} {found}", flush=True)


def watch(trainer: Trainer) -> None:
    """Raise UserError unless accelerate spreads the run as the recipe's accelerate config says; look again, and print
    a line, when the model is wrapped.
    """
    path = trainer.recipe.accelerate_config
    config = validate(path)
    check_processes(trainer, config, path.name)
    if config["distributed_type"] == "DEEPSPEED":  # DeepSpeed 0.19 calls by their old names what torch 2.13 renamed
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    keep_losses(trainer)
    trainer.add_callback(Watch(trainer, config, path.name))


def keep_losses(trainer: Trainer) -> None:
    """Let FSDP 2 hand out what the model returns as it is. accelerate 1.15 has it rounded to the compute dtype: TRL
    divides the losses by the number of tokens after that, so in bf16 the loss, and the gradient with it, came out up to
    0.5 % wrong. What layers hand to each other is in the compute dtype with or without it.
    """
    from dataclasses import replace

    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)


def check_processes(trainer: Trainer, config: dict[str, Any], name: str) -> None:
    """Raise UserError where type, processes, machines, devices or precision are not those of the accelerate config
    `name`, which holds `config`.
    """
    import torch

    accelerator, args = trainer.accelerator, trainer.args
    kind, asked = accelerator.distributed_type.value, config["distributed_type"]
    if kind != asked:
        raise UserError(
            f"{name} says distributed_type: {asked} and what came up is {kind} with {args.world_size} processes: it "
            "would train otherwise than the file says, in silence. accelerate does so without GPUs, or when torchrun "
            "starts the processes without accelerate's environment. Start with `agenttuning train`, which starts them "
            "itself; without GPUs add --cpu-processes N"
        )
    if asked == "NO" and (args.world_size > 1 or args.n_gpu > 1):
        raise UserError(f"{name} is for one process with one GPU at most; take ddp, or set CUDA_VISIBLE_DEVICES")
    machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))  # torchrun's count of its agents
    if machines != config["num_machines"] and 1 in (machines, config["num_machines"]):
        raise UserError(f"{name} says num_machines: {config['num_machines']} and the launch has {machines}; each would "
                        "train the whole run alone, or wait for the other; take the config that fits")  # fmt: skip
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if args.device.type == "cuda" and gpus > here:
        raise UserError(
            f"{gpus} GPUs are visible and {here} processes run on this machine; the others would be paid for and idle; "
            "start one process for each GPU, or name those meant in CUDA_VISIBLE_DEVICES"
        )
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if accelerator.mixed_precision != precision:
        raise UserError(
            f"the run computes in {accelerator.mixed_precision} and the recipe asks for {precision}; a launcher's "
            "ACCELERATE_MIXED_PRECISION wins over the recipe; unset it, or make them agree"
        )


def look(trainer: Trainer, config: dict[str, Any], name: str) -> str:
    """One line on how the wrapped model is spread. Raises UserError where it is not as `config` says."""
    import torch

    wrapped, world, kind = trainer.model_wrapped, trainer.args.world_size, config["distributed_type"]
    if kind == "FSDP":
        found = _fsdp(trainer, config, name)
    elif kind == "DEEPSPEED":
        found = _zero(wrapped, config["deepspeed_config"], world, name)
    elif kind == "MULTI_GPU":
        if world > 1 and not isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            raise UserError(f"{name} says MULTI_GPU and the model is not in DDP: the processes would drift apart")
        found = f"DDP: all {_count(wrapped):,} parameters on each process"
    else:
        if wrapped is not trainer.model:
            raise UserError(f"{name} is for one process and the model is in a {type(wrapped).__name__}; one GPU only")
        found = f"one process, {_count(wrapped):,} parameters"
    backend = f", {torch.distributed.get_backend()}" if torch.distributed.is_initialized() else ""
    precision = trainer.accelerator.mixed_precision
    return f"{found}; {world} x {trainer.args.device.type}{backend}, mixed precision {precision}"


def _fsdp(trainer: Trainer, config: dict[str, Any], name: str) -> str:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
    from torch.distributed.tensor import DTensor

    model, block, world = trainer.model_wrapped, config["fsdp_config"], trainer.args.world_size
    version = trainer.accelerator.state.fsdp_plugin.fsdp_version
    if version != 2:
        raise UserError(f"{name} says fsdp_version: 2 and FSDP {version} runs; start the run with `agenttuning train`")
    copies = (config.get("parallelism_config") or {}).get("parallelism_config_dp_replicate_size", 1)
    whole = [key for key, weight in model.named_parameters() if _shards(weight) != world // copies]
    if whole:
        raise UserError(
            f"{name} shards over {world // copies} processes and {whole[0]} ({len(whole)} parameters in all) is not: "
            "memory would not shrink as planned; a model that was wrapped before, or another accelerate?"
        )
    optimized = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    if not all(isinstance(weight, DTensor) for weight in optimized):
        raise UserError(f"{name}: the optimizer holds other parameters than the sharded ones: nothing would be learnt")
    layers, units = _layers(model), _wrapped_layers(model, block)
    if block.get("fsdp_auto_wrap_policy") == "TRANSFORMER_BASED_WRAP" and units < layers:
        raise UserError(
            f"{name} gathers one layer at a time and {units} of {layers} layers are wrapped: the whole model would be "
            "gathered at once; correct fsdp_transformer_layer_cls_to_wrap, or leave it out"
        )
    recomputed = sum(isinstance(module, CheckpointWrapper) for module in model.modules())
    if block.get("fsdp_activation_checkpointing") and recomputed < layers:
        raise UserError(f"{name} checkpoints activations and {recomputed} of {layers} layers do: memory would not do")
    mine = sum(weight.to_local().numel() for weight in model.parameters())
    ac = f", activations of {recomputed} recomputed" if recomputed else ""
    kept = f", {copies} copies" if copies > 1 else ""
    return f"FSDP 2: {mine:,} of {_count(model):,} parameters on process 0{kept}, {units} layers wrapped{ac}"


def _zero(engine: Any, block: dict[str, Any], world: int, name: str) -> str:
    stage = engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else None
    if stage != block["zero_stage"]:
        raise UserError(f"{name} says zero_stage: {block['zero_stage']} and stage {stage} runs; memory would not do")
    places = {"optimizer": engine.zero_offload_optimizer(), "param": engine.zero_offload_param()}
    places = {part: str(getattr(place, "device", None) or "none").rsplit(".")[-1] for part, place in places.items()}
    for part, here in places.items():
        if here != block.get(f"offload_{part}_device", "none"):
            raise UserError(f"{name} says offload_{part}_device: {block[f'offload_{part}_device']} and it is {here}")
    held = [getattr(weight, "ds_tensor", None) for weight in engine.module.parameters()]
    total = _count(engine.module)
    if stage < 3:
        return f"DeepSpeed ZeRO-{stage}: all {total:,} parameters on each process"
    parts = zip(engine.module.named_parameters(), held, strict=True)
    whole = [key for (key, weight), part in parts if part is None or part.numel() != -(-weight.ds_numel // world)]
    if whole:
        raise UserError(f"{name} shards over {world} processes and {whole[0]} ({len(whole)} in all) is held whole")
    mine = sum(part.numel() for part in held)
    kept = [f"{part} in {here}" for part, here in places.items() if here != "none"]
    offloaded = f", {' and '.join(kept)} memory" if kept else ""
    return f"DeepSpeed ZeRO-3: {mine:,} of {total:,} parameters on process 0 (with padding){offloaded}"


def _count(model: Module) -> int:
    return sum(getattr(weight, "ds_numel", None) or weight.numel() for weight in model.parameters())


def _wrapped_layers(model: Module, block: dict[str, Any]) -> int:
    """How many of the model's layers are FSDP units of their own, with or without recomputed activations."""
    from torch.distributed.fsdp import FSDPModule

    stated = block.get("fsdp_transformer_layer_cls_to_wrap")
    names = set(stated.split(",") if stated else getattr(model, "_no_split_modules", None) or ())
    units = {getattr(module, "_checkpoint_wrapped_module", module)
             for module in model.modules() if isinstance(module, FSDPModule)}  # fmt: skip
    return sum(any(kind.__name__ in names for kind in type(unit).__mro__) for unit in units)


def _layers(model: Module) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "num_hidden_layers", 1))


def _shards(weight: Any) -> int:
    """Over how many processes a parameter is cut; 1 for a plain one."""
    from torch.distributed.tensor import DTensor

    if not isinstance(weight, DTensor):
        return 1
    sizes = (weight.device_mesh.size(axis) for axis, place in enumerate(weight.placements) if place.is_shard())
    product = 1
    for size in sizes:
        product *= size
    return product
