"""From a recipe's mixture to the Arrow dataset that training reads: encoded, verified, drawn, written whole or not.

The output folder loads with `datasets.load_from_disk` (columns input_ids and labels: int32 lists, labels -100 where
masked; source, id: text) and also holds mixture.json (what was asked and what came out) and, by row, what was malformed
(quarantine.jsonl), refused by a filter (dropped.jsonl) or known to be defective (defects.jsonl). Its key is a hash of
everything the rows depend on, so a second call with the same inputs reads it instead of building it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from agenttuning.chat import fingerprint as tokenizer_fingerprint
from agenttuning.chat import load_for, template_record
from agenttuning.chat.show import escape
from agenttuning.data import defects, quarantine
from agenttuning.data.against import read_against
from agenttuning.data.contamination import KINDS, Check
from agenttuning.data.folders import alone_in, keyed, swap
from agenttuning.data.lock import LOCK, pin
from agenttuning.data.rows import name_fingerprint, packing_line, trainable_rows
from agenttuning.data.sources import SourceCard, fingerprint, load_card
from agenttuning.data.table import mixture_table
from agenttuning.errors import UserError
from agenttuning.machine import usable_cores

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.pool import Pool, Read
    from agenttuning.recipe import Recipe

MOST_PROCESSES = 16  # unless dataset_num_proc says more: one process reads for all, and each holds some 400 MB
LAYOUT = 3  # raise when the rows made from the same inputs change


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
    settings, against = _settings(recipe, tokenizer, cards, paths), None
    if recipe.mixture.decontaminate is not None:
        against = read_against(recipe.mixture.decontaminate.against)
        settings["against"] = against.sources
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    ready = _reuse(out_dir, key)
    if ready is not None:
        return Prepared(out_dir, key, ready, reused=True)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(out_dir.parent):
        ready = _reuse(out_dir, key)  # another build may have finished while this one waited
        if ready is not None:
            return Prepared(out_dir, key, ready, reused=True)
        partial, pieces = out_dir.parent / f".{out_dir.name}.tmp", out_dir.parent / f".{out_dir.name}.pieces"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            check = Check(against.examples, tokenizer, against.sources) if against else None
            read = _read(recipe, tokenizer, cards, paths, pieces, settings, check)
            mixture = _build(recipe, read, shares, partial, check)
            mixture |= {"not_compared": against.missing if against else {}, "key": key, "settings": settings}
            (partial / "mixture.json").write_text(
                json.dumps(mixture, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            name_fingerprint(partial, key)
            swap(partial, out_dir, "mixture.json")
            shutil.rmtree(pieces, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"{out_dir} could not be built: {error}; training would have nothing to read; make room there, or "
                f"choose another place with --run-dir; finished pieces are kept in {pieces}"
            ) from error
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
    for suite, found in (prepared.mixture["contamination"] or {}).items():
        kinds = ", ".join(f"{found[kind]:,} {kind.replace('_', ' ')}" for kind in KINDS)
        print(f"{escape(suite)}: {found['examples']:,} test examples in the conversations as read: {kinds}")
    for suite, how in prepared.mixture["not_compared"].items():
        print(f"{escape(suite)}: NOT compared; {escape(how)}")
    print(f"{'reused' if prepared.reused else 'written'}: {prepared.path}")
    return prepared


def _settings(recipe: Recipe, tokenizer, cards: dict[str, SourceCard], paths: dict) -> dict:
    """Everything the rows depend on. Steps and packing count only where the number of draws follows from them."""
    length = {name: recipe.values.get(name) for name in ("max_steps", "packing")} | {
        "global_batch": recipe.launch.global_batch
    }
    mixture = asdict(recipe.mixture)
    if mixture["decontaminate"]:  # NAME=PATH: the content counts (`against`), and a path is nobody's business
        mixture["decontaminate"]["against"] = [word.partition("=")[0] for word in recipe.mixture.decontaminate.against]
    return {
        "layout": LAYOUT,
        "mixture": mixture,
        "loss": recipe.loss,
        "max_length": recipe.values["max_length"],
        "length": length if recipe.mixture.draws is None else None,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        **template_record(tokenizer),
        "sources": {name: fingerprint(card, paths.get(name)) for name, card in sorted(cards.items())},
    }


def _build(recipe: Recipe, read: dict[str, Read], shares: dict[str, float], folder: Path, check: Check | None) -> dict:
    from datasets import concatenate_datasets, disable_progress_bars

    from agenttuning.data.mixture import realised

    if not sys.stderr.isatty():
        disable_progress_bars()
    pools, found = _settled(recipe, read, check)
    order = _order(recipe, pools, shares)
    tables = [pools[name].dataset() for name in order.names]
    offsets = numpy.cumsum([0, *map(len, tables[:-1])])
    concatenate_datasets(tables).select(offsets[order.sources] + order.rows).save_to_disk(str(folder))
    del tables
    for file, lists in {
        "quarantine.jsonl": [pools[name].quarantine.records for name in order.names],
        "dropped.jsonl": [pools[name].dropped for name in order.names],
        "defects.jsonl": [pools[name].defects for name in order.names],
    }.items():
        quarantine.write(lists, folder / file)
    sources = realised(order, pools, shares)
    totals = {key: sum(source[key] for source in sources.values()) for key in ("draws", "tokens", "supervised_tokens")}
    return {**totals, "sources": sources, **found}


def _settled(recipe: Recipe, read: dict[str, Read], check: Check | None) -> tuple[dict[str, Pool], dict]:
    """The pools without contaminated conversations and duplicates, as far as the recipe asks, and what was found."""
    from agenttuning.data.pool import settle
    from agenttuning.data.refusals import of_contaminated, of_duplicates

    mixture, found = recipe.mixture, {"contamination": None, "duplicates": None}
    pools, refused = {name: settle(source) for name, source in read.items()}, {name: {} for name in read}
    if check is not None:
        refused, found["contamination"] = of_contaminated(read, pools, check, mixture.decontaminate.drop == "dirty")
        pools = {name: settle(source, refused[name]) for name, source in read.items()}
    if mixture.duplicates != "keep":
        twice, found["duplicates"] = of_duplicates(read, pools, mixture.duplicates, mixture.near_duplicate_threshold)
        pools = {name: settle(source, refused[name] | twice[name]) for name, source in read.items()}
    return pools, found


def _read(
    recipe: Recipe,
    tokenizer,
    cards: dict[str, SourceCard],
    paths: dict,
    pieces: Path,
    settings: dict,
    check: Check | None,
) -> dict[str, Read]:
    """Every source in pieces below `pieces`. A piece does not depend on seed, shares or steps, so that a build started
    again with others goes on from it too.
    """
    from agenttuning.data.pieces import PIECE, PIECE_CHARACTERS
    from agenttuning.data.pool import read_source
    from agenttuning.data.records import Job, Rules

    mixture = recipe.mixture
    processes = recipe.values.get("dataset_num_proc") or min(usable_cores(), MOST_PROCESSES)
    rules = Rules(
        recipe.loss,
        recipe.values["max_length"],
        mixture.overlong,
        mixture.system_prompt,
        mixture.max_quarantined,
        mixture.max_overlong_loss,
    )
    found = {}
    for name, card in sorted(cards.items()):
        source = mixture.sources[name]
        splits = frozenset(source.splits) if source.splits else None
        made_of = [settings["layout"], settings["tokenizer"], settings["sources"][name], recipe.loss, source.defects]
        made_of += [rules.max_length, rules.overlong, rules.system_prompt, sorted(splits or [])]
        made_of += [PIECE, PIECE_CHARACTERS, mixture.duplicates, check and check.identity()]
        folder = keyed(pieces / name, hashlib.sha256(json.dumps(made_of).encode()).hexdigest())
        job = Job(card, tokenizer, rules, folder, splits, source.defects == "drop", mixture.duplicates, check)
        found[name] = read_source(job, paths.get(name), processes)
    return found


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
