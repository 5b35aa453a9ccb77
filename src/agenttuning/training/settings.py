"""From a recipe to trl.SFTConfig, and which of TRL's keys are acted on at all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agenttuning import plan, trackers
from agenttuning.errors import UserError
from agenttuning.machine import detect
from agenttuning.recipe.accelerate_config import check_optimizer, validate
from agenttuning.training import adapters

if TYPE_CHECKING:
    from trl import SFTConfig

    from agenttuning.recipe import Recipe

# What this room acts on besides trl.SFTConfig: fields of trl.ModelConfig, and a key of our own.
MODEL_KEYS = ("model_name_or_path", "model_revision", "dtype", "hidden_dropout", *adapters.KEYS)
WAIT_SECONDS = 2 * 60 * 60  # of processes for each other


def trainer_settings(recipe: Recipe, rehearsal: bool = False) -> SFTConfig:
    """trl.SFTConfig from the recipe's own keys, with what the machine decides; starts the process group of a launch.

    rehearsal: on the CPU, whatever the accelerate config says.

    Raises UserError for keys that this room does not act on, and where the global batch does not divide.
    """
    from dataclasses import fields

    import datasets
    import transformers
    from trl import SFTConfig

    if not sys.stderr.isatty():  # only log lines, no bars
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    known = {field.name for field in fields(SFTConfig)}
    check_keys(recipe, known)
    values = {key: value for key, value in recipe.values.items() if key in known and key not in MODEL_KEYS}
    if values.get("optim") == "muon":
        values |= {"optim": "adamw_torch", "optim_args": None}  # never built: Trainer.create_optimizer builds ours
    # what is no number must be seen; this filter would put the average of other steps in its place
    values.setdefault("logging_nan_inf_filter", False)
    # one process alone prepares data, reads a checkpoint's bytes (70B: 830 GB) or merges an adapter; the others wait in
    # a collective, which the default of half an hour would abort
    values.setdefault("ddp_timeout", WAIT_SECONDS)
    values.setdefault("ddp_find_unused_parameters", False)  # full fine-tuning uses them all; the search takes time
    values |= trackers.settings(recipe)
    # checkpoints.rotate deletes, and only once the next one is sealed; it keeps the best by the training loss
    values["save_total_limit"] = values["metric_for_best_model"] = None
    processes, config = detect().world_size or 1, validate(recipe.accelerate_config)
    settings = SFTConfig(
        **values,
        output_dir=str(recipe.run_dir / "checkpoints"),
        gradient_accumulation_steps=plan.accumulation(recipe, processes),
        use_cpu=rehearsal or bool(config.get("use_cpu")),
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are made, verified and packed before
        disable_tqdm=not sys.stderr.isatty(),
    )
    if settings.world_size != processes:
        raise UserError(
            f"the launcher announced {processes} processes and {settings.world_size} came up; the global batch would "
            "be another; check the accelerate config"
        )
    if rehearsal:
        from agenttuning.training.spread import pose

        pose(settings, config)
    return settings


def check_keys(recipe: Recipe, known: set[str]) -> None:
    """Raise UserError for keys that TRL would take and this room does not act on, and for values known to train badly
    in silence. known: the fields of trl.SFTConfig.
    """
    get = recipe.values.get
    unused = [key for key, value in recipe.values.items() if value and key not in known and key not in MODEL_KEYS]
    # TRL has these for its own loading
    unused += [key for key in ("trust_remote_code", "model_init_kwargs") if get(key)]
    if unused:
        raise UserError(
            f"{recipe.path}: `{unused[0]}` is not acted on by `train` (which loads the library's own models); "
            "it would be ignored in silence; remove it"
        )
    if get("packing") and get("packing_strategy", "bfd") == "wrapped":
        raise UserError(
            f"{recipe.path}: packing_strategy: wrapped cuts conversations and lets them attend to each other; use bfd"
        )
    adapters.check(recipe)
    if not get("use_peft") and get("dtype") not in (None, "float32"):
        raise UserError(
            f"{recipe.path}: dtype: {get('dtype')}; without float32 master weights most updates at these rates round "
            "to nothing while the loss looks the same; use float32, with bf16: true for speed"
        )
    check_saving(recipe)
    if get("hidden_dropout"):
        from agenttuning.training import dropout

        dropout.probability(recipe)
    if get("optim") == "muon":
        from agenttuning.training.optim import parse_arguments

        parse_arguments(get("optim_args"))
    check_optimizer(recipe, validate(recipe.accelerate_config))


def check_saving(recipe: Recipe) -> None:
    """Raise UserError for keys about saving that would do nothing here: there is no held-out set to evaluate on, and
    signals and checkpoints are handled by signals.py and sealing.py.
    """
    get = recipe.values.get
    unused = {
        "eval_strategy": get("eval_strategy") not in (None, "no"),
        "load_best_model_at_end": get("load_best_model_at_end"),
        "metric_for_best_model": get("metric_for_best_model") not in (None, "loss"),
        "greater_is_better": get("greater_is_better"),
        "save_strategy": get("save_strategy") == "best",
    }
    named = next((key for key, wrong in unused.items() if wrong), None)
    if named:
        raise UserError(
            f"{recipe.path}: `{named}: {get(named)}` needs a held-out set, which a mixture does not have; write "
            "`metric_for_best_model: loss` to keep the checkpoint of the lowest training loss as checkpoints/best"
        )
    if get("enable_jit_checkpoint"):
        raise UserError(f"{recipe.path}: `enable_jit_checkpoint`: SIGTERM saves here without it; remove the key")
    if get("save_on_each_node"):
        raise UserError(
            f"{recipe.path}: `save_on_each_node` would leave each machine with a part of a checkpoint; put --run-dir "
            "on a file system that all machines share, and remove the key"
        )
