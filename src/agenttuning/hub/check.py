"""What a folder must be before it is sent, checked here and without a connection: kinds of files, readable weights, no
secret, and cards that huggingface_hub's own schema takes.
"""

from __future__ import annotations

import json
import os
import re
import struct
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.export.base import TERMS
from agenttuning.hub import secrets
from agenttuning.hub.staged import CARD, check_ids, walk

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

MODEL_FILES = (".safetensors", ".json", ".jinja", ".md", ".yaml", ".txt")
DATA_FILES = (".parquet", ".jsonl", ".json", ".md")
TRACE_FILES = (".jsonl", ".md")
LONGEST_HEADER = 100 * 10**6  # bytes; the safetensors library's own limit
TEXTS = (".json", ".jsonl", ".jinja", ".md", ".yaml", ".txt", "")
# As the Hub has them (docs/hub/model-cards, datasets-cards): ISO 639 codes, with a script or region where wanted.
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")


def folder(place: Path, allowed: tuple[str, ...]) -> None:
    """Raise UserError, naming all of them, for files that must not be sent: others than `allowed`, links, weights that
    cannot be read.
    """
    found = []
    for path in sorted(place.rglob("*")):
        name = escape(path.relative_to(place).as_posix())
        if path.is_symlink():
            found.append(f"{name} is a link ({'out of the folder' if _leaves(path, place) else 'within it'})")
        elif path.is_file() and path.suffix not in allowed and not (path.suffix == "" and TERMS.fullmatch(path.name)):
            found.append(f"{name} is no file that is published here ({', '.join(allowed)}, and licence files)")
        elif path.suffix == ".safetensors":
            found += [f"{name}: {why}" for why in _unreadable(path)]
    if found:
        lines = "".join(f"\n  - {line}" for line in found)
        raise UserError(f"{place} must not be sent as it is; nothing was:{lines}\nTake these files out, or mend them")


def _leaves(path: Path, place: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(place.resolve())


def _unreadable(path: Path) -> Iterator[str]:
    try:
        header_of(path)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        yield f"its safetensors header cannot be read ({type(error).__name__}: {escape(str(error))[:100]})"


def header_of(path: Path) -> dict[str, Any]:
    """The header of a safetensors file (github.com/huggingface/safetensors: length, JSON, data). Raises ValueError
    unless the file is exactly as long as it says.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if not ends or path.stat().st_size != 8 + length + max(ends):
        raise ValueError("the file is not as long as its header says")
    return header


def secrets_in(place: Path, known: secrets.Known) -> Iterator[secrets.Finding]:
    """Findings in the texts, the weights' headers and the names of the files of a folder."""
    for name, path in walk(place):
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8", errors="replace")
        else:
            text = json.dumps(header_of(path)) if path.suffix == ".safetensors" else ""
        hidden = secrets.kinds_in(secrets.encoded(name), known)
        shown = "(a file whose name holds it)" if hidden else name
        yield from (secrets.Finding("(file)", shown, kind) for kind in hidden)
        yield from secrets.in_files([(shown, text)], known)


def card(text: str, repo_type: str) -> dict[str, Any]:
    """The header of a card, which huggingface_hub reads, types and writes again as it is. Raises UserError that names
    the field otherwise. (What the Hub alone knows, such as its list of licences, it checks itself at the upload.)
    """
    from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData

    kind, data_kind = {"model": (ModelCard, ModelCardData), "dataset": (DatasetCard, DatasetCardData)}[repo_type]
    import yaml

    found: list[str] = []
    try:
        header = yaml.safe_load(text.split("---\n", 2)[1])
        data = kind(text).data.to_dict()
    except (ValueError, TypeError, KeyError, IndexError, yaml.YAMLError) as error:
        raise UserError(
            f"the header of {CARD} is refused: {escape(str(error))[:300]}; nothing was sent; correct what it comes from"
        ) from error
    hints = typing.get_type_hints(data_kind.__init__) | {"base_model_relation": str | None}
    found += [f"{name}: {why}" for name, why in _mistyped(hints, header)]
    lost = [name for name in header if data.get(name) != header[name]]
    found += [f"{name}: huggingface_hub reads {data.get(name)!r} where {header[name]!r} stands" for name in lost]
    found += [f"{name}: it is missing" for name in ("license", "tags") if not header.get(name)]
    if header.get("license") == "other" and not header.get("license_name"):
        found.append("license_name: it is missing, and license is other")
    ids = [(name, one) for name in ("base_model", "datasets") for one in _listed(header.get(name))]
    found += check_ids(ids if repo_type == "model" else [])
    odd = [one for one in _listed(header.get("language")) if not LANGUAGE.fullmatch(str(one))]
    found += [f"language: {one!r} is no ISO 639 code" for one in odd]
    if found:
        lines = "".join(f"\n  - {escape(line)[:300]}" for line in found)
        raise UserError(f"the header of {CARD} is not one that the Hub takes; nothing was sent:{lines}")
    return header


def eval_results(path: Path) -> list[EvalResultEntry]:
    """The entries of a .eval_results file, as huggingface_hub reads them. Raises UserError that names the field."""
    import yaml
    from huggingface_hub import EvalResultEntry, parse_eval_result_entries

    try:
        entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
        hints = typing.get_type_hints(EvalResultEntry) | {"value": int | float}
        wrong = [why for entry in entries for why in _mistyped(hints, vars(entry))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path.name}: {type(error).__name__} {escape(str(error))}; the Hub would refuse it") from error
    if wrong or not entries:
        raise UserError(f"{path.name}: {wrong[0] if wrong else 'it holds no entry'}; the Hub would refuse it")
    return entries


def _mistyped(hints: dict[str, Any], values: dict[str, Any]) -> list[tuple[str, str]]:
    """(field, why) of the values that are not of the type that huggingface_hub states for them."""
    from huggingface_hub.dataclasses import validate_typed_dict
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    found = []
    for name, value in values.items():
        if name in ("ignore_metadata_errors", "kwargs", "return") or name not in hints:
            continue
        schema = typing.TypedDict("Field", {name: hints[name]})
        try:
            validate_typed_dict(schema, {name: value})
        except StrictDataclassFieldValidationError as error:
            found.append((name, str(error.__cause__ or error)))
    return found


def _listed(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]
