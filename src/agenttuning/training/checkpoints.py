"""Checkpoints that cannot lie: written under another name, sealed with a manifest, and only then given theirs.

The Trainer writes into checkpoints/.partial/checkpoint-N. `seal` syncs every file to disk and writes manifest.json with
their sizes and sha256; `publish` renames. So a folder checkpoints/checkpoint-N is whole, or was damaged afterwards, and
the manifest tells the two apart. resume.py decides what to go on from; sealing.py calls this from the Trainer.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agenttuning.data.folders import sync
from agenttuning.errors import UserError
from agenttuning.recipe import Recipe

MANIFEST, STAGING, BEST = "manifest.json", ".partial", "best"
HASHING_THREADS = 8  # sha256 releases the interpreter lock; large runs write many files


def staging(run_dir: Path) -> Path:
    """Where checkpoints lie while they are written. On the file system of the others, so that a rename moves them."""
    return run_dir / "checkpoints" / STAGING


def seal(folder: Path, step: int, recipe: Recipe, processes: int, about: Mapping[str, Any]) -> Path:
    """Sync every file of `folder` to disk and write manifest.json last; returns its path. Raises OSError, and UserError
    when a process's random state is missing, because its files then lie on another machine.

    about: `data` (Prepared.key), `rows` (rows.fingerprint), `started_from` (run_record.started_from), `versions`,
    `loss` (sealing.recent_loss) and `partial` (what an --allow-partial on the way here had lost).
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    states = sum(path.name.startswith("rng_state") for path in files)
    if 0 < states < processes:
        raise UserError(
            f"{folder} holds the random state of {states} of {processes} processes: the others wrote theirs to another "
            "machine's disk; a run could not go on from it; put --run-dir on a file system that all machines share"
        )
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        entries = list(pool.map(lambda path: {"bytes": path.stat().st_size, "sha256": digest(path, sync=True)}, files))
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        sync(inner)
    manifest = {
        "step": step,
        "recipe": recipe.flat(),
        "processes": processes,
        **about,
        "files": {path.relative_to(folder).as_posix(): entry for path, entry in zip(files, entries, strict=True)},
    }
    return write_synced(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def publish(staged: Path, folder: Path) -> None:
    """Give a sealed checkpoint its name. Raises OSError, also where something has that name already."""
    staged.rename(folder)
    sync(folder.parent)


def write_synced(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and make sure that it outlives a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8") as content:
        content.write(text)
        content.flush()
        os.fsync(content.fileno())
    partial.replace(path)
    sync(path.parent)
    return path


def damage(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """{file: what is wrong} for every file that is not as its manifest says, byte for byte."""
    wrong, same_size = {}, []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            wrong[name] = f"{name} is missing"
        elif path.stat().st_size != entry["bytes"]:
            wrong[name] = f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
        else:
            same_size.append(name)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(lambda name: digest(folder / name), same_size))
    for name, found in zip(same_size, digests, strict=True):
        if found != manifest["files"][name]["sha256"]:
            wrong[name] = f"the content of {name} has changed since it was saved"
    return wrong


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest if isinstance(manifest["files"], dict) and isinstance(manifest["recipe"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def bytes_of(folder: Path) -> int:
    """The bytes of all files of a checkpoint, by its manifest."""
    return sum(entry["bytes"] for entry in read_manifest(folder)["files"].values())


def in_order(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in (run_dir / "checkpoints").glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]
    return sorted((path for path in found if path.is_dir()), key=lambda path: -int(path.name[11:]))


def sealed(run_dir: Path) -> list[Path]:
    """The checkpoints of a run that have a manifest, newest first. Their files are not looked at."""
    return [folder for folder in in_order(run_dir) if read_manifest(folder) is not None]


def best(run_dir: Path) -> Path | None:
    """The checkpoint with the lowest training loss since the one before (manifest: loss.mean), the newest of equals;
    None where no checkpoint knows its loss. It is read from the manifests, so it cannot name one that is gone.
    """
    loss = {folder: read_manifest(folder).get("loss") for folder in sealed(run_dir)}
    return min((folder for folder in loss if loss[folder]), key=lambda folder: loss[folder]["mean"], default=None)


def rotate(run_dir: Path, keep: int | None, keep_best: bool) -> None:
    """Delete all but the newest `keep` sealed checkpoints and, with keep_best, the best. Called after `publish`, never
    before: the Trainer's own save_total_limit deletes the last good checkpoint before the next is known to be whole.
    """
    kept = best(run_dir) if keep_best else None
    for folder in sealed(run_dir)[keep:] if keep else []:
        if folder != kept:
            discard(run_dir, folder)
    point_to_best(run_dir, kept)


def discard(run_dir: Path, folder: Path) -> None:
    """Delete a checkpoint. It loses its name first, so that a kill on the way leaves none that is half there."""
    gone = staging(run_dir) / f"old-{folder.name}"
    gone.parent.mkdir(exist_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)  # what NFS keeps, or a kill leaves, the next start sweeps


def point_to_best(run_dir: Path, folder: Path | None) -> None:
    """Let the link checkpoints/best lead to `folder`. For people: the code asks `best`."""
    link, partial = run_dir / "checkpoints" / BEST, run_dir / "checkpoints" / f".{BEST}.tmp"
    if folder is None:
        link.unlink(missing_ok=True)
        return
    try:
        partial.unlink(missing_ok=True)
        partial.symlink_to(folder.name)
        partial.replace(link)
    except OSError as error:  # a file system without links
        print(f"{link} could not be made ({error.strerror}); the best checkpoint is {folder}", flush=True)


def sweep(run_dir: Path) -> None:
    """Delete what killed saves and deletions left in .partial, and say what it was."""
    folder = staging(run_dir)
    left = sorted(path for path in folder.iterdir()) if folder.is_dir() else []
    if left:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        names = ", ".join(path.name for path in left)
        print(f"deleted {len(left)} folders of {folder}, left by a stopped run: {names}, {size:,} bytes", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def digest(path: Path, sync: bool = False) -> str:
    """The sha256 of a file, in hex; with `sync`, it is on disk afterwards."""
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
        if sync:
            os.fsync(content.fileno())
    return found
