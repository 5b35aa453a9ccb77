"""export: weights of a run, whole and checked, as a folder that can go to the Hub. Read `export` from top to bottom.

Whatever fails leaves the source as it is and no folder under the final name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat import load_for, save_tokenizer
from agenttuning.data.folders import swap
from agenttuning.errors import UserError
from agenttuning.export import adapter, base, card, check, record, settings, source, write
from agenttuning.export.layout import Layout, empty_model, lay_out
from agenttuning.export.readers import INDEX, open_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from agenttuning.export.base import Base
    from agenttuning.export.source import Source
    from agenttuning.recipe import Recipe

RECORD = "export.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ROOM_BESIDE = 64 << 20  # bytes for tokenizer, licence and records


@dataclass(frozen=True)
class Exported:
    """folder: what was written; lacking: why it is not ready for the Hub, empty where it is."""

    folder: Path
    lacking: list[str]


def export(
    recipe: Recipe,
    out: str | Path | None = None,
    checkpoint: str | None = None,
    max_shard_size: str | None = None,
    offline: bool = False,
) -> Exported:
    """Write `out` (run_dir/export) from run_dir/model, the newest whole checkpoint, or the `checkpoint` asked for (a
    path, best or last), in bfloat16, and check it against its source. An adapter is merged into its base, in memory.
    offline: no licence file is looked for on the Hub.

    Raises UserError when there is no source, when it or the export fails a check, when there is no room, and when
    `out` holds files of somebody else.
    """
    folder = Path(out) if out else recipe.run_dir / "export"
    shard_size = write.check_size(max_shard_size or write.default_shard_size())
    found = source.find(recipe, checkpoint)
    origin, tokenizer = base.find(recipe, offline), load_for(recipe)

    trained = settings.trained_config(found.folder, origin.folder)
    model = empty_model(trained)
    merged = found.kind == "adapter"
    layout = lay_out(model, adapter.merged(recipe, found.folder) if merged else open_weights(found.folder, found.kind))
    config = settings.published_config(trained, origin.folder, tokenizer, type(model).__name__)

    check_room(folder, sum(spec.numel() * spec.element_size() for spec in layout.specs.values()))
    with staged(folder) as partial:
        digests = write.write_shards(partial, layout.specs, layout.read, shard_size)
        config.save_pretrained(partial)
        settings.generation_config(found.folder, origin.folder, tokenizer).save_pretrained(partial)
        said = companions(partial, recipe, origin, found, tokenizer)
        said |= {
            "parameters": sum(spec.numel() for spec in layout.specs.values()),
            "weights": digests,
            "logits": verified(partial, layout, found, trained, recipe, tokenizer),
        }
        finish(partial, recipe, origin, said, (*digests, INDEX, "config.json", "generation_config.json"))
    print(report(folder, said), flush=True)
    return Exported(folder, origin.lacking)


def export_adapter(
    recipe: Recipe, out: str | Path | None = None, checkpoint: str | None = None, offline: bool = False
) -> Exported:
    """Write `out` (run_dir/export-adapter) with the LoRA adapter alone, as PEFT loads it onto the base model from the
    Hub: from run_dir/adapter, the newest whole checkpoint, or the `checkpoint` asked for. Its tensors are copied as
    they are and compared. Raises UserError as `export`, and for a run without an adapter.
    """
    folder = Path(out) if out else recipe.run_dir / "export-adapter"
    found = source.find(recipe, checkpoint, adapter=True)
    origin, tokenizer = base.find(recipe, offline), load_for(recipe)
    tensors = adapter.tensors(found.folder)
    check_room(folder, sum(tensor.nbytes for tensor in tensors.values()))
    with staged(folder) as partial:
        digests = adapter.write(partial, tensors, found.folder, recipe)
        said = companions(partial, recipe, origin, found, tokenizer)
        adapter.compare(partial, found.folder, empty_model(settings.trained_config(found.folder, origin.folder)))
        check.compare_tokens(partial, tokenizer)
        said |= {"parameters": sum(tensor.numel() for tensor in tensors.values()), "weights": digests}
        finish(partial, recipe, origin, said, (*digests, "adapter_config.json"))
    print(report(folder, said), flush=True)
    return Exported(folder, origin.lacking)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place once all is done."""
    partial = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        swap(partial, folder, RECORD, what="an export")
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or error}; nothing is left of it and the source is as it "
            "was; make room, or give another OUT"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def companions(
    partial: Path, recipe: Recipe, origin: Base, found: Source, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """Write tokenizer, licence, card and the records of the run; returns what export.json says of them."""
    save_tokenizer(tokenizer, partial)
    for name, raw in origin.terms.items():
        (partial / name).write_bytes(raw)
    trained = record.train_record(found, recipe)
    digest = trained["recipe_hash"] if trained else recipe.hash
    texts = {
        "recipe.yaml": record.recipe_text(recipe, digest),
        "README.md": card.write(recipe, origin, found.step, trained, adapter="adapter_config.json" in _names(partial)),
    }
    if trained:
        texts["train.json"] = json.dumps(trained, indent=1) + "\n"
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    return {
        "recipe": recipe.name,
        "recipe_hash": digest,
        "from": {"kind": found.kind, "folder": found.folder.name, "step": found.step},
        "licence": origin.licence,
        "base": origin.facts,
        "adapter": "adapter_config.json" in _names(partial),
        "lacking": origin.lacking,
    }


def finish(partial: Path, recipe: Recipe, origin: Base, said: dict[str, Any], files: tuple[str, ...]) -> None:
    """Write export.json and look at every file once more. Raises UserError for one that must not be published."""
    (partial / RECORD).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    records = ("recipe.yaml", "README.md", "train.json", RECORD)
    record.check_folder(partial, recipe, (*files, *TOKENIZER, *origin.terms, *records))


def check_room(folder: Path, weights: int) -> None:
    """Raise UserError unless the disk has room for `weights` bytes and what goes with them, beside an older export."""
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    needed, free = weights + ROOM_BESIDE, shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**30:.1f} GiB free and the export takes {needed / 2**30:.1f}; it would stop in the "
            "middle; make room, or give another OUT"
        )


