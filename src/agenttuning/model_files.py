"""Which model is to be judged: a folder here or on the Hub, the label of its results, and the digest of its weights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.hiding import first_line

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

# What decides a model's answers, of all that a checkpoint folder may hold.
MODEL_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
SLOW_TOKENIZER = "tokenizer.model"  # decides them where there is no tokenizer.json (chat/sentencepiece.py)


def find_model(recipe: Recipe, model: str | Path | None, revision: str | None = None) -> tuple[Path, str]:
    """The folder of the model to judge, and its label. A Hub id is fetched, at `revision` or, for the recipe's base, at
    the recipe's: weights as safetensors, settings and tokenizer, never pickles or code. Raises UserError when there is
    none.
    """
    own, base = recipe.run_dir / "model", recipe.values["model_name_or_path"]
    asked = str(own) if model is None else str(model)
    if Path(asked).is_dir():
        return Path(asked), _label(asked, own, base)
    if model is None or Path(asked).is_absolute() or asked.count("/") != 1 or asked.startswith("."):
        hint = "train the recipe first, or give --model FOLDER or HUB-ID" if model is None else "check the path"
        raise UserError(f"there is no model folder {asked}; nothing can be judged; {hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if revision is None and asked == base:
        revision = recipe.values.get("model_revision")
    try:
        folder = snapshot_download(asked, revision=revision, allow_patterns=[*MODEL_FILES, SLOW_TOKENIZER, "*.json"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{asked} is no folder here and the Hub did not give it ({first_line(error)}); nothing can be "
            "judged; check the name, the network, and for gated models `hf auth login`"
        ) from None
    return Path(folder), _label(asked, own, base)


def _label(asked: str, own: Path, base: str) -> str:
    def same(one: str | Path, other: str | Path) -> bool:
        return str(one) == str(other) or Path(one).resolve() == Path(other).resolve()

    if same(asked, own):
        return "tuned"
    if same(asked, base):
        return "base"
    parts = [part for part in Path(asked).resolve().parts if part != "model"]  # every run's is called model
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1]).strip(".-") or "other"
    return f"other-{label}" if label in ("base", "tuned") else label


def model_digest(folder: Path) -> str:
    """sha256, in hex, over the files that decide a model's answers. Raises UserError when there are no weights."""
    slow = () if (folder / "tokenizer.json").is_file() else (SLOW_TOKENIZER,)
    files = sorted(path for pattern in (*MODEL_FILES, *slow) for path in folder.glob(pattern))
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(
            f"{folder} holds no *.safetensors; there is no model to judge; check the path. Of a model published as "
            "pickles (*.bin) take another revision or copy: those are not read here, as to read one is to run it"
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as content:
            digest.update(f"{path.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
