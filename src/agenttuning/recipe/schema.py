"""The shape of a recipe: TRL's own keys in `values`, and our four blocks `mixture`, `loss`, `launch`, `publish`.

Blocks are frozen dataclasses; a field's annotation is its type check and `one_of` its allowed words. Nothing here
imports torch or trl. Every error is a UserError that names the key.
"""

import hashlib
import json
import os
import re
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from agenttuning.errors import UserError
from agenttuning.recipe.keys import accepts, kind_of, kinds_of, refuse_unknown, value_types

REPOSITORY = Path(__file__).resolve().parents[3]
LOSSES = ("flags", "assistant", "last", "all")
# Words of launch.attention (docs/attention.md); a kernel on the Hub is `owner/name`, pinned as `owner/name@revision`.
ATTENTIONS = ("auto", "flash_attention_3", "flash_attention_2", "flash_attention_4", "varlen", "sdpa", "eager")
ATTENTIONS += ("flex_attention",)
HUB_KERNEL = r"[\w.-]+/[\w.-]+(@[\w.-]+)?"
# TRL keys that decide what is trained: written in every resolved recipe, never left to a library's default.
REQUIRED = ("model_name_or_path", "max_steps", "max_length", "per_device_train_batch_size", "learning_rate", "seed")


def one_of(*words: str, default: Any = MISSING, or_like: str = "") -> Any:
    """A dataclass field that takes only these words, or what the regular expression `or_like` describes."""
    metadata = {"one_of": words, "or_like": or_like}
    return field(metadata=metadata, **({} if default is MISSING else {"default": default}))


@dataclass(frozen=True)
class Source:
    """One data source. `share` is its part of all conversations drawn, in (0, 1].

    defects: whether rows with a known defect (data/defects.py) are used, as in the paper, or dropped and counted.
    splits: {split: its share of this source}, summing to 1; a split left out is left out. None: all rows alike.
    """

    share: float
    defects: str = one_of("keep", "drop", default="keep")
    splits: dict | None = None


@dataclass(frozen=True)
class Decontaminate:
    """What the training data is compared with (words of `decontaminate --against`), and what is done about it.

    drop: `dirty` leaves out every conversation that holds a part of a dirty example, so that none is dirty; `nothing`
    only reports.
    """

    against: list
    drop: str = one_of("dirty", "nothing")


@dataclass(frozen=True)
class Mixture:
    """What is drawn from which folder of data_cards/, and what happens to rows that do not fit.

    draws: conversations drawn; None means as many as fill max_steps x launch.global_batch.
    max_quarantined: share of malformed rows of a source, max_overlong_loss: share of supervised tokens lost to
    `overlong`; above either the build stops.
    duplicates: whether conversations that stand in the sources twice are kept, or all but the first dropped where they
    are `exact`ly the same, or also where they are `near`: alike by near_duplicate_threshold, in (0, 1]
    (data/duplicates.py).
    decontaminate: None, as in the paper, which measured the overlap and dropped nothing.
    """

    sources: dict[str, Source]
    draws: int | None = None
    seed: int = 42
    system_prompt: str | None = None
    chat_format: str = one_of("llama2", "tokenizer", default="llama2")
    overlong: str = one_of("drop", "truncate_end", "split_at_turn", default="drop")
    max_quarantined: float = 0.01
    max_overlong_loss: float = 0.2
    duplicates: str = one_of("keep", "exact", "near", default="keep")
    near_duplicate_threshold: float = 0.8
    decontaminate: Decontaminate | None = None


@dataclass(frozen=True)
class Launch:
    """How the run is spread. Results depend on `global_batch` (sequences per step) alone; the rest is machinery.

    accelerate_config: stem of a file in accelerate_configs/. attention: one of ATTENTIONS, or a kernel on the Hub as
    `owner/name` or `owner/name@revision`. `gpus` .. `usd_per_gpu_hour` state the machine that
    `plan` reckons with; gpu_peak_tflops is the dense bf16 peak, mfu the share of it expected, in (0, 1].
    max_loss_spike: the run stops when its loss stays higher than this above where it was, in nats per supervised token
    (training/watch.py says how that is judged); None: however high.
    """

    global_batch: int
    accelerate_config: str
    attention: str = one_of(*ATTENTIONS, default="auto", or_like=HUB_KERNEL)
    gpus: int | None = None
    gpu_name: str | None = None
    gpu_memory_gib: float | None = None
    gpu_peak_tflops: float | None = None
    mfu: float | None = None
    usd_per_gpu_hour: float | None = None
    max_loss_spike: float | None = 1.0


