"""accelerate configs are read strictly, and what is said about accelerate is true of the installed one."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re

import pytest
import yaml

from agenttuning.errors import UserError
from agenttuning.recipe.accelerate_config import (
    DEEPSPEED,
    DYNAMO,
    FSDP1_ONLY,
    FSDP2,
    PARALLELISM,
    REFUSED,
    TOP,
    validate,
)
from agenttuning.recipe.schema import REPOSITORY


def changed(folder, of, change=None, block=None, drop=None):
    config = yaml.safe_load((REPOSITORY / f"accelerate_configs/{of}.yaml").read_text())
    (config[block] if block else config).update(change or {})
    if drop:
        del (config[block] if block else config)[drop]
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


FSDP, ZERO = "fsdp_config", "deepspeed_config"


@pytest.mark.parametrize(
    ("of", "change", "block", "drop", "words"),
    [
        ("fsdp2", {"num_proceses": 8}, None, None, "num_processes"),
        ("fsdp2", {"fsdp_reshard_after_foward": True}, FSDP, None, "fsdp_reshard_after_forward"),
        ("fsdp2", {"fsdp_use_orig_params": True}, FSDP, None, "belongs to FSDP 1"),
        ("fsdp2", {}, FSDP, "fsdp_version", "runs FSDP 1"),
        ("fsdp2", {"fsdp_version": 1}, FSDP, None, "one of 2: FSDP 1 is not tested"),
        ("fsdp2", {}, FSDP, "fsdp_auto_wrap_policy", "whole model gathered at once"),
        ("fsdp2", {"distributed_type": "MULTI_CPU"}, None, None, "must be one of .* --cpu-processes N"),
        ("fsdp2", {"distributed_type": "MULTI_GPU"}, None, None, "do not go together"),
        ("fsdp2", {"deepspeed_config": {"zero_stge": 3}}, None, None, "zero_stage"),
        ("fsdp2", {"fsdp_config": "yes"}, None, None, "must hold `key: value` lines"),
        ("fsdp2", {"num_processes": "8"}, None, None, "whole number"),
        ("fsdp2", {"num_machines": 0}, None, None, "above 0"),
        ("fsdp2", {}, None, "num_processes", "own default"),
        ("fsdp2", {"num_machines": 3}, None, None, "does not divide into 3 machines"),
        ("fsdp2", {"mixed_precision": False}, None, None, 'write "no"'),
        ("fsdp2", {"use_cpu": True}, None, None, "starts one process in silence"),
        ("fsdp2", {"gpu_ids": "0,1"}, None, None, "CUDA_VISIBLE_DEVICES"),
        ("fsdp2", {"fsdp_state_dict_type": "LOCAL_STATE_DICT"}, FSDP, None, "SHARDED_STATE_DICT, FULL_STATE_DICT"),
        ("fsdp2", {"fsdp_auto_wrap_policy": "transformer_based_wrap"}, FSDP, None, "TRANSFORMER_BASED_WRAP"),
        ("fsdp2", {"fsdp_offload_params": "false"}, FSDP, None, "true or false"),
        ("fsdp2", {"fsdp_min_num_params": 1000}, FSDP, None, "is for SIZE_BASED_WRAP"),
        ("fsdp2", {"fsdp_activation_checkpointing": False, "fsdp_activation_checkpointing_offload": True}, FSDP, None,
         "needs fsdp_activation_checkpointing"),
        ("fsdp2", {"parallelism_config": {"parallelism_config_cp_size": 2}}, None, None, "splits one sequence"),
        ("fsdp2", {"parallelism_config": {"parallelism_config_dp_shard_size": 4}}, None, None, "make 4 processes"),
        ("fsdp2_multinode", {"rdzv_backend": "c10d"}, None, None, "takes no other one from a file"),
        ("ddp", {"parallelism_config": {"parallelism_config_dp_shard_size": 8}}, None, None, "distributed_type FSDP"),
        ("cpu", {"num_processes": 2}, None, None, "starts one process"),
        ("zero3", {}, ZERO, "zero_stage", "runs ZeRO-2"),
        ("zero3", {"zero_stage": 4}, ZERO, None, "0, 1, 2, 3"),
        ("zero3", {"zero_stage": 2}, ZERO, None, "for zero_stage 3; with 2"),
        ("zero3", {}, ZERO, "zero3_save_16bit_model", "without its weights"),
        ("zero3", {"offload_optimizer_device": "nvme"}, ZERO, None, "does not reach the processes"),
        ("zero3", {"gradient_accumulation_steps": 4}, ZERO, None, "launch.global_batch"),
        ("zero3", {"gradient_clipping": 1.0}, ZERO, None, "max_grad_norm"),
        ("zero3", {"deepspeed_multinode_launcher": "pdsh"}, ZERO, None, "starts `agenttuning train` itself"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, of, change, block, drop, words):
    validate(changed(tmp_path, of))
    with pytest.raises(UserError, match=words):
        validate(changed(tmp_path, of, change, block, drop))


def test_sharding_within_groups_is_accepted(tmp_path):
    sizes = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 4}
    assert validate(changed(tmp_path, "fsdp2", {"parallelism_config": sizes}))["parallelism_config"] == sizes


def test_a_missing_accelerate_config_names_those_there_are():
    with pytest.raises(UserError, match="fsdp2"):
        validate(REPOSITORY / "accelerate_configs/fspd2.yaml")


def options(title=None, prefix=None):
    """The options of `accelerate launch`, by group or by the beginning of their names."""
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    groups = [group for group in parser._action_groups if title in (None, group.title)]
    names = {action.dest for group in groups for action in group._group_actions}
    return {name for name in names if name.startswith(prefix or "")}


def test_no_key_of_the_installed_accelerate_is_unknown_here():
    """A key is taken or refused with a reason, and neither list holds a key that accelerate has dropped."""
    from accelerate.commands.config.config_args import ClusterConfig

    assert {field.name for field in dataclasses.fields(ClusterConfig)} >= TOP.keys()
    assert options(prefix="fsdp_") == FSDP2.keys() | set(FSDP1_ONLY)
    refused = {key for key in REFUSED if not key.startswith(("fsdp", "parallelism", "dynamo"))}
    assert options("DeepSpeed Arguments") == DEEPSPEED.keys() | refused
    assert options(prefix="parallelism_config_") == PARALLELISM.keys() | {
        key for key in REFUSED if key.startswith("parallelism")
    }
    assert options(prefix="dynamo_") == DYNAMO.keys() | {key for key in REFUSED if key.startswith("dynamo")}


def test_the_words_are_those_of_the_installed_accelerate():
    from accelerate.utils import constants

    assert list(FSDP2["fsdp_auto_wrap_policy"]) == constants.FSDP_AUTO_WRAP_POLICY
    assert list(FSDP2["fsdp_state_dict_type"]) == constants.FSDP2_STATE_DICT_TYPE
    assert set(DEEPSPEED["deepspeed_multinode_launcher"]) < set(constants.DEEPSPEED_MULTINODE_LAUNCHERS)


def environment(prepare, key, value):
    """The environment that `accelerate launch` hands to its processes for this one option."""
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(["--main_process_port", "0", "-m", "agenttuning"])
    settled = {"mixed_precision": "no", "dynamo_backend": "no", "num_processes": 2, "num_machines": 1}
    settled |= {"use_fsdp": True, "use_parallelism_config": True, "num_cpu_threads_per_process": 1}
    settled |= {"enable_cpu_affinity": False, "deepspeed_fields_from_accelerate_config": ""}
    made = prepare(argparse.Namespace(**{**vars(parsed), **settled, key: value}))
    return made[1] if isinstance(made, tuple) else made


def values(allowed):
    """Two values that differ: what an option's absence means is left out of the comparison."""
    words = {bool: (True, False), int: (3, 5), str: ("One", "Two")}
    return words.get(allowed) or (allowed[0], allowed[0] + 1 if isinstance(allowed[0], int) else "other")


