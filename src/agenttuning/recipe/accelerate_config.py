"""A strict reader for accelerate config files.

accelerate ignores unknown keys inside `fsdp_config` and `deepspeed_config` in silence, takes any value for the known
ones, and drops some on the way to its processes (accelerate 1.15): a misspelt sharding key trains another program than
the file says. Each table below maps a key to what it may hold: a type, or a tuple of words. A test of the same name
holds them to the installed accelerate.
"""

from pathlib import Path
from typing import Any

from agenttuning.errors import UserError, nearest
from agenttuning.recipe.schema import Recipe
from agenttuning.recipe.yaml_io import read_mapping

TYPES = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")
# accelerate.commands.config.config_args.ClusterConfig, less what only TPU, Megatron, MPI and fp8 users need: those
# paths are not tested here.
TOP = {
    "compute_environment": ("LOCAL_MACHINE",), "distributed_type": TYPES, "mixed_precision": ("no", "bf16", "fp16"),
    "use_cpu": bool, "debug": bool, "num_processes": int, "num_machines": int, "machine_rank": int,
    "main_process_ip": str, "main_process_port": int, "rdzv_backend": ("static",), "same_network": (True,),
    "main_training_function": str, "enable_cpu_affinity": bool, "gpu_ids": ("all",), "downcast_bf16": ("no",),
    "fsdp_config": dict, "deepspeed_config": dict, "parallelism_config": dict, "dynamo_config": dict,
}  # fmt: skip
FSDP2 = {
    "fsdp_version": (2,),
    "fsdp_auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
    "fsdp_transformer_layer_cls_to_wrap": str, "fsdp_min_num_params": int, "fsdp_reshard_after_forward": bool,
    "fsdp_offload_params": bool, "fsdp_cpu_ram_efficient_loading": bool,
    "fsdp_state_dict_type": ("SHARDED_STATE_DICT", "FULL_STATE_DICT"),
    "fsdp_activation_checkpointing": bool, "fsdp_activation_checkpointing_offload": bool,
}  # fmt: skip
DEEPSPEED = {
    "zero_stage": (0, 1, 2, 3), "zero3_init_flag": bool, "zero3_save_16bit_model": (True,),
    "offload_optimizer_device": ("none", "cpu"), "offload_param_device": ("none", "cpu"),
    "deepspeed_multinode_launcher": ("standard",), "deepspeed_moe_layer_cls_names": str,
}  # fmt: skip
PARALLELISM = {
    "parallelism_config_dp_replicate_size": int, "parallelism_config_dp_shard_size": int,
    "parallelism_config_tp_size": (1,), "parallelism_config_cp_size": (1,), "parallelism_config_sp_size": (1,),
}  # fmt: skip
DYNAMO = {"dynamo_backend": ("NO",)}
NESTED = {"fsdp_config": FSDP2, "deepspeed_config": DEEPSPEED, "parallelism_config": PARALLELISM,
          "dynamo_config": DYNAMO}  # fmt: skip
# Left out, accelerate takes FSDP 1, no wrapping at all, and ZeRO-2, and writes no weights that can be loaded.
REQUIRED = {"fsdp_config": ("fsdp_version", "fsdp_auto_wrap_policy", "fsdp_state_dict_type"),
            "deepspeed_config": ("zero_stage", "deepspeed_multinode_launcher")}  # fmt: skip

# Keys that accelerate knows and this repository refuses, and values, each with what they would do.
_FSDP1 = "belongs to FSDP 1; FSDP 2 ignores or refuses it"
FSDP1_ONLY = ("fsdp_backward_prefetch", "fsdp_use_orig_params", "fsdp_sync_module_states", "fsdp_forward_prefetch",
              "fsdp_sharding_strategy")  # fmt: skip
