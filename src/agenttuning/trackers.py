"""Where a run's log lines go beside the terminal and train.json: `report_to: trackio | wandb | tensorboard | none`.

A project is the recipe's folder (agentlm-13b), a run its name (agentlm-13b/sft), so that variants lie side by side.
trackio writes a SQLite file per project into runs/trackio (else TRACKIO_DIR) and contacts nobody unless the recipe sets
trackio_space_id or the environment TRACKIO_SPACE_ID or TRACKIO_SERVER_URL; `TRACKIO_DIR=runs/trackio trackio show`.
TensorBoard's events go into run_dir/tensorboard (else TENSORBOARD_LOGGING_DIR); `tensorboard --logdir runs`. W&B is a
service, contacted because it is asked for by name; its own WANDB_PROJECT and WANDB_MODE hold.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

MODULES = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "tensorboard"}


def names(recipe: Recipe) -> list[str]:
    """The trackers that the recipe asks for. Raises UserError for others than we know, `all` among them: it would
    report to every service whose package happens to be installed.
    """
    asked = recipe.values.get("report_to") or []
    asked = [asked] if isinstance(asked, str) else list(asked)
    asked = [name for name in asked if name != "none"]
    for name in asked:
        if name not in MODULES:
            raise UserError(
                f"{recipe.path}: report_to: {name} is not one of {', '.join(MODULES)} or none; whom it would tell "
                "is not known here; name one, or several as a list"
            )
    return asked


def missing(recipe: Recipe) -> list[str]:
    """What is not installed of the trackers asked for, one text each, for preflight. Imports nothing."""
    return [
        f"tracker: report_to is {name}, which is not installed. `pip install {name}`, or report_to=none (the log lines "
        "stay in the terminal and in train.json)."
        for name in names(recipe)
        if not installed(name)
    ]


def installed(name: str) -> bool:
    """Whether the package of a tracker is there."""
    return importlib.util.find_spec(MODULES[name]) is not None


def settings(recipe: Recipe) -> dict[str, Any]:
    """trl.SFTConfig's keys of the trackers, unless the recipe has them; puts folders and W&B's project into the
    environment, unless it has them. Raises UserError for what is not installed.
    """
    if lacking := missing(recipe):
        raise UserError(f"{recipe.path}: {lacking[0]}")
    project = recipe.values.get("project") or recipe.name.split("/")[0]
    _put("WANDB_PROJECT", project)
    _put("TRACKIO_DIR", str(Path("runs", "trackio").resolve()))
    _put("TENSORBOARD_LOGGING_DIR", str((recipe.run_dir / "tensorboard").resolve()))
    return {"project": project, "run_name": recipe.values.get("run_name") or recipe.name}


_ours: dict[str, str] = {}  # what an earlier run of this process has put into the environment


def _put(name: str, value: str) -> None:
    if os.environ.get(name) == _ours.get(name):  # not there, or not the user's
        _ours[name] = os.environ[name] = value
