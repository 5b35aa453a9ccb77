"""config.json and generation_config.json of an export: the base's, with nothing of training left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerFast

# What a run may set in a config for its own sake; the base's value is published, and none where the base has none.
OF_TRAINING = re.compile(r".*dropout.*|.*pdrop|output_router_logits|_attn_implementation.*|gradient_checkpointing")
# auto_map and custom_pipelines name Python in the base's repository; no code goes along, and transformers' own classes
# were trained and load it.
OWN = (
    "_name_or_path", "transformers_version", "torch_dtype", "use_cache", "dtype", "auto_map", "custom_pipelines",
)  # fmt: skip


def trained_config(folder: Path, base: Path) -> PreTrainedConfig:
    """The config that the weights were trained with: the checkpoint's, or where it has none the base's."""
    from transformers import AutoConfig

    own = folder if (folder / "config.json").is_file() else base
    try:
        return AutoConfig.from_pretrained(own, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{own}/config.json cannot be read: {error}; export another checkpoint") from error


def published_config(
    trained: PreTrainedConfig, base: Path, tokenizer: PreTrainedTokenizerFast, architecture: str
) -> PreTrainedConfig:
    """The config to publish: bfloat16, with a cache, with the tokenizer's control tokens."""
    base_values = json.loads((base / "config.json").read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for key, value in trained.to_dict().items():
        if not OF_TRAINING.fullmatch(key):
            values[key] = value
        elif key in base_values:
            values[key] = base_values[key]
    for key in OWN:
        values.pop(key, None)
    values |= {"use_cache": True, "dtype": "bfloat16", "architectures": [architecture], **token_ids(tokenizer)}
    return type(trained).from_dict(values)


def generation_config(folder: Path, base: Path, tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """The base's sampling values; generation stops at each of its end tokens and at the one that was trained."""
    from transformers import GenerationConfig

    place = next((one for one in (base, folder) if (one / "generation_config.json").is_file()), None)
    values = json.loads((place / "generation_config.json").read_text(encoding="utf-8")) if place else {}
    values = {key: value for key, value in values.items() if not key.startswith("_") and key != "transformers_version"}
    ids = token_ids(tokenizer)
    before = values.get("eos_token_id")
    ends = [ids["eos_token_id"], *(before if isinstance(before, list) else [before])]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    values |= ids | {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    try:
        config = GenerationConfig.from_dict(values)
        config.validate(strict=True)
    except ValueError as error:
        raise UserError(
            f"{place or base}/generation_config.json is not one that transformers saves ({error}); correct it there"
        ) from error
    return config


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids that begin, end and pad, as config files name them."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