_NVME = "does not reach the processes in accelerate 1.15, so DeepSpeed would swap to nowhere; offload to cpu"
_HOSTS = "is for launchers that start other machines; here each machine starts `agenttuning train` itself"
_SPLIT = "splits one sequence or layer over processes, which the batch arithmetic of `train` counts as separate ones"
REFUSED = {
    **dict.fromkeys(FSDP1_ONLY, _FSDP1),
    "fsdp_ignored_modules": "leaves modules out of the sharding, whose gradients would then differ between processes",
    **dict.fromkeys(("offload_optimizer_nvme_path", "offload_param_nvme_path"), _NVME),
    **dict.fromkeys(("deepspeed_hostfile", "deepspeed_inclusion_filter", "deepspeed_exclusion_filter"), _HOSTS),
    "gradient_accumulation_steps": "follows from launch.global_batch and would contradict it",
    "gradient_clipping": "is the recipe's max_grad_norm and would contradict it",
    "deepspeed_config_file": "holds a second configuration, which would contradict this one",
    **dict.fromkeys(
        [f"parallelism_config_{name}" for name in (
            "cp_backend", "cp_comm_strategy", "sp_backend", "sp_seq_length", "sp_seq_length_is_variable",
            "sp_attn_implementation")], _SPLIT),
    **dict.fromkeys(("dynamo_mode", "dynamo_use_fullgraph", "dynamo_use_dynamic", "dynamo_use_regional_compilation"),
                    "is for a compiled model; torch_compile is a key of the recipe"),
}  # fmt: skip
WHY = {
    "fsdp_version": "FSDP 1 is not tested here",
    "distributed_type": "MULTI_CPU starts one process in silence (accelerate issue 2741); for several processes on a "
    "CPU take a file for GPUs and `train --cpu-processes N`",
    "mixed_precision": 'without quotes YAML reads no as false; write "no"',
    "rdzv_backend": "accelerate 1.15 takes no other one from a file, whatever it says",
    "same_network": "machine 0 is found by its address",
    "gpu_ids": "`train` starts a process for each visible GPU; choose them with CUDA_VISIBLE_DEVICES",
    "offload_optimizer_device": _NVME.replace("does", "nvme: its path does"),
    "offload_param_device": _NVME.replace("does", "nvme: its path does"),
    "zero3_save_16bit_model": "the finished model would be saved without its weights",
    "deepspeed_multinode_launcher": "other launchers start other machines; here each starts `agenttuning train` itself",
    "dynamo_backend": "torch_compile is a key of the recipe",
    **{f"parallelism_config_{name}_size": _SPLIT for name in ("tp", "cp", "sp")},
}


def validate(path: Path) -> dict[str, Any]:
    """Read and check one accelerate config. Raises UserError naming the key, its effect and the nearest known one."""
    if not path.is_file():
        existing = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"There is no accelerate config {path}; launch.accelerate_config names one of: {existing}.")
    config = read_mapping(path)
    _check_block(config, TOP, path.name)
    for block, known in NESTED.items():
        if block in config:
            _check_block(config[block], known, f"{path.name}: {block}")
    kind = config.get("distributed_type")
    for needed, block in (("FSDP", "fsdp_config"), ("DEEPSPEED", "deepspeed_config")):
        if (kind == needed) != (block in config):
            raise UserError(f"{path.name}: distributed_type {kind} and `{block}` do not go together; one is ignored.")
    for block, keys in REQUIRED.items():
        for key in keys if block in config else ():
            if key not in config[block]:
                raise UserError(f"{path.name}: {block} without `{key}` runs {_ABSENT[key]}; write it.")
    for key in ("distributed_type", "num_processes", "num_machines"):
        if key not in config:
            raise UserError(f"{path.name}: `{key}` is missing; accelerate would take its own default. Write it.")
    _check_together(config, path.name)
    return config


_ABSENT = {
    "fsdp_version": "FSDP 1",
    "fsdp_auto_wrap_policy": "with the whole model gathered at once",
    "fsdp_state_dict_type": "with a layout of checkpoints that depends on accelerate's version",
    "zero_stage": "ZeRO-2",
    "deepspeed_multinode_launcher": "pdsh on several machines",
}


def _check_block(content: dict[str, Any], known: dict[str, Any], where: str) -> None:
    for key, value in content.items():
        if key in REFUSED:
            raise UserError(f"{where}: `{key}` {REFUSED[key]}. Remove it.")
        if key not in known:
            raise UserError(f"{where}: unknown key `{key}`; accelerate would ignore it. {nearest(key, known)}")
        allowed, why = known[key], f": {WHY[key]}." if key in WHY else "."
        if isinstance(allowed, tuple):
            if not any(value == word and type(value) is type(word) for word in allowed):
                words = ", ".join("true" if word is True else str(word) for word in allowed)
                raise UserError(f"{where}: `{key}` is {value!r}; it must be one of {words}{why}")
        elif type(value) is not allowed:
            kinds = {bool: "true or false", int: "a whole number", str: "a word", dict: "`key: value` lines"}
            raise UserError(f"{where}: `{key}` must hold {kinds[allowed]}; it holds {value!r}{why}")
        elif allowed is int and key != "machine_rank" and value < 1:
            raise UserError(f"{where}: `{key}` must be a whole number above 0; it is {value}.")


