"""The miniature's recipe folder with small numbers in it, in a repository of its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from agenttuning.recipe.schema import REPOSITORY

NUMBERS = {
    "conversations": 300,
    "max_steps": 6,
    "warmup_steps": 2,
    "logging_steps": 2,
    "save_steps": 6,
    "items": 40,
}


def small_repository(root: Path) -> Path:
    """Copy recipes, cards and accelerate configs below `root`, shrink agentlm-tiny, return its folder (relative)."""
    for name in ("recipes/agentlm-tiny", "recipes/ablations", "accelerate_configs", "data_cards"):
        shutil.copytree(REPOSITORY / name, root / name)
    for path in (root / "recipes" / "agentlm-tiny").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for key, value in NUMBERS.items():
            text = re.sub(rf"\b{key}: [\d.]+", f"{key}: {value}", text)
        text = re.sub(r"lr_scheduler_type: .*\n", "lr_scheduler_type: constant\n", text)
        path.write_text(re.sub(r"lr_scheduler_kwargs: .*\n", "", text), encoding="utf-8")
    return Path("recipes") / "agentlm-tiny"
