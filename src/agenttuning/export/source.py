"""What an export starts from: the run's model, or one of its checkpoints, and never a damaged one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning.errors import UserError
from agenttuning.model_files import model_digest
from agenttuning.training import checkpoints
from agenttuning.training.resume import FREE

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

FSDP = "pytorch_model_fsdp_0"  # accelerate.utils.FSDP_MODEL_NAME, model 0
# Blocks of a recipe that say where and for whom a run is made, not what its weights are.
ELSEWHERE = ("launch.", "publish.")
FOR_A_RESUME = ("optimizer", "scheduler", "rng_state", "scaler")


@dataclass(frozen=True)
class Source:
    """A folder with weights. kind: safetensors, fsdp2, zero3 or adapter; step: None where it is not recorded."""

    folder: Path
    kind: str
    step: int | None
    recipe: dict[str, Any] | None  # the flat record that it was trained with, where one was kept


def find(recipe: Recipe, asked: str | None = None, adapter: bool = False) -> Source:
    """The source that was asked for: a path, `best`, `last`, or None for run_dir/model (run_dir/adapter), else the
    newest whole checkpoint. Raises UserError when there is none, when it is damaged, or trained by another recipe.
    """
    folder = _folder(recipe, asked, "adapter" if adapter else "model")
    kind, manifest = kind_of(folder), checkpoints.read_manifest(folder)
    if reason := damage(folder, recipe):
        raise UserError(
            f"{folder} is not whole: {reason}; other weights than the trained ones would be published; restore its "
            "files, or export another checkpoint (--checkpoint PATH)"
        )
    recorded = manifest["recipe"] if manifest else _resolved(folder)
    _check_recipe(recipe, recorded, folder)
    if adapter and kind != "adapter":
        raise UserError(f"--adapter: {folder} holds a whole model and no adapter; leave --adapter out")
    return Source(folder, kind, _step(folder, manifest, recipe), recorded)


def damage(folder: Path, recipe: Recipe) -> str | None:
    """Why these are not the weights that were saved; None where every byte is as it was, or where nobody kept a record
    (a folder from elsewhere). Of a checkpoint all is compared but what only a resume reads.
    """
    manifest = checkpoints.read_manifest(folder)
    if manifest is None:
        if re.fullmatch(r"checkpoint-\d+", folder.name) or (folder / "trainer_state.json").is_file():
            return f"it has no {checkpoints.MANIFEST} that can be read: the run was stopped while it was saved"
        recorded = _trained(recipe).get("model") if is_result(folder, recipe, "model") else None
        changed = recorded is not None and recorded != model_digest(folder)
        return "its content has changed since it was trained" if changed else None
    files = {name: entry for name, entry in manifest["files"].items() if not name.startswith(FOR_A_RESUME)}
    return next(iter(checkpoints.damage(folder, {"files": files}).values()), None)


def kind_of(folder: Path) -> str:
    """How the weights of a folder are stored. Raises UserError where there are none that can be exported."""
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if any(folder.glob("model*.safetensors")):
        return "safetensors"
    if (folder / FSDP / ".metadata").is_file():
        return "fsdp2"
    if (folder / "latest").is_file() and any(folder.glob("global_step*")):
        return "zero3"
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{folder} holds no weights that can be exported (there is {there}); expected are model*.safetensors, "
        f"{FSDP}/ of a sharded FSDP checkpoint, global_step*/ of ZeRO, or adapter_config.json; check the path"
    )


def _folder(recipe: Recipe, asked: str | None, result: str) -> Path:
    run_dir = recipe.run_dir
    if asked is None and any((run_dir / result / name).is_file() for name in ("config.json", "adapter_config.json")):
        return run_dir / result
    if asked not in (None, "best", "last"):
        if not Path(asked).is_dir():
            raise UserError(f"--checkpoint {asked}: there is no such folder; give a folder, or best, or last")
        return Path(asked)
    if asked == "best":
        folder = checkpoints.best(run_dir)
        if folder is None:
            raise UserError(f"--checkpoint best: no checkpoint of {run_dir} knows its loss; give last, or a path")
        return folder
    for folder in checkpoints.in_order(run_dir):
        reason = damage(folder, recipe)
        if reason is None:
            return folder
        print(f"checkpoint {folder} is not used: {reason}", flush=True)
    raise UserError(
        f"{run_dir} holds neither a finished model nor a whole checkpoint; there is nothing to export; train the "
        "recipe first, or give --checkpoint PATH"
    )


def is_result(folder: Path, recipe: Recipe, *names: str) -> bool:
    """Whether a folder is what the finished run left under one of these names (default: any)."""
    places = [recipe.run_dir / name for name in names or ("model", "adapter")]
    return any(folder.resolve() == place.resolve() for place in places)


def _trained(recipe: Recipe) -> dict[str, Any]:
    """train.json of the run; empty where it has none."""
    try:
        return json.loads((recipe.run_dir / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _resolved(folder: Path) -> dict[str, Any] | None:
    from agenttuning.recipe.schema import flatten

    try:
        return flatten(yaml.safe_load((folder.parent / "resolved.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, AttributeError):
        return None


def _check_recipe(recipe: Recipe, recorded: dict[str, Any] | None, folder: Path) -> None:
    if recorded is None:
        return
    now = json.loads(json.dumps(recipe.flat()))
    keys = [key for key in sorted({*recorded, *now}) if not key.startswith(ELSEWHERE) and key not in FREE]
    changed = [key for key in keys if recorded.get(key) != now.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {recorded.get(key)!r} then, {now.get(key)!r} now" for key in changed[:5])
        raise UserError(
            f"{folder} was trained by another recipe ({listed}); tokenizer, licence and card would be those of "
            "another run; give the key=value words that it was trained with"
        )


def _step(folder: Path, manifest: dict[str, Any] | None, recipe: Recipe) -> int | None:
    if manifest:
        return manifest["step"]
    return _trained(recipe).get("steps") if is_result(folder, recipe) else None
