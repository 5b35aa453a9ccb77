"""What an export starts from: the run's model, or one of its checkpoints, and never a damaged one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning.errors import UserError
from agenttuning.training import checkpoints

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

FSDP = "pytorch_model_fsdp_0"  # accelerate.utils.FSDP_MODEL_NAME, model 0
# Blocks of a recipe that say where and for whom a run is made, not what its weights are.
ELSEWHERE = ("launch.", "publish.")


@dataclass(frozen=True)
class Source:
    """A folder with weights. kind: safetensors, fsdp2, zero3 or adapter; step: None where it is not recorded."""

    folder: Path
    kind: str
    step: int | None
    recipe: dict[str, Any] | None  # the flat record that it was trained with, where one was kept


def find(recipe: Recipe, asked: str | None = None) -> Source:
    """The source that was asked for: a path, `best`, `last`, or None for run_dir/model, else the newest whole
    checkpoint. Raises UserError when there is none, when it is damaged, or when it was trained by another recipe.
    """
    folder = _folder(recipe, asked)
    manifest = checkpoints.read_manifest(folder)
    if (manifest is not None or _is_checkpoint(folder)) and (reason := checkpoints.problem(folder)):
        raise UserError(
            f"{folder} is not whole: {reason}; other weights than the trained ones would be published; restore its "
            "files, or export another checkpoint (--checkpoint PATH)"
        )
    recorded = manifest["recipe"] if manifest else _resolved(folder)
    _check_recipe(recipe, recorded, folder)
    return Source(folder, kind_of(folder), _step(folder, manifest), recorded)


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


def _folder(recipe: Recipe, asked: str | None) -> Path:
    run_dir = recipe.run_dir
    if asked is None and (run_dir / "model" / "config.json").is_file():
        return run_dir / "model"
    if asked not in (None, "best", "last"):
        if not Path(asked).is_dir():
            raise UserError(f"--checkpoint {asked}: there is no such folder; give a folder, or best, or last")
        return Path(asked)
    whole = []
    for folder in checkpoints.in_order(run_dir):
        reason = checkpoints.problem(folder)
        if reason is None:
            whole.append(folder)
            break
        print(f"checkpoint {folder} is not used: {reason}", flush=True)
    if not whole:
        raise UserError(
            f"{run_dir} holds neither a finished model nor a whole checkpoint; there is nothing to export; train the "
            "recipe first, or give --checkpoint PATH"
        )
    return _best(run_dir, whole[0]) if asked == "best" else whole[0]


def _best(run_dir: Path, newest: Path) -> Path:
    state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
    step = state.get("best_global_step")
    if step is None:
        raise UserError(
            f"--checkpoint best: {newest} knows of no best step, because nothing was compared while it trained; "
            "metric_for_best_model with an evaluation decides it; give --checkpoint last, or a path"
        )
    folder = run_dir / "checkpoints" / f"checkpoint-{step}"
    if not folder.is_dir():
        raise UserError(f"--checkpoint best: step {step} was the best, and {folder} is gone; give --checkpoint last")
    return folder


def _is_checkpoint(folder: Path) -> bool:
    return bool(re.fullmatch(r"checkpoint-\d+", folder.name)) or (folder / "trainer_state.json").is_file()


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
    keys = [key for key in sorted({*recorded, *now}) if not key.startswith(ELSEWHERE)]
    changed = [key for key in keys if recorded.get(key) != now.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {recorded.get(key)!r} then, {now.get(key)!r} now" for key in changed[:5])
        raise UserError(
            f"{folder} was trained by another recipe ({listed}); tokenizer, licence and card would be those of "
            "another run; give the key=value words that it was trained with"
        )


def _step(folder: Path, manifest: dict[str, Any] | None) -> int | None:
    if manifest:
        return manifest["step"]
    try:
        return json.loads((folder.parent / "train.json").read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError):
        return None
