"""Fine-tune the model of a recipe: TRL's SFTTrainer on a prepared mixture. Read `train` from top to bottom.

What it leaves in recipe.run_dir: resolved.yaml (what was decided), data/ (the rows and the realised mixture),
checkpoints/ (sealed, see checkpoints.py), model/ (the result, ready to load) and train.json (what happened).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import checkpoints, launch, plan, run_record
from agenttuning.chat import encode, load_for, load_tokenizer, template_record
from agenttuning.data.prepare import Prepared, prepare
from agenttuning.data.rows import trainable_rows
from agenttuning.data.table import mixture_table
from agenttuning.errors import UserError
from agenttuning.machine import detect
from agenttuning.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast
    from trl import SFTConfig

    from agenttuning.trainer import Trainer

# Fields of trl.ModelConfig that this room acts on. The others (adapters, quantisation) are not wired up yet.
MODEL_KEYS = ("model_name_or_path", "model_revision", "dtype")
PROBE = [
    {"role": "user", "content": "Open the drawer.\n  It holds a </s> and a café."},
    {"role": "assistant", "content": "Thought: I look.\nAction: open drawer 1", "loss": True},
]


def train(recipe: Recipe, data_paths: Mapping[str, str | Path] | None = None, resume: str = "auto") -> Path:
    """Train, or go on training, and return the final model's folder, recipe.run_dir/"model".

    data_paths gives a source the user's own file or folder. resume: "auto" goes on from the newest whole checkpoint, or
    returns at once when this very run is finished; "never" starts afresh; else the path of a checkpoint. Raises
    UserError for a recipe, machine, source or checkpoint that cannot give the run that was asked for.
    """
    command = launch.command(recipe, data_paths, resume)
    if command is not None:
        launch.run(command)
        return recipe.run_dir / "model"
    launch.prepare_process(recipe)

    settings = trainer_settings(recipe)
    main = settings.process_index == 0
    tokenizer = load_for(recipe)
    with settings.main_process_first(local=False):
        prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
        rows = trainable_rows(prepared, recipe)
    if resume == "auto" and run_record.finished(recipe, prepared):
        if main:
            print(f"{recipe.run_dir / 'model'} is finished; --resume never trains it again", flush=True)
        return recipe.run_dir / "model"

    attention, why = choose_attention(recipe)
    start = on_main(settings, lambda: find_start(recipe, resume, prepared))
    if main:
        recipe.write(recipe.run_dir)
        print(announcement(recipe, settings, prepared, rows, f"{attention} ({why})", start), flush=True)

    from agenttuning.trainer import Trainer

    trainer = Trainer(
        recipe=recipe,
        sources=list(prepared.mixture["sources"]),
        seal={
            "data_key": prepared.key,
            "versions": run_record.versions(),
            "started_from": run_record.started_from(recipe),
        },
        model=load_model(recipe, attention),
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    model = save_model(trainer, tokenizer)
    if main:
        print(f"written: {model}, {run_record.write(trainer, prepared, attention)}", flush=True)
    return model


def trainer_settings(recipe: Recipe) -> SFTConfig:
    """trl.SFTConfig from the recipe's own keys, with what the machine decides; starts the process group of a launch.

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
    values.setdefault("ddp_find_unused_parameters", False)  # full fine-tuning uses them all; the search takes time
    values["save_total_limit"] = None  # checkpoints.rotate deletes, and only once the next one is sealed
    processes = detect().world_size or 1
    settings = SFTConfig(
        **values,
        output_dir=str(recipe.run_dir / "checkpoints"),
        gradient_accumulation_steps=plan.accumulation(recipe, processes),
        use_cpu=recipe.launch.accelerate_config == "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are made, verified and packed before
        disable_tqdm=not sys.stderr.isatty(),
    )
    if settings.world_size != processes:
        raise UserError(
            f"the launcher announced {processes} processes and {settings.world_size} came up; the global batch would "
            "be another; check the accelerate config"
        )
    return settings


def check_keys(recipe: Recipe, known: set[str]) -> None:
    """Raise UserError for keys that TRL would take and this room does not act on, and for values known to train badly
    in silence. known: the fields of trl.SFTConfig.
    """
    get = recipe.values.get
    unused = [key for key, value in recipe.values.items() if value and key not in known and key not in MODEL_KEYS]
    if get("trust_remote_code"):
        unused.append("trust_remote_code")
    if unused:
        raise UserError(
            f"{recipe.path}: `{unused[0]}` is not acted on by `train` (full fine-tuning of the library's own models); "
            "it would be ignored in silence; remove it"
        )
    if get("packing") and get("packing_strategy", "bfd") == "wrapped":
        raise UserError(
            f"{recipe.path}: packing_strategy: wrapped cuts conversations and lets them attend to each other; use bfd"
        )
    if get("dtype") not in (None, "float32"):
        raise UserError(
            f"{recipe.path}: dtype: {get('dtype')}; without float32 master weights most updates at these rates round "
            "to nothing while the loss looks the same; use float32, with bf16: true for speed"
        )
    if get("optim") == "muon":
        from agenttuning.optim import parse_arguments

        parse_arguments(get("optim_args"))


