"""Fine-tune the model of a recipe: TRL's SFTTrainer on a prepared mixture. Read `train` from top to bottom.

What it leaves in recipe.run_dir: resolved.yaml (what was decided), data/ (the rows and the realised mixture),
checkpoints/ (sealed, see training/checkpoints.py), model/ (the result, ready to load) and train.json (what happened).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import launch, run_record
from agenttuning.chat import load_for
from agenttuning.data.folders import claim
from agenttuning.data.prepare import Prepared, prepare
from agenttuning.data.rows import check_rows, rows_fingerprint, trainable_rows
from agenttuning.data.table import mixture_table
from agenttuning.model_size import is_local
from agenttuning.recipe import Recipe
from agenttuning.training import adapters, together
from agenttuning.training.attention import choose_attention
from agenttuning.training.model import load_model
from agenttuning.training.probe import report_probe
from agenttuning.training.resume import Start, clear, find
from agenttuning.training.saving import save_model
from agenttuning.training.settings import trainer_settings
from agenttuning.training.shared import check_shared
from agenttuning.training.together import on_main

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig


def train(
    recipe: Recipe,
    data_paths: Mapping[str, str | Path] | None = None,
    resume: str = "auto",
    allow_partial: bool = False,
    cpu_processes: int | None = None,
) -> Path:
    """Train, or go on training, and return the final model's folder, recipe.run_dir/"model".

    data_paths gives a source the user's own file or folder. resume: "auto" goes on from the newest whole checkpoint, or
    returns at once when this very run is finished; "never" starts afresh; else the path of a checkpoint, which with
    allow_partial may lack optimizer, schedule or random state. cpu_processes: rehearse the accelerate config with so
    many processes on the CPU. Raises UserError for a recipe, machine, source or checkpoint that cannot give the run
    that was asked for, and Stopped after a signal, when it has saved.
    """
    command = launch.command(recipe, data_paths, resume, allow_partial=allow_partial, cpu_processes=cpu_processes)
    if command is not None:
        launch.run(command)
        return recipe.run_dir / "model"
    launch.prepare_process(recipe, cpu_processes)

    settings = trainer_settings(recipe, rehearsal=cpu_processes is not None)
    main = settings.process_index == 0
    tokenizer = load_for(recipe)
    check_shared(recipe.run_dir, settings)
    with settings.main_process_first(local=False):
        prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
        rows = trainable_rows(prepared, recipe)
    # asked once: a file system may show the machines different states, and a local model is hashed for the answer
    if on_main(settings, lambda: resume == "auto" and run_record.finished(recipe, prepared)):
        if main:
            print(f"{recipe.run_dir / 'model'} is finished; to train it again: --resume never", flush=True)
        together.part(settings)
        return recipe.run_dir / "model"

    attention, why = choose_attention(recipe)
    seal = {
        "data": prepared.key,
        "rows": rows_fingerprint(prepared),
        "versions": run_record.versions(),
        "started_from": on_main(settings, lambda: run_record.started_from(recipe)),
    }
    start = on_main(settings, lambda: find_start(recipe, resume, prepared, seal, settings.world_size, allow_partial))
    if main:
        recipe.write(recipe.run_dir)
        print(announcement(recipe, settings, prepared, rows, f"{attention} ({why})", start), flush=True)

    from agenttuning.training import spread
    from agenttuning.training.trainer import Trainer

    trainer = Trainer(
        recipe=recipe,
        sources=list(prepared.mixture["sources"]),
        seal=seal | {"partial": list(start.partial) if start else []},
        start=start,
        model=load_model(recipe, attention),
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapters.peft_config(recipe),
    )
    if main:
        print(adapters.announcement(trainer.model, recipe), f"{'mfu':<10} {trainer.watch.mfu}", sep="\n", flush=True)
    on_main(settings, lambda: report_probe(trainer))
    spread.watch(trainer)
    trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    model = save_model(trainer, tokenizer)
    if main:
        print(f"written: {model}, {run_record.write(trainer, prepared, attention)}", flush=True)
    together.part(settings)
    return model


def find_start(
    recipe: Recipe, resume: str, prepared: Prepared, seal: dict[str, Any], processes: int, allow_partial: bool
) -> Start | None:
    """The checkpoint to go on from, after folders that would be in the way were put aside. From here to the end of this
    process, run_dir is its own.
    """
    claim(recipe.run_dir)
    start = find(recipe.run_dir, recipe, resume, seal, processes, allow_partial)
    if start is not None:
        check_rows(prepared)
    clear(recipe.run_dir, start, resume)
    return start


def announcement(
    recipe: Recipe, settings: SFTConfig, prepared: Prepared, rows: Dataset, attention: str, start: Start | None
) -> str:
    """What was decided, printed once before the work starts."""
    import torch

    get, batch = recipe.values.get, recipe.launch.global_batch
    name = get("model_name_or_path")
    model = f"{name} {'(local folder)' if is_local(name) else '@ ' + (get('model_revision') or 'main')}"
    packed = f"packed by {settings.packing_strategy}" if settings.packing else "not packed"
    precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "float32"
    optimizer = f"{get('optim') or settings.optim.value} {get('optim_args') or ''}".strip()
    lines = {
        "recipe": f"{recipe.name}  record {recipe.hash[:12]}  -> {recipe.run_dir}",
        "model": f"{model}; weights {get('dtype') or 'float32'}, compute {precision}",
        "batch": f"{batch} sequences a step = {settings.per_device_train_batch_size} per device x "
        f"{settings.world_size} processes x {settings.gradient_accumulation_steps} accumulated",
        "attention": attention,
        "optimizer": f"{optimizer}; peak rate {settings.learning_rate:g}, {settings.lr_scheduler_type.value}",
        "device": f"{settings.device.type}, and {torch.get_num_threads()} CPU threads a process",
        "rows": f"{prepared.mixture['draws']:,} conversations in {len(rows):,} rows ({packed}), loss {recipe.loss}",
        "steps": f"{settings.max_steps}, which is {settings.max_steps * batch / len(rows):.2f} passes over the rows; "
        + (f"going on from {start}" if start else "starting at step 0"),
    }
    return "\n".join([*(f"{name:<10} {text}" for name, text in lines.items()), mixture_table(prepared.mixture)])
