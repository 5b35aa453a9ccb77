"""Which keys a recipe may use, and what to say about the others.

`trl_keys.txt` lists the fields of `trl.SFTConfig` and `trl.ModelConfig` with their types, because importing trl takes
six seconds and a plan must not. `python -m agenttuning.recipe.keys` writes it again after an upgrade; a test compares.
"""

import dataclasses
import enum
import functools
import types
import typing
from importlib import resources

from agenttuning.errors import UserError, nearest

BLOCKS = ("mixture", "launch", "publish")

# Gone from transformers 5 (read in transformers 5.23 and TRL 1.16): a recipe that says them trains otherwise.
REMOVED = {
    "warmup_ratio": "write `warmup_steps` as a float below 1 (`warmup_steps: 0.02` is 2 % of the steps)",
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "save_safetensors": "leave it out; safetensors is the only format",
    "overwrite_output_dir": "leave it out; choose another folder with --run-dir",
    "evaluation_strategy": "write `eval_strategy`",
    "max_seq_length": "write `max_length`",
    "torch_dtype": "write `dtype`",
    "use_flash_attention_2": "write `launch.attention: flash_attention_2`",
    "no_cuda": "write `launch.accelerate_config: cpu`",
    "fsdp_transformer_layer_cls_to_wrap": "write it in the accelerate config",
    "tokenizer_name_or_path": "leave it out; the tokenizer is the model's",
}

# Fields of TRL that another key of the recipe already decides. Two sources for one decision would drift apart.
OWNED = {
    "gradient_accumulation_steps": "it is derived from `launch.global_batch` and the machine; `plan` prints it",
    "output_dir": "it follows from the recipe's path; use --run-dir for another folder",
    "resume_from_checkpoint": "use `train --resume`",
    "assistant_only_loss": "write `loss: assistant`",
    "completion_only_loss": "write `loss: last`",
    "chat_template_path": "write `mixture.chat_format`",
    "dataset_text_field": "the mixture reaches TRL as token ids, so it would do nothing",
    "truncation_mode": "write `mixture.overlong`",
    "shuffle_dataset": "the mixture is drawn shuffled; set `mixture.seed`",
    "attn_implementation": "write `launch.attention`",
    "push_to_hub": "write `publish.hub_model_id`",
    "hub_model_id": "write `publish.hub_model_id`",
    "local_rank": "the launcher sets it",
}

# Keys beside TRL's that a recipe may write at the top, with their types. transformers' own name where it has one.
ADDED = {
    "hidden_dropout": frozenset(
        {"float", "null"}
    ),  # as in the configs of Falcon, GPT-NeoX and Bloom; training/dropout.py
}


@functools.cache
def trl_types() -> dict[str, frozenset[str]]:
    """Allowed types per TRL key, e.g. {"max_steps": {"int"}, "optim_args": {"null", "str"}}."""
    text = resources.files("agenttuning.recipe").joinpath("trl_keys.txt").read_text(encoding="utf-8")
    lines = [line.split(": ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: frozenset(kinds.split("|")) for name, kinds in lines}


def value_types() -> dict[str, frozenset[str]]:
    """Allowed types of every top-level key outside our blocks: TRL's and those of ADDED."""
    return {**trl_types(), **ADDED}


def refuse_unknown(key: str, known: typing.Iterable[str], where: str) -> typing.NoReturn:
    """Raise the UserError for a key that is not `known` at the place named by `where`."""
    bare = key.rsplit(".", 1)[-1]
    for table, what in ((REMOVED, "is gone"), (OWNED, "is decided elsewhere")):
        if bare in table:
            raise UserError(f"{where}: `{key}` {what}: {table[bare]}.")
    raise UserError(f"{where}: unknown key `{key}`; it would have been ignored in silence. {nearest(bare, known)}")


def kind_of(value: object) -> str:
    """Name of a YAML value's type as trl_keys.txt writes it. bool is not int here, although Python thinks so."""
    return "null" if value is None else type(value).__name__


def accepts(kinds: typing.Collection[str], value: object) -> bool:
    """Whether a value of a recipe fits a field that takes `kinds`. A whole number is a fine float."""
    kind = kind_of(value)
    return "any" in kinds or kind in kinds or (kind == "int" and "float" in kinds)


def kinds_of(annotation: object) -> set[str]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(kinds_of(part) for part in typing.get_args(annotation)))
    if origin is typing.Literal:
        return {kind_of(value) for value in typing.get_args(annotation)}
    plain = origin or annotation
    if plain in (None, type(None)):
        return {"null"}
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return {"str"}
    return {plain.__name__} if plain in (bool, int, float, str, list, dict) else {"any"}


def installed_trl_keys() -> str:
    """The text that trl_keys.txt must hold for the installed TRL."""
    from trl import ModelConfig, SFTConfig

    fields = {
        name: "|".join(sorted(kinds_of(annotation)))
        for config in (SFTConfig, ModelConfig)
        for name, annotation in typing.get_type_hints(config).items()
        if name in {field.name for field in dataclasses.fields(config)}
    }
    header = (
        "# Fields of trl.SFTConfig and trl.ModelConfig with their types. Written by python -m agenttuning.recipe.keys\n"
    )
    return header + "".join(f"{name}: {fields[name]}\n" for name in sorted(fields))


if __name__ == "__main__":
    resources.files("agenttuning.recipe").joinpath("trl_keys.txt").write_text(installed_trl_keys(), encoding="utf-8")
