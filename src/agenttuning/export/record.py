"""The records that travel with an export, without a path of the machine that made it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning.errors import UserError
from agenttuning.export.source import is_result
from agenttuning.hub import secrets
from agenttuning.report.templating import public_name

if TYPE_CHECKING:
    from agenttuning.export.source import Source
    from agenttuning.recipe import Recipe

TEXTS = (".json", ".yaml", ".md", ".jinja", ".txt")
BASES_OWN = ("tokenizer.json",)  # its vocabulary may well hold "/tmp"; it is copied from the base


def train_record(source: Source, recipe: Recipe) -> dict[str, Any] | None:
    """train.json of the run that ended with this model; None for a checkpoint of the middle."""
    path = recipe.run_dir / "train.json"
    if not is_result(source.folder, recipe) or not path.is_file():
        return None
    return public(json.loads(path.read_text(encoding="utf-8")))


def recipe_text(recipe: Recipe, digest: str) -> str:
    """recipe.yaml: a recipe's own shape."""
    body = yaml.safe_dump(public(recipe.nested()), sort_keys=True, allow_unicode=True, width=120)
    return f"# {recipe.name}; sha256 of the record {digest}\n{body}"


def public(value: Any) -> Any:
    """A record without paths of this machine: of each absolute one, the last part."""
    if isinstance(value, dict):
        return {key: public(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(one) for one in value]
    if not isinstance(value, str):
        return value
    name, equals, path = value.partition("=")
    return f"{name}={public_name(path)}" if equals and Path(path).is_absolute() else public_name(value)


def check_folder(folder: Path, recipe: Recipe, allowed: Iterable[str]) -> None:
    """Raise UserError for a file that does not belong there, a path of this machine, or what looks like a secret."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if extra := sorted(names - set(allowed)):
        raise UserError(f"the export would hold {', '.join(extra[:5])}, which nobody asked for; a bug: report it")
    texts = check_paths(folder, recipe)
    found = list(secrets.in_files(texts))
    if found:
        raise UserError(
            f"{found[0].id} of the export holds what looks like a secret ({found[0].kind}); it would be published; "
            "take it out of the recipe or the base model's files"
        )


def check_paths(folder: Path, recipe: Recipe) -> list[tuple[str, str]]:
    """(name, text) of the text files of a folder. Raises UserError for one that names a path of this machine."""
    texts = [
        (path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.endswith(TEXTS) and path.name not in BASES_OWN
    ]
    for name, text in texts:
        if found := next((place for place in _places(recipe) if _holds(text, place)), None):
            raise UserError(
                f"{name} of the export would name {found}, a path of this machine; it would be published; take it out "
                "of the recipe or the base model's files"
            )
    return texts


def _places(recipe: Recipe) -> list[str]:
    places = [Path.home(), Path.cwd(), recipe.root, recipe.run_dir, Path(tempfile.gettempdir())]
    found = {str(path) for place in places for path in (place.absolute(), place.resolve())}
    return sorted((place for place in found if place.count("/") and len(place) > 1), key=len, reverse=True)


def _holds(text: str, place: str) -> bool:
    return bool(re.search(rf"(?<![\w./-]){re.escape(place)}(?![\w-])", text))
