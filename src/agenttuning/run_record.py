"""train.json: what a training run did, with what, and how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.machine import peak_rss
from agenttuning.training import adapters
from agenttuning.training.checkpoints import write_synced

if TYPE_CHECKING:
    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe
    from agenttuning.training.trainer import Trainer

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "safetensors", "deepspeed",
             "flash-attn", "flash-attn-3", "peft", "bitsandbytes")  # fmt: skip
LOGGED = ("step", "loss", "learning_rate", "grad_norm", "supervised_per_step", "tokens_per_second",
          "supervised_tokens_per_second", "mfu", "peak_memory_gib")  # fmt: skip


def write(trainer: Trainer, prepared: Prepared, attention: str) -> Path:
    """Write run_dir/train.json and return its path. Counts and seconds include the runs that this one went on from;
    tokens are without padding, peak figures are this process's own, and "mfu" says what those of the log mean.
    """
    import torch

    from agenttuning.model_files import model_digest

    trained, parameters = adapters.counts(trainer.model)
    meter, recipe, cuda = trainer.meter, trainer.recipe, trainer.args.device.type == "cuda"
    record = {
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "data_key": prepared.key,
        "started_from": started_from(recipe),
        "model": model_digest(recipe.run_dir / "model"),
        "seed": recipe.values["seed"],
        "steps": trainer.state.global_step,
        "partial": trainer.seal["partial"],  # resumes that went on without a part of their checkpoint
        "log": [logged(entry, meter.sources) for entry in trainer.state.log_history if "loss" in entry],
        "parameters": parameters,
        "parameters_trained": trained,
        "hidden_dropout": recipe.values.get("hidden_dropout") or 0.0,
        "tokens": meter.tokens,
        "supervised_tokens": dict(zip(meter.sources, meter.supervised, strict=True)),
        "seconds": meter.seconds,
        "tokens_per_second": meter.tokens / max(1e-9, meter.seconds),
        "mfu": trainer.watch.mfu,
        "processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "attention": attention,
        "peak_rss_bytes": peak_rss(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "versions": versions(),
        "commit": commit(recipe.root),
    }
    return write_synced(recipe.run_dir / "train.json", json.dumps(record, indent=1) + "\n")


def logged(entry: dict, sources: list[str]) -> dict:
    """One log line of train.json: loss_by_source holds None for a source without supervised tokens since the last."""
    by_source = {name: entry.get(f"loss/{name}") for name in sources}
    return {**{key: entry.get(key) for key in LOGGED}, "loss_by_source": by_source}


def finished(recipe: Recipe, prepared: Prepared | None = None) -> bool:
    """Whether run_dir holds the finished model of this very recipe, these very starting weights and, where they are
    given, these very rows (reading the rows of a large mixture takes hours).
    """
    try:
        record = json.loads((recipe.run_dir / "train.json").read_text(encoding="utf-8"))
        same = recipe.is_record(record["recipe_hash"]) and record["started_from"] == started_from(recipe)
        same = same and (prepared is None or record["data_key"] == prepared.key)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False
    return same and (recipe.run_dir / "model" / "config.json").is_file()


def started_from(recipe: Recipe) -> str:
    """The weights that training starts from: revision of a Hub model, digest of a local folder, which can change."""
    from agenttuning.model_files import model_digest

    local = Path(recipe.values["model_name_or_path"])
    return model_digest(local) if local.is_dir() else recipe.values.get("model_revision") or "main"


def versions() -> dict[str, str]:
    """Installed versions of the libraries that decide the numbers."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str | None:
    """The git commit of the repository at `root`, with "+changes" when files differ from it; None outside of git."""
    head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return head and head + ("+changes" if changes else "")


def _git(root: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
