"""export: weights of a run, whole and checked, as a folder that can go to the Hub. Read `export` from top to bottom.

Whatever fails leaves the source as it is and no folder under the final name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat import load_for, save_tokenizer
from agenttuning.data.folders import swap
from agenttuning.errors import UserError
from agenttuning.export import base as bases
from agenttuning.export import card, check, record, settings, source, write
from agenttuning.export.layout import Layout, empty_model, lay_out
from agenttuning.export.readers import INDEX, open_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

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
    recipe: Recipe, out: str | Path | None = None, checkpoint: str | None = None, max_shard_size: str | None = None
) -> Exported:
    """Write `out` (run_dir/export) from run_dir/model, the newest whole checkpoint, or the `checkpoint` asked for (a
    path, best or last), in bfloat16, and check it against its source.

    Raises UserError when there is no source, when it or the export fails a check, when there is no room, and when
    `out` holds files of somebody else.
    """
    folder = Path(out) if out else recipe.run_dir / "export"
    found = source.find(recipe, checkpoint)
    base, tokenizer = bases.find(recipe), load_for(recipe)
    shard_size = write.check_size(max_shard_size or write.default_shard_size())

    trained = settings.trained_config(found.folder, base.folder)
    model = empty_model(trained)
    layout = lay_out(model, open_weights(found.folder, found.kind))
    config = settings.published_config(trained, base.folder, tokenizer, type(model).__name__)
    train_record = record.train_record(found, recipe)

    partial = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    check_room(folder, layout)
    try:
        partial.mkdir(parents=True)
        digests = write.write_shards(partial, layout.specs, layout.read, shard_size)
        config.save_pretrained(partial)
        settings.generation_config(found.folder, base.folder, tokenizer).save_pretrained(partial)
        save_tokenizer(tokenizer, partial)
        for name, raw in base.terms.items():
            (partial / name).write_bytes(raw)
        digest = train_record["recipe_hash"] if train_record else recipe.hash
        texts = {
            "recipe.yaml": record.recipe_text(recipe, digest),
            "README.md": card.write(recipe, base, found.step, train_record, adapter=False),
        }
        if train_record:
            texts["train.json"] = json.dumps(train_record, indent=1) + "\n"
        _write(partial, texts)
        figures = verified(partial, layout, found, trained, recipe, tokenizer)
        said = {
            "recipe": recipe.name,
            "recipe_hash": digest,
            "from": {"kind": found.kind, "folder": found.folder.name, "step": found.step},
            "parameters": sum(spec.numel() for spec in layout.specs.values()),
            "weights": digests,
            "logits": figures,
            "licence": base.licence,
            "lacking": base.lacking,
        }
        _write(partial, {RECORD: json.dumps(said, indent=1) + "\n"})
        files = (*digests, INDEX, "config.json", "generation_config.json", *TOKENIZER, *base.terms, *texts, RECORD)
        record.check_folder(partial, recipe, files)
        swap(partial, folder, RECORD, what="an export")
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or error}; nothing is left of it and the source is as it "
            "was; make room, or give another OUT"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(report(folder, said), flush=True)
    return Exported(folder, base.lacking)


def check_room(folder: Path, layout: Layout) -> None:
    """Raise UserError unless the disk has room for the export beside an older one."""
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    needed = sum(spec.numel() * spec.element_size() for spec in layout.specs.values()) + ROOM_BESIDE
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**30:.1f} GiB free and the export takes {needed / 2**30:.1f}; it would stop in the "
            "middle; make room, or give another OUT"
        )


def verified(
    folder: Path, layout: Layout, found: source.Source, trained: PreTrainedConfig, recipe: Recipe, tokenizer: Any
) -> dict[str, Any]:
    """The figures of the comparison with the source. Raises UserError where it fails."""
    check.compare_weights(folder, layout)
    check.compare_tokens(folder, tokenizer)
    longest = getattr(trained, "max_position_embeddings", None)
    ids = check.probe_ids(tokenizer, longest, recipe.mixture.system_prompt)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder.parent) as scratch:
        return check.compare_logits(folder, lambda room: reference(found, layout, trained, room), ids, Path(scratch))


def reference(found: source.Source, layout: Layout, trained: PreTrainedConfig, scratch: Path) -> PreTrainedModel:
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
    logits = said["logits"]
    lines = [
        f"written: {folder}: {said['parameters']:,} parameters in bfloat16, {len(said['weights'])} file(s), from "
        f"{said['from']['folder']} ({said['from']['kind']})",
        f"checked: every tensor equals the source's, rounded; logits of {logits['tokens']} tokens differ by "
        f"{logits['difference']:.2g} (allowed {logits['tolerance']:.2g}); rounding itself moved them by "
        f"{logits['difference_of_rounding']:.2g} and left {100 * logits['same_first_choice']:.1f} % of first choices",
    ]
    ready = "ready for the Hub" if not said["lacking"] else "not ready for the Hub:"
    return "\n".join([*lines, ready, *(f"  - {line}" for line in said["lacking"])])


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
