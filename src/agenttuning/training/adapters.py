"""Adapters: LoRA on a frozen model, which may be quantised (QLoRA). TRL's own keys, read by TRL's own helpers.

An adapted run leaves run_dir/adapter (what was trained, with the base's name and revision) and run_dir/model, the base
with the adapter merged into it, so that every later verb treats it like any other model. Its checkpoints hold the
adapter alone. Adapters are float32 whatever the base is held in: their updates are as small as any.
"""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.recipe.accelerate_config import validate

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel
    from trl import ModelConfig

    from agenttuning.recipe import Recipe

LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
        "lora_task_type", "use_rslora", "use_dora")  # fmt: skip
LOAD = ("load_in_4bit", "load_in_8bit")
BNB_4BIT = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")
KEYS = ("use_peft", *LORA, *LOAD, *BNB_4BIT)
DTYPES = ("float32", "bfloat16")
STORAGE = ("uint8", "bfloat16", "float16", "float32")  # what bitsandbytes can keep two 4-bit values a byte in
INSTALL = "pip install 'bitsandbytes>=0.49' (it comes with the gpu extra and runs on a CPU, too)"


def check(recipe: Recipe) -> None:
    """Raise UserError for adapter and quantisation keys that do not go together, with each other or with the way the
    recipe is spread. Reads the accelerate config; imports nothing heavy.
    """
    get, where = recipe.values.get, recipe.path
    stated = [key for key in (*LORA, *LOAD, *BNB_4BIT) if get(key)]
    if not get("use_peft"):
        if stated:
            raise UserError(
                f"{where}: `{stated[0]}` without `use_peft: true`; the whole model would be trained, the key ignored "
                "(and quantised weights cannot be trained); write `use_peft: true`, or remove it"
            )
        return
    if get("load_in_4bit") and get("load_in_8bit"):
        raise UserError(f"{where}: load_in_4bit and load_in_8bit are both true; a weight has one form; remove one")
    if not get("load_in_4bit") and any(get(key) for key in BNB_4BIT):
        key = next(key for key in BNB_4BIT if get(key))
        raise UserError(f"{where}: `{key}` without `load_in_4bit: true`; it would be ignored; add that or remove it")
    if get("lora_task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise UserError(f"{where}: lora_task_type is {get('lora_task_type')}; `train` makes causal language models")
    if get("dtype") not in (None, *DTYPES):
        raise UserError(f"{where}: dtype: {get('dtype')}; the weights under an adapter are {' or '.join(DTYPES)}")
    if get("dtype") == "bfloat16" and get("lora_modules_to_save") and get("bf16") is False:
        raise UserError(
            f"{where}: lora_modules_to_save trains whole layers in float32, and a bfloat16 base hands them bfloat16, "
            "which stops the run at its first step without autocast; it needs bf16: true, or dtype: float32"
        )
    if get("bnb_4bit_quant_type", "nf4") not in ("nf4", "fp4"):
        raise UserError(f"{where}: bnb_4bit_quant_type is {get('bnb_4bit_quant_type')!r}; it is nf4 or fp4")
    if get("bnb_4bit_quant_storage", "uint8") not in STORAGE:
        raise UserError(
            f"{where}: bnb_4bit_quant_storage is {get('bnb_4bit_quant_storage')!r}; it is one of {', '.join(STORAGE)}"
        )
    if get("lora_r", 1) < 1 or not 0 <= get("lora_dropout", 0) < 1:
        key = "lora_r" if get("lora_r", 1) < 1 else "lora_dropout"
        raise UserError(f"{where}: {key} is {get(key)}; a rank is 1 or more, a dropout in [0, 1)")
    if "lm_head" in (get("lora_target_modules") or []):
        raise UserError(
            f"{where}: lora_target_modules names lm_head; TRL multiplies by its frozen weight directly, so the adapter "
            "would never be trained; name it in lora_modules_to_save, or leave it out"
        )
    if get("optim") == "muon":
        raise UserError(f"{where}: optim: muon with use_peft has not been tested; use adamw_torch_fused")
    _check_spread(recipe)


def _check_spread(recipe: Recipe) -> None:
    get, where = recipe.values.get, recipe.path
    config = validate(recipe.accelerate_config)
    name, quantised = recipe.accelerate_config.name, next((key for key in LOAD if get(key)), None)
    if config.get("deepspeed_config", {}).get("zero_stage") == 3:
        if quantised:
            raise UserError(
                f"{where}: {name} shards weights by ZeRO stage 3, which cannot shard `{quantised}` weights "
                "(bitsandbytes and DeepSpeed do not know each other); use ddp, or LoRA without quantisation"
            )
        if get("dtype") == "bfloat16":
            raise UserError(
                f"{where}: with ZeRO stage 3 TRL keeps adapters in the base's dtype (TRL issue 6089), so with dtype: "
                "bfloat16 most of their updates would round to nothing; use fsdp2, or dtype: float32"
            )
    if config.get("fsdp_config", {}).get("fsdp_activation_checkpointing"):
        # peft 0.21 finds adapters by module names, which accelerate's wrapper changes; its mask is lost as well
        raise UserError(
            f"{where}: use_peft with fsdp_activation_checkpointing: true in {name}; checkpoints and the saved adapter "
            "would be empty, and lora_dropout would be recomputed with another mask; write "
            "fsdp_activation_checkpointing: false there and activation_checkpointing: true in the recipe"
        )
    if config["distributed_type"] == "FSDP" and quantised:
        # accelerate 1.15, fsdp2_prepare_model: 4-bit weights stored as uint8 are left out of sharding
        if quantised == "load_in_8bit":
            raise UserError(f"{where}: {name} cannot shard 8-bit weights; use load_in_4bit, or ddp or single_gpu")
        if get("dtype") != "bfloat16" or get("bnb_4bit_quant_storage") != "bfloat16":
            raise UserError(
                f"{where}: {name} shards 4-bit weights only when they are stored in the compute dtype; stored as bytes "
                "every GPU would hold them all; write dtype: bfloat16 and bnb_4bit_quant_storage: bfloat16, or use ddp"
            )


def model_config(recipe: Recipe) -> ModelConfig:
    """TRL's ModelConfig of the recipe's own keys."""
    from trl import ModelConfig

    return ModelConfig(**{key: value for key in (*KEYS, "dtype") if (value := recipe.values.get(key)) is not None})


def peft_config(recipe: Recipe) -> LoraConfig | None:
    """What `peft_config=` of the trainer takes: LoRA as the recipe asks for it, or None for a full fine-tune."""
    from trl import get_peft_config

    if not recipe.values.get("use_peft"):
        return None
    config = get_peft_config(model_config(recipe))
    targets = recipe.values.get("lora_target_modules") or []
    if len(targets) == 1 and _is_name(targets[0]):
        # TRL hands a list of one on as a text, which peft reads as a pattern of whole paths: a bare name fits none
        config.target_modules = set(targets)
    config.base_model_name_or_path = recipe.values["model_name_or_path"]
    config.revision = None if _local(recipe) else recipe.values.get("model_revision")
    return config


def quantization(recipe: Recipe) -> BitsAndBytesConfig | None:
    """How from_pretrained quantises the weights, or None. Raises UserError where bitsandbytes is not installed."""
    from trl import get_quantization_config

    if lack := missing(recipe):
        raise UserError(f"{recipe.path}: {lack}")
    return get_quantization_config(model_config(recipe))


def missing(recipe: Recipe) -> str | None:
    """What an adapted or quantised run needs and is not installed here, and how to get it; None where nothing is."""
    wanted = {"peft": recipe.values.get("use_peft"), "bitsandbytes": any(recipe.values.get(key) for key in LOAD)}
    install = {"peft": "pip install -e '.[train]'", "bitsandbytes": INSTALL}
    why = {"peft": "LoRA needs peft", "bitsandbytes": "quantised weights need bitsandbytes"}
    lacks = [name for name, needed in wanted.items() if needed and importlib.util.find_spec(name) is None]
    return "; ".join(f"{why[name]}, which is not installed: {install[name]}" for name in lacks) or None


def _local(recipe: Recipe) -> bool:
    return Path(recipe.values["model_name_or_path"]).is_dir()


def check_targets(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise UserError for a name in the LoRA keys that no part of `model` has, which peft passes over when another
    fits, for dropout on stacked experts, and where peft knows no usual targets and the recipe states none.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    get, where = recipe.values.get, recipe.path
    modules, parameters = ([name for name, _ in parts] for parts in (model.named_modules(), model.named_parameters()))
    for key, names in (
        ("lora_target_modules", modules),
        ("lora_modules_to_save", modules),
        ("lora_target_parameters", parameters),
    ):
        for word in get(key) or []:
            pattern = key == "lora_target_modules" and len(get(key)) == 1 and not _is_name(word)
            fits = (lambda name, word=word: re.fullmatch(word, name)) if pattern else partial(_ends, word)
            if word != "all-linear" and not any(map(fits, names)):
                ends = sorted(
                    {name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()} - {""}
                )
                raise UserError(
                    f"{where}: {key} names {word}, which was not found in {type(model).__name__}; nothing would be "
                    f"trained there; its parts end in {', '.join(ends)}"
                )
    stacked = [name for name, weight in model.named_parameters() if weight.dim() == 3]
    named = [*(get("lora_target_modules") or []), *(get("lora_target_parameters") or [])]
    experts = {"all-linear", "gate_proj", "up_proj", "down_proj"} & {*named} or get("lora_target_parameters")
    if get("use_peft") and stacked and experts and get("lora_dropout", 0.05):  # TRL's default
        raise UserError(
            f"{where}: the adapters would lie on {stacked[0]}, the weights of all experts in one tensor, where peft "
            "has no dropout; write lora_dropout: 0.0, or name attention's layers alone in lora_target_modules"
        )
    stated = get("lora_target_modules") or get("lora_target_parameters")
    if get("use_peft") and not stated and model.config.model_type not in USUAL:
        raise UserError(
            f"{where}: peft knows no usual targets for {model.config.model_type}; write "
            "lora_target_modules: [all-linear]"
        )


def _is_name(word: str) -> bool:
    return re.fullmatch(r"[\w.]+", word) is not None


def _ends(word: str, name: str) -> bool:
    return name == word or name.endswith(f".{word}")


def keep_float32(model: torch.nn.Module) -> None:
    """Put every trained parameter of an adapted model into float32, in place: TRL casts the adapters of a quantised
    base to bfloat16, where most updates round to nothing.
    """
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def counts(model: torch.nn.Module) -> tuple[int, int]:
    """Trained and all parameters, each weight counted once, whether sharded or quantised."""
    trained = total = 0
    for parameter in model.parameters():
        size = getattr(parameter, "ds_numel", None) or parameter.numel()
        if type(parameter).__name__ == "Params4bit":  # two values a byte, whatever they are stored as
            size *= 2 * parameter.element_size()
        total += size
        trained += size * parameter.requires_grad
    return trained, total


def announcement(model: torch.nn.Module, recipe: Recipe) -> str:
    """What is trained, printed once before the first step: the number of parameters, and hidden dropout."""
    trained, total = counts(model)
    get, share = recipe.values.get, recipe.values.get("hidden_dropout")
    form = "4-bit" if get("load_in_4bit") else "8-bit" if get("load_in_8bit") else get("dtype") or "float32"
    how = "the whole model"
    if get("use_peft"):
        how = f"LoRA of rank {model.peft_config['default'].r} in float32 on frozen {form} weights"
    dropped = f"; hidden dropout {share:g} while training" if share else ""
    return f"{'trained':<10} {trained:,} of {total:,} parameters ({how}){dropped}"