@pytest.mark.parametrize("key", sorted(FSDP2.keys() | PARALLELISM.keys() | DEEPSPEED.keys()))
def test_each_key_reaches_the_processes(key):
    """By accelerate's own code, and under a name that its plug-ins read; nothing else would act on it."""
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    if key == "deepspeed_multinode_launcher":
        return  # read by the launcher itself
    zero = key in DEEPSPEED
    prepare = prepare_deepspeed_cmd_env if zero else prepare_multi_gpu_env
    one, other = (environment(prepare, key, value) for value in values((DEEPSPEED | FSDP2 | PARALLELISM)[key]))
    reached = {name for name in one if one[name] != other.get(name)}
    assert len(reached) == 1, reached
    plugin = DeepSpeedPlugin if zero else ParallelismConfig if key in PARALLELISM else FullyShardedDataParallelPlugin
    name = reached.pop()
    read = set(re.findall(r'env_prefix \+ "(\w+)"', inspect.getsource(plugin)))
    assert name in inspect.getsource(plugin) or name.removeprefix("FSDP_") in read or reads_elsewhere(name), name


def reads_elsewhere(name):
    from transformers.integrations import fsdp

    return name in inspect.getsource(fsdp)


@pytest.mark.parametrize("key", ["offload_optimizer_nvme_path", "offload_param_nvme_path"])
def test_a_path_for_swapping_is_still_lost_on_the_way(key):
    """Should this fail, accelerate hands it on, and REFUSED can let it go."""
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    assert "/swap" not in environment(prepare_deepspeed_cmd_env, key, "/swap").values()
