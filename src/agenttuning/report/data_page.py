"""data.html: what was built for a run, to look at. Lengths, supervision, losses, packing, and conversations with the
supervised text marked. One file without scripts; it pages by links into itself.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat.show import show_cli, stretches
from agenttuning.data.rows import MANIFEST
from agenttuning.report import templating
from agenttuning.report.lengths import histograms, packed_blocks, read_lengths

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

PAGE = "data.html"
ON_A_PAGE = 10  # conversations
MOST_CHARACTERS = 20_000  # of one conversation
MOST_IDS = 3  # ids named for each reason
LEFT_OUT = {"malformed": "quarantine.jsonl", "dropped": "dropped.jsonl"}


def show_data(
    recipe: Recipe, data_paths: Mapping[str, str | Path], n: int, sample: int = 300, seed: int | None = None
) -> Path:
    """Print `n` conversations a source and write <run_dir>/data.html with about `sample` of them, drawn by `seed` (the
    mixture's own unless given). Returns the path of the page. Raises what `data.prepare.prepare` raises.
    """
    prepared, tokenizer = show_cli(recipe, data_paths, n)
    shown = gather(recipe, prepared, tokenizer, sample, recipe.mixture.seed if seed is None else seed)
    path = templating.write(recipe.run_dir / PAGE, templating.render("data.html.jinja", shown))
    print(f"\nwritten: {path}", flush=True)
    return path


def gather(
    recipe: Recipe, prepared: Prepared, tokenizer: PreTrainedTokenizerFast, sample: int, seed: int
) -> dict[str, Any]:
    """Everything that the template needs."""
    rows, mixture = prepared.load(), prepared.mixture
    names, sources, lengths = read_lengths(rows)
    shown = conversations(rows, names, sources, tokenizer, sample, seed)
    why = reasons(prepared.path)
    return {
        "name": recipe.name,
        "mixture": mixture,
        "histograms": histograms(names, sources, lengths),
        "packing": packing(recipe, prepared, lengths),
        "reasons": why,
        "dropped": {name: _dropped(name, one, why) for name, one in mixture["sources"].items()},
        "pages": pages(shown),
        "shown": sum(map(len, shown.values())),
        "seed": seed,
        "facts": facts(recipe, prepared),
    }


def packing(recipe: Recipe, prepared: Prepared, lengths: numpy.ndarray) -> dict[str, Any] | None:
    """Blocks and efficiency (tokens over tokens of room): as manifest.json holds them once the blocks are built, else
    reckoned from the lengths. None where rows are not packed, or not built and packed otherwise than by best fit.
    """
    block, strategy = recipe.values["max_length"], recipe.values.get("packing_strategy", "bfd")
    if not recipe.values.get("packing"):
        return None
    built = _built(prepared)
    if (built.get("max_length"), built.get("packing")) == (block, strategy):
        return {"block": block, "reckoned": False, "blocks": built["rows"], "efficiency": built["filled"]}
    if strategy != "bfd" or not len(lengths):
        return None
    blocks = packed_blocks(lengths, block)
    return {"block": block, "reckoned": True, "blocks": blocks, "efficiency": int(lengths.sum()) / (blocks * block)}


def _built(prepared: Prepared) -> dict[str, Any]:
    """What manifest.json says about the rows that were built of these conversations; {} where it says nothing."""
    try:
        manifest = json.loads((prepared.path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest["rows"] if manifest.get("data_key") == prepared.key else {}


def reasons(folder: Path) -> list[dict[str, Any]]:
    """What was left out and why, most frequent first: how, source, reason (numbers in it read N), rows, some ids.

    Reads quarantine.jsonl and dropped.jsonl; a file that is absent, as those of older builds are, counts nothing.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    ids: dict[tuple[str, str, str], list[str]] = {}
    for how, name in LEFT_OUT.items():
        for record in _records(folder / name):
            kind = "".join("N" if char.isdigit() else char for char in str(record.get("reason")))
            key = (how, str(record.get("source")), kind)
            counts[key] += 1
            if len(named := ids.setdefault(key, [])) < MOST_IDS and record.get("id") is not None:
                named.append(str(record["id"]))
    return [
        {"how": how, "source": source, "reason": reason, "rows": rows, "ids": ids[how, source, reason]}
        for (how, source, reason), rows in counts.most_common()
    ]


def _dropped(name: str, source: dict, why: list[dict]) -> int:
    """Rows of a source that a rule dropped: as mixture.json counts them, else as dropped.jsonl lists them."""
    if "dropped" in source:
        return sum(source["dropped"].values())
    return sum(one["rows"] for one in why if (one["how"], one["source"]) == ("dropped", name))


def _records(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def conversations(
    rows: Dataset, names: list[str], sources: numpy.ndarray, tokenizer: PreTrainedTokenizerFast, sample: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Up to `sample` different conversations by source, in the order of their draws: as many of each source, but what a
    small source lacks is not made up for by the others.
    """
    import numpy

    ids = rows.select_columns(["id"])
    shown: dict[str, list] = {}
    for number, name in enumerate(names):
        wanted = sample // len(names) + (number < sample % len(names))
        draws = numpy.flatnonzero(sources == number)
        # drawn with replacement: twenty looks a conversation find nearly all of a small source
        some = numpy.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(draws)[: 20 * wanted].tolist()
        first: dict[str, int] = {}
        for row_id, draw in zip(ids[some]["id"], some, strict=True):
            first.setdefault(row_id, draw)
        shown[name] = [_shown(rows[draw], tokenizer) for draw in sorted(list(first.values())[:wanted])]
    return shown


def _shown(row: dict, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """One row: its counts, and its text as exchanges (they end at the end token) of (supervised, text)."""
    ids, labels = row["input_ids"], row["labels"]
    ends = [place + 1 for place, token in enumerate(ids) if token == tokenizer.eos_token_id]
    cuts = sorted({0, *ends, len(ids)})
    exchanges, room, length = [], MOST_CHARACTERS, 0
    for start, end in zip(cuts, cuts[1:], strict=False):
        parts = []
        for trained, text in stretches(ids[start:end], labels[start:end], tokenizer):
            length += len(text)
            if room > 0:
                parts.append((trained, text[:room]))
            room -= len(text)
        if parts:
            exchanges.append(parts)
    trained = sum(label != -100 for label in labels)
    cut = length if room < 0 else None
    return {"id": row["id"], "tokens": len(ids), "supervised": trained, "exchanges": exchanges, "cut_from": cut}


def pages(shown: dict[str, list[dict]]) -> list[dict[str, Any]]:
    """The conversations in pages of ON_A_PAGE; no page holds two sources."""
    result: list[dict[str, Any]] = []
    for name, rows in shown.items():
        for start in range(0, len(rows), ON_A_PAGE):
            part = rows[start : start + ON_A_PAGE]
            result.append(
                {"source": name, "first": start + 1, "last": start + len(part), "of": len(rows), "rows": part}
            )
    return result


def facts(recipe: Recipe, prepared: Prepared) -> dict[str, str]:
    """What the rows were built from, as label and text."""
    settings = prepared.mixture.get("settings", {})
    model = templating.public_name(recipe.values["model_name_or_path"])
    found = {
        "recipe": recipe.name,
        "tokenizer": f"{model}, sha256 {settings.get('tokenizer', 'unknown')[:16]}",
        "supervised": f"loss: {recipe.loss}",
        "longest row": f"{recipe.values['max_length']:,} tokens, overlong: {recipe.mixture.overlong}",
        "seed": str(recipe.mixture.seed),
        "key of the data": prepared.key[:16],
    }
    for name, source in settings.get("sources", {}).items():
        if source.get("hub_id"):
            found[name] = f"{source['hub_id']} at commit {str(source.get('commit'))[:12]}"
        else:
            files = source.get("files", {})
            found[name] = ", ".join(f"{file}, sha256 {str(sha)[:12]}" for file, sha in files.items())
    return found
