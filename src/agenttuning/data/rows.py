"""From prepared conversations to the rows that the trainer takes, packed if the recipe says so, on disk beside them.

<data>/rows/ loads with `datasets.load_from_disk`: input_ids, labels and `origin`, three lists of the same length per
row, and seq_lengths where packed. origin holds the number of the source at each supervised token and -1 elsewhere.
<data>/manifest.json says what the rows were made from and holds size and sha256 of every Arrow file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.data.files import file_digest
from agenttuning.data.folders import alone_in
from agenttuning.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

LAYOUT = 1  # raise when the rows made from the same conversations change
FOLDER, MANIFEST = "rows", "manifest.json"


def trainable_rows(prepared: Prepared, recipe: Recipe) -> Dataset:
    """The rows of a prepared mixture, memory-mapped; built first where they are not there or were made otherwise.

    Packing is TRL's own: whole conversations in best-fit bins within each 1000 rows, whose order is a seeded draw. The
    same conversations give the same bytes. Raises UserError when a row is longer than max_length, which packing would
    cut in silence, and when the disk is full.
    """
    from datasets import load_from_disk

    folder, key = prepared.path / FOLDER, _key(prepared, recipe)
    if not _whole(folder, key):
        with alone_in(prepared.path.parent):
            if not _whole(folder, key):  # another process may have made them while this one waited
                _build(prepared, recipe, folder, key)
    return load_from_disk(str(folder)).with_format("numpy")


def rows_fingerprint(prepared: Prepared) -> str:
    """sha256, in hex, of the manifest's names, sizes and digests of the rows: other bytes, another fingerprint. Rows of
    the same key can differ after an upgrade of TRL, which packs them.
    """
    files = json.loads((prepared.path / MANIFEST).read_text(encoding="utf-8"))["files"]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def check_rows(prepared: Prepared) -> None:
    """Raise UserError unless every file of the rows is, byte for byte, as it was written."""
    for name, entry in json.loads((prepared.path / MANIFEST).read_text(encoding="utf-8"))["files"].items():
        path = prepared.path / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
            raise UserError(
                f"{path} is not as it was written when the data was prepared; the run would go on with other rows than "
                f"it began with; delete {prepared.path}, the same command makes it again"
            )


def packing_line(rows: Dataset, recipe: Recipe, tokens: int) -> str:
    """`6,702 packed rows of 256 tokens, 98.48 % filled`, or the number of rows where nothing is packed."""
    limit = recipe.values["max_length"]
    if not recipe.values.get("packing"):
        return f"{len(rows):,} rows of at most {limit:,} tokens, not packed"
    return f"{len(rows):,} packed rows of {limit:,} tokens, {tokens / (len(rows) * limit):.2%} filled"


def _key(prepared: Prepared, recipe: Recipe) -> str:
    values = recipe.values
    packing = values.get("packing_strategy", "bfd") if values.get("packing") else None
    text = json.dumps([LAYOUT, prepared.key, values["max_length"], packing])
    return hashlib.sha256(text.encode()).hexdigest()


def _whole(folder: Path, key: str) -> bool:
    return _known(folder.parent) == key and (folder / "state.json").is_file()


def _known(data: Path) -> str | None:
    try:
        return json.loads((data / MANIFEST).read_text(encoding="utf-8"))["rows"]["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: built again


def _build(prepared: Prepared, recipe: Recipe, folder: Path, key: str) -> None:
    from trl import pack_dataset

    limit, number = recipe.values["max_length"], {name: place for place, name in enumerate(prepared.mixture["sources"])}
    (prepared.path / MANIFEST).unlink(missing_ok=True)  # it vouches for the rows that go now
    partial = folder.with_name(f".{FOLDER}.tmp")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        rows = prepared.load().with_format("arrow")
        columns = rows.column_names
        rows = rows.map(
            _with_origin, batched=True, fn_kwargs={"number": number, "limit": limit}, remove_columns=columns
        )
        if recipe.values.get("packing"):
            rows = pack_dataset(rows, limit, recipe.values.get("packing_strategy", "bfd"))
        rows.with_format(None).save_to_disk(str(partial))
        count = len(rows)
        del rows
        for cache in prepared.path.glob("cache-*.arrow"):  # what `map` left beside the conversations
            cache.unlink()
        name_fingerprint(partial, key)
        partial.rename(folder)
        _write_manifest(prepared, key, count, recipe)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"the rows of {prepared.path} could not be written ({error.strerror or error}); training would have "
            "nothing to read; make room there, or choose another place with --run-dir"
        ) from error


def name_fingerprint(folder: Path, key: str) -> None:
    """Put `key` in place of the fingerprint that `datasets` made from temporary paths, so that equal data is equal."""
    path = folder / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**state, "_fingerprint": key[:16]}, indent=2) + "\n", encoding="utf-8")


def _write_manifest(prepared: Prepared, key: str, count: int, recipe: Recipe) -> None:
    """manifest.json, last of all: where it is, everything that it names is whole."""
    files = sorted(path for path in prepared.path.rglob("*.arrow") if path.is_file())
    tokens = prepared.mixture["tokens"]
    packed = bool(recipe.values.get("packing"))
    content = {
        "data_key": prepared.key,
        "settings": prepared.mixture["settings"],  # sources with commits or file hashes, tokenizer hash, format, seed
        "sources": prepared.mixture["sources"],  # counts and losses
        "rows": {
            "key": key,
            "rows": count,
            "tokens": tokens,
            "max_length": recipe.values["max_length"],
            "packing": recipe.values.get("packing_strategy", "bfd") if packed else None,
            "filled": tokens / (count * recipe.values["max_length"]) if packed else None,
        },
        "files": {
            path.relative_to(prepared.path).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in files
        },
    }
    partial = prepared.path / f".{MANIFEST}.{os.getpid()}.tmp"
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(prepared.path / MANIFEST)


def _with_origin(table: pyarrow.Table, number: dict[str, int], limit: int) -> pyarrow.Table:
    import numpy
    import pyarrow

    labels = table["labels"].combine_chunks()
    lengths = labels.value_lengths().to_numpy()
    longest = lengths.max(initial=0)
    if longest > limit:
        raise UserError(f"a prepared row has {longest} tokens, more than max_length {limit}; prepare the data again")
    source = numpy.repeat([number[name] for name in table["source"].to_pylist()], lengths)
    supervised = labels.flatten().to_numpy() != -100
    values = {
        "input_ids": table["input_ids"].combine_chunks().flatten(),
        "labels": labels.flatten(),
        "origin": pyarrow.array(numpy.where(supervised, source, -1).astype("int8")),
    }
    starts = pyarrow.array(numpy.concatenate([[0], numpy.cumsum(lengths)]), type=pyarrow.int32())
    return pyarrow.table({name: pyarrow.ListArray.from_arrays(starts, flat) for name, flat in values.items()})