def _check_together(config: dict[str, Any], name: str) -> None:
    """Raise UserError for values that contradict each other, or of which one is ignored in silence."""
    kind, processes, machines = config["distributed_type"], config["num_processes"], config["num_machines"]
    fsdp, zero = config.get("fsdp_config", {}), config.get("deepspeed_config", {})
    stage, wrapping = zero.get("zero_stage"), fsdp.get("fsdp_auto_wrap_policy")
    together = (
        (kind == "NO" and processes > 1, "distributed_type NO starts one process; num_processes must be 1"),
        (kind != "NO" and config.get("use_cpu", False),
         f"use_cpu: true starts one process in silence and ignores {kind}; leave it out and use --cpu-processes N"),
        (processes % machines, f"num_processes {processes} does not divide into {machines} machines"),
        ("fsdp_min_num_params" in fsdp and wrapping != "SIZE_BASED_WRAP",
         "fsdp_min_num_params is for SIZE_BASED_WRAP; it would be ignored"),
        ("fsdp_transformer_layer_cls_to_wrap" in fsdp and wrapping != "TRANSFORMER_BASED_WRAP",
         "fsdp_transformer_layer_cls_to_wrap is for TRANSFORMER_BASED_WRAP; it would be ignored"),
        (fsdp.get("fsdp_activation_checkpointing_offload") and not fsdp.get("fsdp_activation_checkpointing"),
         "fsdp_activation_checkpointing_offload needs fsdp_activation_checkpointing: true"),
        (stage == 3 and "zero3_save_16bit_model" not in zero,
         "zero_stage 3 without zero3_save_16bit_model: true saves the finished model without its weights"),
        (stage in (0, 1, 2) and ("zero3_init_flag" in zero or zero.get("offload_param_device") == "cpu"),
         f"zero3_init_flag and offload_param_device are for zero_stage 3; with {stage} they would be ignored"),
        ("parallelism_config" in config and kind != "FSDP", "parallelism_config needs distributed_type FSDP"),
    )  # fmt: skip
    for wrong, text in together:
        if wrong:
            raise UserError(f"{name}: {text}.")
    if "parallelism_config" in config:
        sizes = config["parallelism_config"]
        product = 1
        for size in sizes.values():
            product *= size
        if product != processes:
            raise UserError(f"{name}: the sizes of parallelism_config make {product} processes, num_processes is "
                            f"{processes}; accelerate would stop.")  # fmt: skip


def checkpoints_activations(recipe: Recipe, config: dict[str, Any]) -> bool:
    """Whether activations are recomputed, by FSDP or by the model. Raises UserError when both are asked for.

    TRL turns the model's own checkpointing on unless told otherwise, and accelerate refuses both at once, minutes in.
    """
    by_fsdp = bool(config.get("fsdp_config", {}).get("fsdp_activation_checkpointing"))
    by_model = recomputes(recipe)
    if by_fsdp and by_model:
        raise UserError(
            f"{recipe.path}: {recipe.launch.accelerate_config}.yaml checkpoints activations and the recipe does too "
            "(TRL's default); accelerate refuses both at once. Write `fsdp_activation_checkpointing: false` there (the "
            "only way with hidden_dropout or LoRA), or `activation_checkpointing: false` in the recipe."
        )
    return by_fsdp or by_model


def check_optimizer(recipe: Recipe, config: dict[str, Any]) -> None:
    """Raise UserError for `optim: muon` where matrices are sharded."""
    if recipe.values.get("optim") == "muon" and config["distributed_type"] in ("FSDP", "DEEPSPEED"):
        raise UserError(
            f"{recipe.path}: optim: muon orthogonalises whole matrices and has not been tested on those that "
            f"{recipe.accelerate_config.name} shards; it might train something else; use adamw_torch_fused, or "
            "launch.accelerate_config: ddp or single_gpu"
        )


def recomputes(recipe: Recipe) -> bool:
    """Whether the recipe asks for activation checkpointing, by today's name or the older one; TRL's default is yes."""
    stated = [recipe.values.get(key) for key in ("activation_checkpointing", "gradient_checkpointing")]
    return bool(next((value for value in stated if value is not None), True))
