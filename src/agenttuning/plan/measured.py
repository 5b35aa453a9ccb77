"""Measured peaks beside the estimate: records that benchmarks/train_gpu.py wrote to benchmarks/results/*.json.

A record is one JSON object. Keys read here: model, method (full, lora, qlora), weights (dtype), accelerate_config,
attention, activation_checkpointing (none, selective, full), per_device_train_batch_size, max_length, peak_gib; and, to
say where it comes from, gpu_name, date, tokens_per_second. `failed` says that the GPU's memory was too small; its peak
is then what had been taken. hidden_dropout and compile change the peak by little and are told where they differ.
"""

import json
from pathlib import Path
from typing import Any

from agenttuning import model_size
from agenttuning.model_size import Architecture
from agenttuning.plan.fit import method_name
from agenttuning.recipe import Recipe

FOLDER = Path("benchmarks") / "results"


def measured(recipe: Recipe, model: Architecture, checkpointing: bool) -> list[dict[str, Any]]:
    """Records of this setting: [{peak_gib, gpu_name, attention, date, tokens_per_second, failed, file, apart}], none
    where it was not measured. apart: in words, what was otherwise. A file that is no such record is not one of ours
    and says nothing.
    """
    get, found = recipe.values.get, []
    wanted = {
        "method": method_name(recipe),
        "weights": get("dtype") or "float32",
        "accelerate_config": recipe.launch.accelerate_config,
        "activation_checkpointing": "full" if checkpointing else "none",
        "per_device_train_batch_size": get("per_device_train_batch_size"),
        "max_length": get("max_length"),
    }
    for path in sorted((recipe.root / FOLDER).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("peak_gib"), int | float):
            continue
        same = model_size.find(str(record.get("model"))) == model
        same &= all(record.get(key) == value for key, value in wanted.items())
        if same and recipe.launch.attention in ("auto", record.get("attention")):
            told = ("peak_gib", "gpu_name", "attention", "date", "tokens_per_second", "failed")
            about = {"file": path.name, "apart": _apart(recipe, record)}
            found.append({key: record.get(key) for key in told} | about)
    return found


def _apart(recipe: Recipe, record: dict[str, Any]) -> list[str]:
    dropped, compiled = recipe.values.get("hidden_dropout") or 0, bool(recipe.values.get("torch_compile"))
    words = []
    if record.get("hidden_dropout", dropped) != dropped:
        words.append(f"hidden dropout {record['hidden_dropout']:g}")
    if record.get("compile", compiled) != compiled:
        words.append("compiled" if record["compile"] else "not compiled")
    return words