def choose_attention(recipe: Recipe) -> tuple[str, str]:
    """The attention implementation and the reason. Raises UserError when the recipe pins one that is absent here:
    transformers would go and look for it on the Hub.
    """
    from transformers.utils import import_utils

    asked = recipe.launch.attention
    present = {
        f"flash_attention_{number}": getattr(import_utils, f"is_flash_attn_{number}_available")()
        for number in (3, 2, 4)
    }
    if asked in present and not present[asked]:
        raise UserError(
            f"launch.attention: {asked} is not installed here, or there is no GPU for it; another attention would have "
            "another speed and memory than planned; install it (pip install -e '.[gpu]') or write auto"
        )
    if asked != "auto":
        return asked, "pinned by the recipe"
    for name in ("flash_attention_3", "flash_attention_2"):
        if present[name]:
            return name, "auto: it is installed and a GPU is there"
    return "sdpa", "auto: neither flash_attention_3 nor _2 with a GPU here"


def find_start(recipe: Recipe, resume: str, prepared: Prepared) -> Path | None:
    """The checkpoint to go on from, after folders that would be in the way were put aside."""
    start = checkpoints.find(recipe.run_dir, recipe, resume, prepared.key, run_record.started_from(recipe))
    checkpoints.clear(recipe.run_dir, start, resume)
    return start


def on_main(settings: SFTConfig, action: Callable[[], Any]) -> Any:
    """What `action` returns, run by the main process alone; what it raises, all processes raise, so that none waits."""
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if settings.process_index == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    if settings.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def load_model(recipe: Recipe, attention: str) -> PreTrainedModel:
    """The recipe's model in float32 with this attention."""
    import torch
    from transformers import AutoModelForCausalLM

    name, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision") or "main"
    model = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
    )
    if model.config._attn_implementation != attention:
        raise UserError(f"{name} runs with {model.config._attn_implementation}, not {attention}; pin launch.attention")
    return model


def announcement(
    recipe: Recipe, settings: SFTConfig, prepared: Prepared, rows: Dataset, attention: str, start: Path | None
) -> str:
    """What was decided, printed once before the work starts."""
    import torch

    get, batch = recipe.values.get, recipe.launch.global_batch
    model = f"{get('model_name_or_path')} @ {get('model_revision') or 'main'}"
    packed = f"packed by {settings.packing_strategy}" if settings.packing else "not packed"
    precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "float32"
    optimizer = f"{get('optim') or settings.optim.value} {get('optim_args') or ''}".strip()
    lines = {
        "recipe": f"{recipe.name}  record {recipe.hash[:12]}  -> {recipe.run_dir}",
        "model": f"{model}; weights float32, compute {precision}",
        "batch": f"{batch} sequences a step = {settings.per_device_train_batch_size} per device x "
        f"{settings.world_size} processes x {settings.gradient_accumulation_steps} accumulated",
        "attention": attention,
        "optimizer": f"{optimizer}; peak rate {settings.learning_rate:g}, {settings.lr_scheduler_type.value}",
        "threads": f"{torch.get_num_threads()} beside {settings.device.type}",
        "rows": f"{prepared.mixture['draws']:,} conversations in {len(rows):,} rows ({packed}), loss {recipe.loss}",
        "steps": f"{settings.max_steps}, which is {settings.max_steps * batch / len(rows):.2f} passes over the rows; "
        + (f"going on from {start}" if start else "starting at step 0"),
    }
    return "\n".join([*(f"{name:<10} {text}" for name, text in lines.items()), mixture_table(prepared.mixture)])


def save_model(trainer: Trainer, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write run_dir/model whole or not at all: full float32 weights, config, tokenizer. Called by all processes."""
    folder = trainer.recipe.run_dir / "model"
    partial = folder.with_name(".model.tmp")
    if trainer.args.should_save:
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_fsdp_enabled:
        # with a sharded state dict, Trainer.save_model writes nothing and says nothing
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle with this machine's paths
        check_saved(partial, tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def check_saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise UserError unless weights, config and template are there and the tokenizer gives the same ids again."""
    absent = [name for name in ("config.json", "tokenizer.json", "chat_template.jinja") if not (folder / name).exists()]
    if not any(path.stat().st_size for path in folder.glob("*.safetensors")):
        absent.append("weights")
    if absent:
        raise UserError(f"{folder} was saved without {', '.join(absent)}; it cannot be used; a checkpoint still can")
    again = load_tokenizer(folder)
    if encode(PROBE, again) != encode(PROBE, tokenizer) or template_record(again) != template_record(tokenizer):
        raise UserError(f"{folder}: its tokenizer gives other ids than the one trained with; do not use this model")
