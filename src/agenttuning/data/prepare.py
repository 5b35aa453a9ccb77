"""From a recipe's mixture to the Arrow dataset that training reads: encoded, verified, drawn, written whole or not.

The output folder loads with `datasets.load_from_disk` (columns input_ids and labels: int32 lists, labels -100 where
masked; source, id: text) and also holds mixture.json (what was asked and what came out) and, by row, what was malformed
(quarantine.jsonl), refused by a filter (dropped.jsonl) or known to be defective (defects.jsonl). Its key is a hash of
everything the rows depend on, so a second call with the same inputs reads it instead of building it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import fingerprint as tokenizer_fingerprint
from agenttuning.chat import load_for, template_record
from agenttuning.data import defects, quarantine
from agenttuning.data.rows import name_fingerprint, packing_line, trainable_rows
from agenttuning.data.sources import LOCK, SourceCard, fingerprint, load_card, pin
from agenttuning.data.table import mixture_table
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    from agenttuning.recipe import Recipe

LAYOUT = 2  # raise when the rows made from the same inputs change


@dataclass(frozen=True)
class Prepared:
    """A prepared mixture. `mixture` is the content of mixture.json; `reused` says that it was there already."""

    path: Path
    key: str
    mixture: dict
    reused: bool

    def load(self) -> Dataset:
        """The dataset, memory-mapped."""
        from datasets import load_from_disk

        return load_from_disk(str(self.path))


def prepare(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    out_dir: str | Path,
    overrides_of_paths: Mapping[str, str | Path] | None = None,
) -> Prepared:
    """Build, or reuse, the mixture of `recipe` in `out_dir`. `overrides_of_paths` gives a source the user's own file or
    folder.

    Raises UserError for a missing or changed source, too many malformed rows, too much lost to max_length, a source
    without (or with nothing but) supervised tokens, and an `out_dir` that holds something else; MaskError if a mask is
    wrong.
    """
    out_dir, paths = Path(out_dir), dict(overrides_of_paths or {})
    shares = {name: source.share for name, source in recipe.mixture.sources.items() if source.share > 0}
    strangers = set(paths) - set(shares)
    if strangers:
        raise UserError(
            f"a data path is given for {min(strangers)!r}, which the mixture does not draw from; it would have been "
            f"ignored; "
            f"its sources are {', '.join(shares)}"
        )
    earlier = _read_mixture(out_dir).get("settings", {}).get("sources", {})
    folder = recipe.root / "data_cards"
    cards = {
        name: pin(load_card(name, folder), paths.get(name), earlier.get(name, {}).get("commit"), folder / LOCK)
        for name in shares
    }
    settings = _settings(recipe, tokenizer, cards, paths)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    ready = _reuse(out_dir, key)
    if ready is not None:
        return Prepared(out_dir, key, ready, reused=True)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_over(out_dir)
    partial = out_dir.parent / f".{out_dir.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        mixture = _build(recipe, tokenizer, cards, paths, shares, partial, key) | {"key": key, "settings": settings}
        (partial / "mixture.json").write_text(
            json.dumps(mixture, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        _swap(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Prepared(out_dir, key, mixture, reused=False)


def prepare_cli(recipe: Recipe, data_paths: Mapping[str, str | Path]) -> Prepared:
    """Prepare `recipe` into <run_dir>/data with the tokenizer of its model and print the realised mixture."""
    tokenizer = load_for(recipe)
    prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
    rows = trainable_rows(prepared, recipe)
    print(mixture_table(prepared.mixture))
    print(packing_line(rows, recipe, prepared.mixture["tokens"]))
    if notes := defects.summary(prepared.mixture):
        print(notes)
    print(f"{'reused' if prepared.reused else 'written'}: {prepared.path}")
    return prepared


def _settings(recipe: Recipe, tokenizer, cards: dict[str, SourceCard], paths: dict) -> dict:
    """Everything the rows depend on. Steps and packing count only where the number of draws follows from them."""
    length = {name: recipe.values.get(name) for name in ("max_steps", "packing")} | {
        "global_batch": recipe.launch.global_batch
    }
    return {
        "layout": LAYOUT,
        "mixture": asdict(recipe.mixture),
        "loss": recipe.loss,
        "max_length": recipe.values["max_length"],
        "length": length if recipe.mixture.draws is None else None,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **template_record(tokenizer),
        "sources": {name: fingerprint(card, paths.get(name)) for name, card in sorted(cards.items())},
    }


def _build(recipe: Recipe, tokenizer, cards, paths: dict, shares: dict[str, float], folder: Path, key: str) -> dict:
    from datasets import concatenate_datasets, disable_progress_bars

    from agenttuning.data.language import Language
    from agenttuning.data.mixture import realised
    from agenttuning.data.pool import Rules, build_pool, keep_splits

    if not sys.stderr.isatty():
        disable_progress_bars()
    mixture = recipe.mixture
    rules = Rules(
        recipe.loss,
        recipe.values["max_length"],
        mixture.overlong,
        mixture.system_prompt,
        mixture.max_quarantined,
        mixture.max_overlong_loss,
    )
    work = folder / "work"
    work.mkdir()
    found = {name: defects.Defects(name, mixture.sources[name].defects == "drop") for name in sorted(shares)}
    pools = {}
    for name, look in found.items():
        asked = [keep_splits(splits)] if (splits := mixture.sources[name].splits) else []
        asked += [Language(cards[name].language)] if cards[name].language else []
        pools[name] = build_pool(cards[name], paths.get(name), tokenizer, rules, work, [*asked, look])
    order = _order(recipe, pools, shares)
    tables = [pools[name].dataset() for name in order.names]
    offsets = [sum(len(table) for table in tables[:index]) for index in range(len(tables))]
    rows = [offsets[source] + row for source, row in zip(order.sources.tolist(), order.rows.tolist(), strict=True)]
    concatenate_datasets(tables).select(rows).save_to_disk(str(folder))
    name_fingerprint(folder, key)
    quarantine.write([pools[name].quarantine.records for name in order.names], folder / "quarantine.jsonl")
    quarantine.write([pools[name].dropped for name in order.names], folder / "dropped.jsonl")
    quarantine.write([found[name].records for name in order.names], folder / "defects.jsonl")
    del tables
    shutil.rmtree(work)
    sources = realised(order, pools, shares)
    for name, source in sources.items():
        source["defects"] = dict(sorted(found[name].found.items()))
    totals = {key: sum(source[key] for source in sources.values()) for key in ("draws", "tokens", "supervised_tokens")}
    return {**totals, "sources": sources}


def _order(recipe: Recipe, pools: dict, shares: dict[str, float]):
    from agenttuning.data.mixture import by_split

    splits = {name: recipe.mixture.sources[name].splits for name in pools}
    return by_split(pools, shares, splits, lambda parts, part_shares: _draw(recipe, parts, part_shares))


def _draw(recipe: Recipe, pools: dict, shares: dict[str, float]):
    from agenttuning.data.mixture import draw, draw_tokens

    draws, seed = recipe.mixture.draws, recipe.mixture.seed
    if draws is None:
        sequences = recipe.values["max_steps"] * recipe.launch.global_batch
        if recipe.values.get("packing"):
            return draw_tokens(pools, shares, sequences * recipe.values["max_length"], seed)
        draws = sequences
    return draw({name: len(pool.lengths) for name, pool in pools.items()}, shares, draws, seed)


def _read_mixture(out_dir: Path) -> dict:
    try:
        mixture = json.loads((out_dir / "mixture.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # absent or damaged: built again
    return mixture if isinstance(mixture, dict) else {}


def _reuse(out_dir: Path, key: str) -> dict | None:
    """The mixture.json of an output folder that has this key and loads, else None."""
    from datasets import load_from_disk

    mixture = _read_mixture(out_dir)
    if mixture.get("key") != key:
        return None
    try:
        return mixture if len(load_from_disk(str(out_dir))) == mixture["draws"] else None
    except (OSError, ValueError, KeyError):
        return None  # damaged: built again


def _clear_left_over(out_dir: Path) -> None:
    """Remove what builds that were killed left beside `out_dir`; a build that still runs keeps its folder."""
    for path in out_dir.parent.glob(f".{out_dir.name}.*.*"):
        pid = path.name.split(".")[-2]
        if path.suffix in (".tmp", ".old") and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _swap(partial: Path, out_dir: Path) -> None:
    """Put the finished folder in place of the old one by renaming; an unrelated folder is never replaced."""
    if out_dir.exists() and any(out_dir.iterdir()) and not (out_dir / "mixture.json").exists():
        raise UserError(
            f"{out_dir} holds files that are not a prepared mixture; they would be lost; choose another folder"
        )
    if not out_dir.exists():
        partial.rename(out_dir)
        return
    old = out_dir.parent / f".{out_dir.name}.{os.getpid()}.old"
    out_dir.rename(old)
    partial.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)
