"""Where rows come from: a card in data_cards/, and behind it a pinned Hub repository or local files.

A card's source.yaml says `hub_id` and `revision`, or `path` (relative to the repository) and `made_by`; `splits` with
the rows each must have; the `format`; in prose what its loss flags mean; and its licence. `files` names single files of
a Hub repository that `datasets` cannot load as one table, `data_files` the files of each split where only a part of the
repository is wanted, `columns` the columns that have other names than the format's, and `keep` selects rows by a field.
data_cards/README.md documents every key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from agenttuning.data.convert import FORMATS
from agenttuning.data.files import file_digest, local_files, read_file
from agenttuning.data.language import identity
from agenttuning.data.reach import reach_hub
from agenttuning.errors import UserError
from agenttuning.recipe.yaml_io import read_mapping

CARDS = Path(__file__).resolve().parents[3] / "data_cards"
KEEP = ("is", "is_not", "starts_with")


@dataclass(frozen=True)
class SourceCard:
    """One folder of data_cards/. `splits` maps a split to its expected rows, or to None where nobody knows."""

    name: str
    format: str
    hub_id: str | None = None
    former_hub_ids: list | None = None  # asked in turn when hub_id is not there (a mirror from before a renaming)
    revision: str | None = None
    path: str | None = None
    splits: dict | None = None
    files: dict | None = None  # {split: file in the Hub repository}
    data_files: dict | None = None  # {split: glob in the Hub repository}, as `datasets.load_dataset` takes it
    columns: dict | None = None  # {the format's name of a column: its name in this data}
    keep: dict | list | None = None  # {"field": name, one of KEEP: value}, or a list of those that must all hold
    language: str | None = None  # ISO 639-1; rows in another language are dropped and counted (data/language.py)
    loss_flags: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    made_by: str | None = None
    stand_in_for: str | None = None
    root: Path = CARDS.parent  # the repository, which `path` is relative to


def load_card(name: str, root: Path | None = None) -> SourceCard:
    """Read <root>/<name>/source.yaml; `root` is data_cards/ unless another folder of cards is given. Raises UserError
    for a missing card, an unknown key, or no place to read from.
    """
    folder = (root or CARDS) / name
    if not (folder / "source.yaml").is_file():
        known = sorted(path.parent.name for path in (root or CARDS).glob("*/source.yaml"))
        raise UserError(
            f"no data card named {name!r}; the mixture cannot be built without it; known: {', '.join(known) or 'none'}"
        )
    values = read_mapping(folder / "source.yaml")
    unknown = set(values) - ({field.name for field in fields(SourceCard)} - {"name", "root"})
    if unknown:
        raise UserError(
            f"{folder / 'source.yaml'}: unknown key `{min(unknown)}`; it would have been ignored in silence; remove it"
        )
    if values.get("format") not in FORMATS:
        raise UserError(
            f"{folder / 'source.yaml'}: format is {values.get('format')!r}; use one of {', '.join(FORMATS)}"
        )
    if bool(values.get("hub_id")) == bool(values.get("path")):
        raise UserError(f"{folder / 'source.yaml'}: give either hub_id or path; there is no single place to read from")
    if values.get("hub_id") and not values.get("revision"):
        raise UserError(
            f"{folder / 'source.yaml'}: revision is missing; the data could change between runs; pin a commit"
        )
    card = SourceCard(name=name, root=(root or CARDS).parent, **values)
    for rule in _keep_rules(card):
        if not isinstance(rule, dict) or set(rule) not in ({"field", word} for word in KEEP):
            raise UserError(
                f"{folder / 'source.yaml'}: keep holds {rule!r}; it would select other rows than meant; write `field: "
                f"NAME` and one of {', '.join(KEEP)}"
            )
    return card


def read(
    card: SourceCard, path: str | Path | None = None, not_kept: Counter[str] | None = None
) -> Iterator[tuple[str, object]]:
    """Yield (split, raw row) of a card, or of the user's own file or folder `path` in the card's format.

    A line that cannot be parsed is yielded as `Unreadable`. Raises UserError if there is nothing to read, if a Hub
    source has another number of rows than its card expects, or if the Hub cannot be reached. A user's own files are not
    counted against the card. Rows that `keep` does not take are counted in `not_kept`, by the first rule that refused
    them, such as `model starts_with "gpt-4"`.
    """
    left_out = Counter() if not_kept is None else not_kept
    local = local_path(card, path)
    if local is None:
        wanted = _counted(card, _hub_files(card) if card.files else _hub(card), left_out)
    else:
        found = ((file.stem, row) for file in local_files(local) for row in read_file(file))
        wanted = ((split, row) for split, row in found if _kept(card, row, left_out))
    yield from ((split, _renamed(card, row)) for split, row in wanted)


def fingerprint(card: SourceCard, path: str | Path | None = None) -> dict:
    """What identifies the content of a pinned card: sha256 per local file, or the Hub id and commit."""
    local = local_path(card, path)
    rules = {"format": card.format, "keep": card.keep, "columns": card.columns, "language": identity(card.language)}
    if local is None:
        return {"hub_id": card.hub_id, "commit": card.revision, "hub_files": card.files or card.data_files, **rules}
    return {"files": {file.name: file_digest(file) for file in local_files(local)}, **rules}


def local_path(card: SourceCard, path: str | Path | None = None) -> Path | None:
    """The local place to read from, or None for the Hub. Raises UserError, naming the command that makes it, if it is
    absent.
    """
    if path is None and card.path is None:
        return None
    local = Path(path) if path is not None else card.root / card.path
    if not local.exists():
        hint = f"run `{card.made_by}`" if path is None and card.made_by else "check the path"
        raise UserError(f"{local} does not exist; the source {card.name} has no rows; {hint}")
    return local


def _hub(card: SourceCard) -> Iterator[tuple[str, object]]:
    from datasets import load_dataset

    part = {"data_files": card.data_files} if card.data_files else {}
    splits = reach_hub(card, lambda hub_id: load_dataset(hub_id, revision=card.revision, **part))
    for split, table in splits.items():
        yield from ((split, row) for row in table)


def _hub_files(card: SourceCard) -> Iterator[tuple[str, object]]:
    from huggingface_hub import hf_hub_download

    for split, name in card.files.items():
        file = reach_hub(
            card,
            lambda hub_id, name=name: hf_hub_download(hub_id, name, repo_type="dataset", revision=card.revision),
        )
        yield from ((split, row) for row in read_file(Path(file)))


def _counted(
    card: SourceCard, rows: Iterator[tuple[str, object]], not_kept: Counter[str]
) -> Iterator[tuple[str, object]]:
    counts = dict.fromkeys(card.splits or {}, 0)
    for split, row in rows:
        counts[split] = counts.get(split, 0) + 1
        if _kept(card, row, not_kept):
            yield split, row
    expected = {split: counts[split] if rows is None else rows for split, rows in (card.splits or {}).items()}
    if expected and counts != expected:
        raise UserError(
            f"{card.hub_id} at {card.revision} has the rows {counts}, its card expects {expected}; the source "
            f"changed, so shares and "
            f"epochs would not be those of the recipe; pin the old revision or correct "
            f"data_cards/{card.name}/source.yaml"
        )


def _kept(card: SourceCard, row: object, not_kept: Counter[str]) -> bool:
    for rule in _keep_rules(card) if isinstance(row, dict) else []:
        if not _holds(rule, row.get(rule["field"])):
            word = next(word for word in KEEP if word in rule)
            not_kept[f"{rule['field']} {word} {json.dumps(rule[word], default=str)}"] += 1
            return False
    return True


def _keep_rules(card: SourceCard) -> list:
    return [] if card.keep is None else card.keep if isinstance(card.keep, list) else [card.keep]


def _holds(rule: dict, value: object) -> bool:
    if "starts_with" in rule:
        return isinstance(value, str) and value.startswith(rule["starts_with"])
    return value == rule["is"] if "is" in rule else value != rule["is_not"]


def _renamed(card: SourceCard, row: object) -> object:
    if card.columns is None or not isinstance(row, dict):
        return row
    return {**row, **{ours: row.get(theirs) for ours, theirs in card.columns.items()}}