def verified(
    folder: Path,
    layout: Layout,
    found: Source,
    trained: PreTrainedConfig,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Any]:
    """The figures of the comparison with the source. Raises UserError where it fails."""
    check.compare_weights(folder, layout)
    check.compare_tokens(folder, tokenizer)
    longest = getattr(trained, "max_position_embeddings", None)
    ids = check.probe_ids(tokenizer, longest, recipe.mixture.system_prompt)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder.parent) as scratch:
        return check.compare_logits(folder, lambda room: reference(found, layout, trained, room), ids, Path(scratch))


def reference(found: Source, layout: Layout, trained: PreTrainedConfig, scratch: Path) -> PreTrainedModel:
    """The source's model, whose weights are fetched when they are used."""
    if layout.source is not None:
        model = empty_model(trained)
        return check.fetching(model, list(model.state_dict()), layout.source)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        found.folder, config=trained, dtype="float32", device_map={"": "disk"}, offload_folder=str(scratch)
    )


def report(folder: Path, said: dict[str, Any]) -> str:
    """What was written and how it compares, for the screen."""
    what = "in bfloat16" if "logits" in said else "of an adapter"
    lines = [
        f"written: {folder}: {said['parameters']:,} parameters {what}, {len(said['weights'])} file(s), from "
        f"{said['from']['folder']} ({said['from']['kind']})"
    ]
    if logits := said.get("logits"):
        lines.append(
            f"checked: every tensor equals the source's, rounded; logits of {logits['tokens']} tokens differ by "
            f"{logits['difference']:.2g} (allowed {logits['tolerance']:.2g}); rounding itself moved them by "
            f"{logits['difference_of_rounding']:.2g} and left {logits['same_first_choice']:.1%} of first choices"
        )
    else:
        lines.append("checked: every tensor is the source's, and the base model has a place for each")
    ready = "ready for the Hub" if not said["lacking"] else "not ready for the Hub:"
    return "\n".join([*lines, ready, *(f"  - {line}" for line in said["lacking"])])


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
