"""Which checkpoint a run goes on from, and why no other: the newest that is whole and belongs to this very run.

The Trainer goes on from a folder without optimizer, scheduler or random state in silence, and from the highest number
even when that folder is half written (transformers 5.23).
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.recipe import Recipe
from agenttuning.training.checkpoints import MANIFEST, damage, discard, in_order, read_manifest, sweep

OPTIMIZER, SCHEDULE, RANDOM, SCALE = "optimizer state", "learning-rate schedule", "random state", "loss scale of fp16"
# The files that hold each part; DeepSpeed keeps several in global_step*/. Without the first two there is no checkpoint.
NEEDED = {
    "the trainer's state": ("trainer_state.json",),
    "weights": ("model", "adapter_model", "pytorch_model", "global_step"),
    OPTIMIZER: ("optimizer", "global_step"),
    SCHEDULE: ("scheduler.pt", "global_step"),
    RANDOM: ("rng_state",),
}
# What --allow-partial can do without, and what the run then does.
OPTIONAL = {
    OPTIMIZER: ("optimizer", "the moments start from zero, as at step 0"),
    SCHEDULE: ("scheduler.pt", "the rate is computed again from the step"),
    RANDOM: ("rng_state", "dropout draws other masks than the uninterrupted run"),
    SCALE: ("scaler.pt", "the first steps may be skipped until the scale is found again"),
}
# Keys that may change under a resume: nothing that is trained depends on them.
FREE = (
    "save_steps", "save_strategy", "save_total_limit", "metric_for_best_model", "logging_steps", "report_to",
    "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "dataloader_num_workers", "ddp_timeout", "launch.max_loss_spike", "launch.gpus", "launch.gpu_name",
    "launch.gpu_memory_gib", "launch.gpu_peak_tflops", "launch.mfu", "launch.usd_per_gpu_hour",
    "publish.hub_model_id", "publish.hub_dataset_id", "publish.hub_traces_id", "publish.collection",
    "publish.private", "publish.licence", "publish.base_model",
)  # fmt: skip
# Keys that say how the run is spread, which --allow-partial lets change: sums are then rounded in another order.
SPREAD = ("launch.accelerate_config", "per_device_train_batch_size")


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from. lost: the parts of OPTIONAL that --allow-partial does without; partial: those of
    this and of earlier resumes, each {"step": N, "lost": [...]}, for the manifests and train.json."""

    folder: Path
    step: int
    lost: tuple[str, ...] = ()
    partial: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.folder}{' WITHOUT ' + ', '.join(self.lost) if self.lost else ''}"


def find(
    run_dir: Path,
    recipe: Recipe,
    resume: str = "auto",
    about: Mapping[str, Any] | None = None,
    processes: int | None = None,
    allow_partial: bool = False,
) -> Start | None:
    """The checkpoint to go on from, or None to start at step 0; prints what it skipped and why. Changes nothing.

    resume: "auto" takes the newest whole checkpoint, "never" none, anything else is the path of one, which with
    allow_partial may lack the parts in OPTIONAL. about: as in checkpoints.seal; what is None or left out is not
    compared, nor is the number of processes. Raises UserError when all checkpoints are damaged, when a path is not a
    whole checkpoint, and when recipe, data, starting weights or processes are not those of the checkpoint.
    """
    if allow_partial and resume in ("auto", "never"):
        raise UserError(f"--allow-partial with --resume {resume} names no checkpoint; give one: --resume PATH")
    if resume == "never":
        return None
    candidates = in_order(run_dir) if resume == "auto" else [Path(resume)]
    if resume != "auto" and not candidates[0].is_dir():
        raise UserError(f"--resume {resume}: there is no such folder; give a checkpoint-N folder, or auto, or never")
    skipped = {}
    for folder in candidates:
        reason, lost = judge(folder)
        if reason is None or (lost and allow_partial):
            return _start(folder, lost, recipe, about or {}, processes, allow_partial)
        skipped[folder] = reason, lost
        print(f"checkpoint {folder} is not used: {reason}", flush=True)
    if any(read_manifest(folder) is not None for folder in skipped) or (skipped and resume != "auto"):
        listed = "; ".join(f"{folder.name}: {reason}" for folder, (reason, _) in skipped.items())
        usable = [folder for folder, (_, lost) in skipped.items() if lost]
        partial = f"go on without it by --resume {usable[0]} --allow-partial, " if usable else ""
        raise UserError(
            f"no checkpoint of {run_dir} is whole ({listed}); going on from one would train another model in silence; "
            f"restore its files, {partial}or start again with --resume never"
        )
    return None


