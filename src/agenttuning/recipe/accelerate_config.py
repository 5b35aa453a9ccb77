"""A strict reader for accelerate config files.

accelerate ignores unknown keys inside `fsdp_config` and `deepspeed_config` in silence (accelerate 1.15): a misspelt
sharding key trains another program than the file says. FSDP without `fsdp_version: 2` is silently FSDP 1.
"""

from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.recipe.keys import nearest
from agenttuning.recipe.schema import Recipe
from agenttuning.recipe.yaml_io import read_mapping

# accelerate.commands.config.config_args.ClusterConfig of accelerate 1.15 (a test compares), less what only TPU,
# Megatron and MPI users need: those paths are not tested here.
TOP = {
    "compute_environment", "distributed_type", "mixed_precision", "use_cpu", "debug", "num_processes", "num_machines",
    "machine_rank", "main_process_ip", "main_process_port", "rdzv_backend", "same_network", "main_training_function",
    "enable_cpu_affinity", "gpu_ids", "downcast_bf16", "fsdp_config", "deepspeed_config", "parallelism_config",
    "dynamo_config",
}  # fmt: skip
FSDP2 = {
    "fsdp_version", "fsdp_auto_wrap_policy", "fsdp_transformer_layer_cls_to_wrap", "fsdp_min_num_params",
    "fsdp_reshard_after_forward", "fsdp_offload_params", "fsdp_cpu_ram_efficient_loading", "fsdp_state_dict_type",
    "fsdp_activation_checkpointing", "fsdp_activation_checkpointing_offload", "fsdp_ignored_modules",
}  # fmt: skip
# Keys of FSDP 1 that FSDP 2 ignores or refuses.
FSDP1_ONLY = {
    "fsdp_backward_prefetch", "fsdp_use_orig_params", "fsdp_sync_module_states", "fsdp_forward_prefetch",
    "fsdp_sharding_strategy",
}  # fmt: skip
DEEPSPEED = {
    "zero_stage", "zero3_init_flag", "zero3_save_16bit_model", "offload_optimizer_device", "offload_param_device",
    "offload_optimizer_nvme_path", "offload_param_nvme_path", "gradient_accumulation_steps", "gradient_clipping",
    "deepspeed_multinode_launcher", "deepspeed_hostfile", "deepspeed_inclusion_filter", "deepspeed_exclusion_filter",
    "deepspeed_moe_layer_cls_names",
}  # fmt: skip
PARALLELISM = {
    f"parallelism_config_{name}"
    for name in (
        "dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "cp_backend", "cp_comm_strategy", "sp_size",
        "sp_backend", "sp_seq_length", "sp_seq_length_is_variable", "sp_attn_implementation",
    )
}  # fmt: skip
NESTED = {"fsdp_config": FSDP2, "deepspeed_config": DEEPSPEED, "parallelism_config": PARALLELISM}
TYPES = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")


def validate(path: Path) -> dict[str, Any]:
    """Read and check one accelerate config. Raises UserError naming the key, its effect and the nearest known one."""
    if not path.is_file():
        existing = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"There is no accelerate config {path}; launch.accelerate_config names one of: {existing}.")
    config = read_mapping(path)
    _refuse_unknown(config, TOP, path.name)
    for block, known in NESTED.items():
        if block in config:
            if not isinstance(config[block], dict):
                raise UserError(f"{path.name}: `{block}` must hold `key: value` lines.")
            _refuse_unknown(config[block], known, f"{path.name}: {block}")
    kind = config.get("distributed_type")
    if kind not in TYPES:
        raise UserError(f"{path.name}: distributed_type is {kind!r}; it must be one of {', '.join(TYPES)}.")
    if kind == "FSDP" and (config.get("fsdp_config") or {}).get("fsdp_version") != 2:
        raise UserError(f"{path.name}: distributed_type FSDP without `fsdp_version: 2` runs FSDP 1; write it.")
    for needed, block in (("FSDP", "fsdp_config"), ("DEEPSPEED", "deepspeed_config")):
        if (kind == needed) != (block in config):
            raise UserError(f"{path.name}: distributed_type {kind} and `{block}` do not go together; one is ignored.")
    for key in ("num_processes", "num_machines"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"{path.name}: `{key}` must be a whole number above 0; it is {config.get(key)!r}.")
    return config


def _refuse_unknown(content: dict[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key in FSDP1_ONLY:
            raise UserError(f"{where}: `{key}` belongs to FSDP 1; FSDP 2 ignores or refuses it. Remove it.")
        if key not in known:
            raise UserError(f"{where}: unknown key `{key}`; accelerate would ignore it. {nearest(key, known)}")


def checkpoints_activations(recipe: Recipe, config: dict[str, Any]) -> bool:
    """Whether activations are recomputed, by FSDP or by the model. Raises UserError when both are asked for.

    TRL turns the model's own checkpointing on unless told otherwise, and accelerate refuses both at once, minutes in.
    """
    by_fsdp = bool(config.get("fsdp_config", {}).get("fsdp_activation_checkpointing"))
    by_model = recomputes(recipe)
    if by_fsdp and by_model:
        raise UserError(
            f"{recipe.path}: {recipe.launch.accelerate_config}.yaml checkpoints activations and the recipe does too "
            "(TRL's default); accelerate refuses both at once. Write `activation_checkpointing: false`."
        )
    return by_fsdp or by_model


def recomputes(recipe: Recipe) -> bool:
    """Whether the recipe asks for activation checkpointing, by today's name or the older one; TRL's default is yes."""
    stated = [recipe.values.get(key) for key in ("activation_checkpointing", "gradient_checkpointing")]
    return bool(next((value for value in stated if value is not None), True))
