"""From a recipe's path and `key=value` overrides to one Recipe: read, extend (depth one), override, check."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttuning.errors import UserError
from agenttuning.recipe.keys import BLOCKS, OWNED, refuse_unknown, value_types
from agenttuning.recipe.schema import Launch, Mixture, Publish, Recipe, build, check_blocks, check_values, flatten
from agenttuning.recipe.yaml_io import parse, read_mapping

DEFAULTS: dict[str, Any] = {"publish": {}}


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = (), run_dir: str | Path | None = None) -> Recipe:
    """Resolve the recipe at `path` (a folder means its sft.yaml). Raises UserError for anything not as it must be.

    overrides: "learning_rate=1e-5", "mixture.seed=3"; values are YAML; they obey the same rules as the file.
    A recipe's `mixture.sources` replaces its parent's as a whole (else old shares would linger); other keys of the
    blocks are merged one by one.
    """
    path = _find(Path(path))
    origin: dict[str, str] = {}
    merged: dict[str, Any] = {}
    for layer_path, content in _layers(path):
        _check_keys(content, str(layer_path))
        merged = _merge(merged, content)
        _note(origin, content, str(layer_path))
    for override in overrides:
        content = _parse_override(override)
        _check_keys(content, "command line")
        # mixture.sources={...} replaces the mixture, mixture.sources.NAME.share=... changes one share of it
        whole = override.partition("=")[0].count(".") < 2
        merged = _merge(merged, content, whole)
        _note(origin, content, "command line", whole)
    recipe = _assemble(path, merged, origin, Path(run_dir) if run_dir else None)
    return replace(recipe, origin={key: origin.get(key, "default") for key in recipe.flat()})


def _find(path: Path) -> Path:
    if path.is_dir():
        path = path / "sft.yaml"
    if path.is_file():
        return path
    existing = [str(found) for found in sorted(Path("recipes").rglob("sft*.yaml"))]
    close = difflib.get_close_matches(str(path), existing, n=1, cutoff=0.3)
    hint = f"Did you mean {close[0]}?" if close else "Recipes lie in recipes/<name>/sft.yaml."
    raise UserError(f"There is no recipe {path}. {hint}")


def _layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files that make up a recipe, base first."""
    content = read_mapping(path)
    parent = content.pop("extends", None)
    if parent is None:
        return [(path, content)]
    if not isinstance(parent, str):
        raise UserError(f"{path}: `extends` must be one path; it holds {parent!r}.")
    base = path.parent / parent
    if not base.is_file():
        raise UserError(f"{path}: extends {parent}, and {base} does not exist.")
    inherited = read_mapping(base)
    if "extends" in inherited:
        raise UserError(
            f"{path}: extends {parent}, which itself extends {inherited['extends']}. One step is the limit, so that a "
            f"value has at most two places to come from. Extend {inherited['extends']} directly."
        )
    return [(_short(base), inherited), (path, content)]


def _short(path: Path) -> Path:
    """recipes/base.yaml rather than recipes/agentlm-13b/../base.yaml."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _check_keys(content: dict[str, Any], where: str) -> None:
    allowed = (value_types().keys() - OWNED.keys()) | {"loss", *BLOCKS}
    for key, value in content.items():
        if key not in allowed:
            refuse_unknown(key, allowed, where)
        if key in BLOCKS and not isinstance(value, dict):
            raise UserError(f"{where}: `{key}` must hold `key: value` lines; it holds {value!r}.")


def _merge(below: dict[str, Any], above: dict[str, Any], whole_sources: bool = True, path: str = "") -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        here = f"{path}.{key}" if path else key
        inside_block = here.split(".")[0] in BLOCKS
        whole = not inside_block or (whole_sources and here == "mixture.sources")
        if not whole and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value, whole_sources, here)
        else:
            merged[key] = value
    return merged


def _note(origin: dict[str, str], content: dict[str, Any], where: str, whole_sources: bool = True) -> None:
    flat = flatten(content)
    if whole_sources and any(key.startswith("mixture.sources") for key in flat):
        for key in [key for key in origin if key.startswith("mixture.sources")]:
            del origin[key]
    origin.update(dict.fromkeys(flat, where))


def _parse_override(text: str) -> dict[str, Any]:
    """ "mixture.seed=3" -> {"mixture": {"seed": 3}}. Raises UserError."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"`{text}` is not an override; write key=value, e.g. learning_rate=1e-5 or mixture.seed=3.")
    if parts[0] not in BLOCKS and len(parts) > 1:
        refuse_unknown(key, {*value_types(), *BLOCKS}, "command line")
    nested: Any = parse(value, f"the value of `{key}` on the command line")
    for part in reversed(parts):
        nested = {part: nested}
    return nested


def _assemble(path: Path, merged: dict[str, Any], origin: dict[str, str], run_dir: Path | None) -> Recipe:
    where = str(path)
    merged = {**DEFAULTS, **merged}
    for key in ("mixture", "loss", "launch"):
        if key not in merged:
            raise UserError(f"{where}: `{key}` is missing, here and in what it extends; add it.")
    loss = merged.pop("loss")
    blocks = {name: merged.pop(name) for name in BLOCKS}
    mixture = build(Mixture, blocks["mixture"], f"{where}: mixture")
    launch = build(Launch, blocks["launch"], f"{where}: launch")
    publish = build(Publish, blocks["publish"], f"{where}: publish")
    check_values(merged, where, origin)
    check_blocks(mixture, loss, launch, where)
    return Recipe(_name(path), path, merged, mixture, loss, launch, publish, {}, run_dir)


def _name(path: Path) -> str:
    """ "agentlm-13b/sft" for recipes/agentlm-13b/sft.yaml: the path under recipes/, or folder/stem elsewhere."""
    path = path.resolve()
    for folder in path.parents:
        if folder.name == "recipes":
            return path.relative_to(folder).with_suffix("").as_posix()
    return f"{path.parent.name}/{path.stem}"