def judge(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    """Why a run cannot go on from this checkpoint (None: it can), and which parts of OPTIONAL it would do so without
    (empty when more than those are damaged).
    """
    if not any(folder.iterdir()):
        return "it is empty: the run was stopped before anything was saved", ()
    manifest = read_manifest(folder)
    if manifest is None:
        return f"it has no {MANIFEST} that can be read: the run was stopped while it was saved", ()
    absent = [what for what, starts in NEEDED.items() if not any(name.startswith(starts) for name in manifest["files"])]
    wrong = damage(folder, manifest)
    if not absent and not wrong:
        return None, ()
    reason = f"it was saved without {absent[0]} (save_only_model?)" if absent else next(iter(wrong.values()))
    parts = {part for part, (start, _) in OPTIONAL.items() for name in wrong if name.startswith(start)} | {*absent}
    if SCHEDULE in parts:
        parts.add(OPTIMIZER)  # the Trainer loads both or neither
    fatal = [what for what in absent if what not in OPTIONAL]
    fatal += [name for name in wrong if not name.startswith(tuple(start for start, _ in OPTIONAL.values()))]
    return reason, () if fatal else tuple(part for part in OPTIONAL if part in parts)


def _start(
    folder: Path,
    lost: tuple[str, ...],
    recipe: Recipe,
    about: Mapping[str, Any],
    processes: int | None,
    allow_partial: bool,
) -> Start:
    manifest = read_manifest(folder)
    check_same(folder, manifest, recipe, about, FREE + SPREAD if allow_partial else FREE)
    before = manifest["processes"]
    if processes not in (None, before):
        sharded = any(name.startswith("global_step") for name in manifest["files"])
        if sharded or not allow_partial:
            advice = "" if sharded else f"or go on without it by --resume {folder} --allow-partial, "
            what = "DeepSpeed's optimizer state, cut for" if sharded else "the random state of"
            raise UserError(
                f"{folder} was saved by {before} processes, and this run has {processes}: it holds {what} {before}; "
                f"the run would not go on as it began; start {before} processes, {advice}or --resume never"
            )
        lost = tuple(part for part in OPTIONAL if part in lost or part == RANDOM)
    for part in lost:
        print(f"WARNING: {folder} goes on without its {part}: {OPTIONAL[part][1]}", flush=True)
    partial = [*manifest.get("partial", []), *([{"step": manifest["step"], "lost": list(lost)}] if lost else [])]
    return Start(folder, manifest["step"], lost, tuple(partial))


def check_same(
    folder: Path, manifest: Mapping[str, Any], recipe: Recipe, about: Mapping[str, Any], free: tuple[str, ...]
) -> None:
    """Raise UserError unless a checkpoint comes from this recipe, these rows and these starting weights; a changed key
    of `free` is printed. about: as in checkpoints.seal.
    """
    before, now = manifest["recipe"], json.loads(json.dumps(recipe.flat()))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    listed = {key: f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed}
    if set(changed) - set(free):
        raise UserError(
            f"{folder} was made by another recipe ({'; '.join(listed[key] for key in changed if key not in free)}); "
            "one run would be trained by two recipes; undo the change, train into another --run-dir, or start again "
            "with --resume never"
        )
    for line in listed.values():
        print(f"changed since {folder.name}: {line}", flush=True)
    differs = [key for key in ("data", "rows") if about.get(key) is not None and manifest.get(key) != about[key]]
    if differs:
        raise UserError(
            f"{folder} was trained on other rows than those prepared now (a source, the tokenizer or a library "
            "changed); the order of the rows would not continue; restore the data, or start again with --resume never"
        )
    if about.get("started_from") is not None and manifest.get("started_from") != about["started_from"]:
        raise UserError(
            f"{folder} comes from other starting weights than those in {recipe.values['model_name_or_path']} now; "
            "going on would give the old model; restore them, train into another --run-dir, or start again with "
            "--resume never"
        )


def clear(run_dir: Path, start: Start | None, resume: str) -> None:
    """Make room before training: folders that the run would write to again are deleted where they were never sealed,
    else moved to checkpoints.before-N. With "never" those are all, otherwise the ones after the step it goes on from.
    """
    if (run_dir / "checkpoints").is_dir():
        sweep(run_dir)
    aside = []
    for folder in in_order(run_dir):
        if start is not None and (folder.resolve() == start.folder.resolve() or int(folder.name[11:]) < start.step):
            continue
        if resume == "never" or read_manifest(folder) is not None:
            aside.append(folder)
        else:
            discard(run_dir, folder)
    if aside:
        number = next(n for n in range(1, 10_000) if not (run_dir / f"checkpoints.before-{n}").exists())
        place = run_dir / f"checkpoints.before-{number}"
        place.mkdir()
        for folder in reversed(aside):
            folder.rename(place / folder.name)
        print(f"moved to {place}: {', '.join(folder.name for folder in reversed(aside))}", flush=True)


def place_schedule(scheduler: Any, step: int) -> None:
    """Bring a new learning-rate scheduler to `step`: it is a function of the step alone. Raises UserError for one that
    also looks at the loss.
    """
    from torch.optim.lr_scheduler import LambdaLR

    if not isinstance(scheduler, LambdaLR):
        raise UserError(
            f"{type(scheduler).__name__} depends on more than the step, and its state is lost; take a whole checkpoint"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimizer step before each of these
        for _ in range(step):
            scheduler.step()
