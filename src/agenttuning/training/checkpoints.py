"""Checkpoints that cannot lie: a manifest, written last, says what each holds; resuming believes nothing else.

The Trainer resumes from a folder without optimizer, scheduler or random state in silence, and from the highest number
even when that folder is half written (transformers 5.23). Here `seal` writes manifest.json with the size and sha256 of
every file, synced to disk, after all of them; `find` verifies and walks back to the newest folder that is whole.
"""

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.recipe import Recipe

MANIFEST = "manifest.json"
# Without these the Trainer goes on with fresh state and says nothing. DeepSpeed keeps its optimizer in global_step*/.
NEEDED = {"the trainer's state": ("trainer_state.json",), "optimizer state": ("optimizer", "global_step"),
          "random state": ("rng_state",)}  # fmt: skip
HASHING_THREADS = 8  # sha256 releases the interpreter lock; large runs write many files


def seal(
    folder: Path,
    step: int,
    recipe: Recipe,
    data_key: str,
    versions: dict[str, str],
    processes: int,
    started_from: str | None = None,
) -> Path:
    """Write `folder`/manifest.json last, synced with its directory; returns its path. Raises OSError.

    data_key: Prepared.key of the rows trained on; processes: the number of processes of the run; started_from: what
    run_record.started_from says of the weights at step 0.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        entries = list(pool.map(lambda path: {"bytes": path.stat().st_size, "sha256": _digest(path, sync=True)}, files))
    manifest = {
        "step": step,
        "recipe": recipe.flat(),
        "data": data_key,
        "started_from": started_from,
        "processes": processes,
        "versions": versions,
        "files": {path.relative_to(folder).as_posix(): entry for path, entry in zip(files, entries, strict=True)},
    }
    return write_synced(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def write_synced(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and make sure that it outlives a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8") as content:
        content.write(text)
        content.flush()
        os.fsync(content.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def problem(folder: Path) -> str | None:
    """Why this checkpoint cannot be resumed from, or None when every byte is as it was saved."""
    if not any(folder.iterdir()):
        return "it is empty: the run was stopped before anything was saved"
    manifest = read_manifest(folder)
    if manifest is None:
        return f"it has no {MANIFEST}: the run was stopped while it was saved"
    names = manifest["files"]
    for what, starts in NEEDED.items():
        if not any(name.startswith(starts) for name in names):
            return f"it was saved without {what} (save_only_model?)"
    for name, entry in names.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(lambda name: _digest(folder / name), names))
    changed = [name for name, digest in zip(names, digests, strict=True) if digest != names[name]["sha256"]]
    return f"the content of {changed[0]} has changed since it was saved" if changed else None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest if isinstance(manifest["files"], dict) and isinstance(manifest["recipe"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_order(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in (run_dir / "checkpoints").glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    return sorted((path for path in found if path.is_dir()), key=lambda path: -int(path.name[11:]))


def find(
    run_dir: Path,
    recipe: Recipe,
    resume: str = "auto",
    data_key: str | None = None,
    started_from: str | None = None,
) -> Path | None:
    """The checkpoint to go on from, or None to start at step 0; prints what it skipped and why. Changes nothing.

    resume: "auto" takes the newest whole checkpoint, "never" none, anything else is the path of one. Raises UserError
    when all finished checkpoints are damaged, when a path is not a whole checkpoint, and when recipe or data are not
    those of the checkpoint. A run killed during its first save has only unfinished ones and starts at step 0.
    """
    if resume == "never":
        return None
    candidates = in_order(run_dir) if resume == "auto" else [Path(resume)]
    if resume != "auto" and not candidates[0].is_dir():
        raise UserError(f"--resume {resume}: there is no such folder; give a checkpoint-N folder, or auto, or never")
    skipped = {}
    for folder in candidates:
        reason = problem(folder)
        if reason is None:
            _check_same(folder, recipe, data_key, started_from)
            return folder
        skipped[folder] = reason
        print(f"checkpoint {folder} is not used: {reason}", flush=True)
    damaged = [folder for folder in skipped if read_manifest(folder) is not None]
    if damaged or (skipped and resume != "auto"):
        listed = "; ".join(f"{folder.name}: {reason}" for folder, reason in skipped.items())
        raise UserError(
            f"no checkpoint of {run_dir} is whole ({listed}); going on from one would train another model in silence; "
            "restore its files, or start again with --resume never"
        )
    return None


def _check_same(folder: Path, recipe: Recipe, data_key: str | None, started_from: str | None) -> None:
    manifest = read_manifest(folder)
    before, now = manifest["recipe"], json.loads(json.dumps(recipe.flat()))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed)
        raise UserError(
            f"{folder} was made by another recipe ({listed}); one run would be trained by two recipes; undo the "
            "change, train into another --run-dir, or start again with --resume never"
        )
    if data_key is not None and manifest["data"] != data_key:
        raise UserError(
            f"{folder} was trained on other rows than those prepared now (a source or the tokenizer changed); the "
            "order of the rows would not continue; restore the data, or start again with --resume never"
        )
    if started_from is not None and manifest.get("started_from") != started_from:
        raise UserError(
            f"{folder} comes from other starting weights than those in {recipe.values['model_name_or_path']} now; "
            "going on would give the old model; restore them, train into another --run-dir, or start again with "
            "--resume never"
        )


def clear(run_dir: Path, chosen: Path | None, resume: str) -> None:
    """Make room before training: with "never", old checkpoints move to checkpoints.before-N; else the folders newer
    than `chosen` that are not whole are deleted, since the run will write to the same names.
    """
    checkpoints = run_dir / "checkpoints"
    if resume == "never":
        if any(in_order(run_dir)):
            number = next(n for n in range(1, 10_000) if not (run_dir / f"checkpoints.before-{n}").exists())
            checkpoints.rename(run_dir / f"checkpoints.before-{number}")
            print(f"earlier checkpoints moved to {run_dir / f'checkpoints.before-{number}'}", flush=True)
        return
    for folder in in_order(run_dir):
        if chosen is not None and folder.resolve() == chosen.resolve():
            break
        if problem(folder):
            shutil.rmtree(folder)


def rotate(run_dir: Path, keep: int | None) -> None:
    """Delete all but the newest `keep` sealed checkpoints. Called after `seal`, never before: the Trainer's own
    save_total_limit deletes the last good checkpoint before the next one is known to be whole.
    """
    sealed = [folder for folder in in_order(run_dir) if read_manifest(folder) is not None]
    for folder in sealed[keep:] if keep else []:
        shutil.rmtree(folder)


def _digest(path: Path, sync: bool = False) -> str:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        if sync:
            os.fsync(content.fileno())
    return digest