@dataclass(frozen=True)
class Publish:
    """Where the result goes. hub_model_id, hub_dataset_id, hub_traces_id: `owner/name` of the model, its training data
    and its episodes, or None for nowhere. collection: title of the collection that holds them.

    private: whether these repositories are. licences: {source: licence} states what a source's card does not, so
    that its rows may be pushed; it stands on the card as your statement. licence: the same for the weights, where the
    base model states none. base_model: the base's Hub id, where model_name_or_path is a local folder.
    """

    hub_model_id: str | None = None
    hub_dataset_id: str | None = None
    hub_traces_id: str | None = None
    collection: str | None = None
    private: bool = True
    licences: dict | None = None
    licence: str | None = None
    base_model: str | None = None


def build(kind: type, content: object, where: str) -> Any:
    """Make a block from a mapping. Raises UserError on unknown or missing keys, wrong types and words."""
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold `key: value` lines; it holds {content!r}.")
    known = {entry.name: entry for entry in fields(kind)}
    for key in content:
        if key not in known:
            refuse_unknown(key, known, where)
    for name, entry in known.items():
        if name not in content and entry.default is MISSING:
            raise UserError(f"{where}: `{name}` is missing; a run without it would be a guess. Add it.")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _checked(value, hints[name], known[name], where) for name, value in content.items()})


def _checked(value: Any, annotation: Any, entry: Any, where: str) -> Any:
    place = f"{where}.{entry.name}"
    if annotation == dict[str, Source]:
        if not isinstance(value, dict) or not value:
            raise UserError(f"{place} must name at least one folder of data_cards/ with its share; it holds {value!r}.")
        return {name: build(Source, source, f"{place}.{name}") for name, source in value.items()}
    if annotation == Decontaminate | None:
        return None if value is None else build(Decontaminate, value, place)
    kinds = kinds_of(annotation)
    if not accepts(kinds, value):
        raise UserError(f"{place}: {value!r} is {kind_of(value)}; it must be {' or '.join(sorted(kinds))}.")
    words = entry.metadata.get("one_of")
    like = entry.metadata.get("or_like")
    if words and value not in words and not (like and re.fullmatch(like, value)):
        raise UserError(f"{place}: {value!r} is not one of {', '.join(words)}.")
    return float(value) if isinstance(value, int) and "float" in kinds else value


@dataclass(frozen=True)
class Recipe:
    """One run, resolved. `origin` says for every flat key which file (or "command line", "default") set it."""

    name: str
    path: Path
    values: dict[str, Any]
    mixture: Mixture
    loss: str
    launch: Launch
    publish: Publish
    origin: dict[str, str] = field(compare=False)
    run_dir_override: Path | None = field(default=None, compare=False)

    @property
    def run_dir(self) -> Path:
        """runs/<folder>/<stem>, relative to the repository's root where every command runs, unless overridden."""
        return self.run_dir_override or Path("runs") / self.name

    @property
    def root(self) -> Path:
        """The repository of this recipe (it holds recipes/ and accelerate_configs/), else this package's own."""
        own = (folder.parent for folder in self.path.resolve().parents if folder.name == "recipes")
        return next((root for root in own if (root / "accelerate_configs").is_dir()), REPOSITORY)

    @property
    def accelerate_config(self) -> Path:
        """The accelerate config file this recipe is launched with."""
        return self.root / "accelerate_configs" / f"{self.launch.accelerate_config}.yaml"

    @property
    def hash(self) -> str:
        """sha256 of the flat record, in hex. The name and the place of the file do not enter."""
        text = json.dumps(self.flat(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def nested(self) -> dict[str, Any]:
        """The record in a recipe's own shape: loading it again gives the same hash."""
        blocks = {"mixture": self.mixture, "launch": self.launch, "publish": self.publish}
        return {**self.values, "loss": self.loss, **{name: asdict(block) for name, block in blocks.items()}}

    def flat(self) -> dict[str, Any]:
        """The record with dotted keys for our blocks: {"max_steps": 2000, "mixture.seed": 42, ...}."""
        return flatten(self.nested())

    def write(self, folder: Path) -> Path:
        """Write `folder`/resolved.yaml (whole or not at all) and return its path. Raises OSError."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path, partial = folder / "resolved.yaml", folder / f"resolved.yaml.{os.getpid()}.tmp"
        origins = "".join(f"#   {key}: {where}\n" for key, where in sorted(self.origin.items()))
        body = yaml.safe_dump(self.nested(), sort_keys=True, allow_unicode=True, width=120)
        head = f"# {self.name}, resolved; sha256 of the record {self.hash}\n# where each value came from:\n"
        partial.write_text(head + origins + body, encoding="utf-8")
        partial.replace(path)
        return path


def flatten(nested: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys for the blocks `mixture`, `launch`, `publish`; TRL's own dictionary values stay whole."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, content: Any, depth: int) -> None:
        if isinstance(content, dict) and depth:
            for key, value in content.items():
                walk(f"{prefix}.{key}", value, depth - 1)
        else:
            flat[prefix] = content

    for key, value in nested.items():
        # mixture.sources.<name>.share and its neighbours are the deepest keys there are
        walk(key, value, 3 if key in ("mixture", "launch", "publish") else 0)
    return flat


def check_values(values: dict[str, Any], where: str, origin: dict[str, str]) -> None:
    """Types of the TRL keys, and that the required ones are there. Raises UserError naming the file at fault."""
    known = value_types()
    for key, value in values.items():
        if not accepts(known[key], value):
            kinds = " or ".join(sorted(known[key]))
            raise UserError(f"{origin[key]}: `{key}`: {value!r} is {kind_of(value)}; TRL takes {kinds}.")
    for key in REQUIRED:
        if values.get(key) is None:
            raise UserError(f"{where}: `{key}` is missing; the library's default would decide for you. Write it.")
    for key in ("max_steps", "max_length", "per_device_train_batch_size"):
        if values[key] < 1:
            raise UserError(f"{origin[key]}: `{key}: {values[key]}`; it must be 1 or more.")


def _check_splits(place: str, splits: dict | None) -> None:
    if splits is None:
        return
    wrong = [split for split, share in splits.items() if not accepts({"float"}, share) or not 0 < share <= 1]
    if wrong:
        raise UserError(f"{place}.{wrong[0]} is {splits[wrong[0]]!r}; shares lie in (0, 1]. Leave a split out for 0.")
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise UserError(
            f"{place} sum to {sum(splits.values()):.6g}, not 1; the source would not be drawn as you wrote it. "
            f"Shares: {', '.join(f'{split} {share:g}' for split, share in splits.items())}."
        )


def _check_against(place: str, decontaminate: Decontaminate | None) -> None:
    if decontaminate is None:
        return
    words = decontaminate.against
    if not words:
        raise UserError(f"{place} is empty; nothing would be compared. Name a suite, or write `decontaminate: null`.")
    for word in words:
        name, equals, path = word.partition("=") if isinstance(word, str) else ("", "", "")
        if not name.strip() or (equals and not path.strip()):
            raise UserError(f"{place} holds {word!r}; it would name nothing. Write a suite's name, or NAME=FILE.")
    if len(set(words)) < len(words):
        raise UserError(f"{place} names {max(words, key=words.count)!r} twice; its examples would count double.")


def check_blocks(mixture: Mixture, loss: Any, launch: Launch, where: str) -> None:
    """Rules that types cannot say: ranges, and shares that sum to 1. Raises UserError."""
    if loss not in LOSSES:
        raise UserError(f"{where}: `loss: {loss!r}` is not one of {', '.join(LOSSES)}.")
    for name, source in mixture.sources.items():
        if not 0 < source.share <= 1:
            raise UserError(f"{where}: mixture.sources.{name}.share is {source.share}; shares lie in (0, 1].")
        _check_splits(f"{where}: mixture.sources.{name}.splits", source.splits)
    _check_against(f"{where}: mixture.decontaminate.against", mixture.decontaminate)
    total = sum(source.share for source in mixture.sources.values())
    if abs(total - 1) > 1e-6:
        raise UserError(
            f"{where}: the shares of mixture.sources sum to {total:.6g}, not 1; the mixture would not be the one you "
            f"wrote. Shares: {', '.join(f'{name} {source.share:g}' for name, source in mixture.sources.items())}."
        )
    positive = {
        "mixture.draws": mixture.draws,
        "launch.global_batch": launch.global_batch,
        "launch.gpus": launch.gpus,
        "launch.gpu_memory_gib": launch.gpu_memory_gib,
        "launch.gpu_peak_tflops": launch.gpu_peak_tflops,
    }
    for key, value in positive.items():
        if value is not None and value <= 0:
            raise UserError(f"{where}: `{key}: {value}`; it must be above 0.")
    if launch.mfu is not None and not 0 < launch.mfu <= 1:
        raise UserError(f"{where}: launch.mfu is {launch.mfu}; it is the share of the peak, in (0, 1].")
    if launch.max_loss_spike is not None and not 0 < launch.max_loss_spike < float("inf"):
        raise UserError(
            f"{where}: launch.max_loss_spike is {launch.max_loss_spike}; it is a rise of the loss in nats, above 0, or "
            "null for a run that no rise shall stop."
        )
    for key in ("max_quarantined", "max_overlong_loss"):
        if not 0 <= getattr(mixture, key) <= 1:
            raise UserError(f"{where}: mixture.{key} is {getattr(mixture, key)}; it is a share, in [0, 1].")
    if not 0 < mixture.near_duplicate_threshold <= 1:
        raise UserError(
            f"{where}: mixture.near_duplicate_threshold is {mixture.near_duplicate_threshold}; conversations are near "
            "duplicates from this similarity on, in (0, 1]; at 0 all would be. Use `duplicates: keep` to drop none."
        )
