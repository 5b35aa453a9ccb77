"""Where rows come from: a card in data_cards/, and behind it a pinned Hub repository or local files.

A card's source.yaml says `hub_id` and `revision`, or `path` (relative to the repository) and `made_by`; `splits` with
the rows each must have; the `format`; in prose what its loss flags mean; and its licence. `files` names single files of
a Hub repository that `datasets` cannot load as one table, `data_files` the files of each split where only a part of the
repository is wanted, `columns` the columns that have other names than the format's, and `keep` selects rows by a field.
data_cards/README.md documents every key.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from agenttuning.data.convert import FORMATS, Unreadable
from agenttuning.data.language import identity
from agenttuning.errors import UserError
from agenttuning.recipe.yaml_io import read_mapping

CARDS = Path(__file__).resolve().parents[3] / "data_cards"
LOCK = "lock.json"  # beside the cards
Result = TypeVar("Result")
KEEP = ("is", "is_not", "starts_with")
SUFFIXES = (".jsonl", ".parquet", ".json")


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


def read(card: SourceCard, path: str | Path | None = None) -> Iterator[tuple[str, object]]:
    """Yield (split, raw row) of a card, or of the user's own file or folder `path` in the card's format.

    A line that cannot be parsed is yielded as `Unreadable`. Raises UserError if there is nothing to read, if a Hub
    source has another number of rows than its card expects, or if the Hub cannot be reached. A user's own files are not
    counted against the card.
    """
    local = local_path(card, path)
    if local is None:
        wanted = _counted(card, _hub_files(card) if card.files else _hub(card))
    else:
        wanted = ((file.stem, row) for file in local_files(local) for row in _rows(file) if _kept(card, row))
    yield from ((split, _renamed(card, row)) for split, row in wanted)


def pin(
    card: SourceCard, path: str | Path | None = None, known: str | None = None, lock: Path | None = None
) -> SourceCard:
    """The card with its revision resolved to a commit, so that what is recorded is what is read.

    `lock` is a lock file: what it says of this Hub id and revision is used without asking the Hub, and a commit that
    the Hub gives is written to it. `known` is the commit of an earlier preparation, kept when the Hub cannot be asked.
    """
    if local_path(card, path) is not None or is_commit(card.revision):
        return card
    locked = read_lock(lock).get(card.name, {}) if lock else {}
    if (locked.get("hub_id"), locked.get("revision")) == (card.hub_id, card.revision):
        return replace(card, revision=locked["commit"])
    from huggingface_hub import HfApi

    try:
        commit = reach_hub(card, lambda hub_id: HfApi().dataset_info(hub_id, revision=card.revision).sha)
        if lock:
            _write_lock(lock, card, commit)
    except UserError:
        if known is None:
            raise
        print(
            f"the Hub was not asked about {card.hub_id}: keeping commit {known} of the earlier preparation",
            file=sys.stderr,
        )
        commit = known
    return replace(card, revision=commit)


def read_lock(lock: Path) -> dict:
    """The content of a lock file, {card: {"hub_id", "revision", "commit"}}; {} where there is none. Raises UserError
    for a damaged one, which would let the data change unseen.
    """
    if not lock.exists():
        return {}
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
        if all(is_commit(entry["commit"]) for entry in content.values()):
            return content
        raise ValueError("an entry has no full commit hash")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{lock} cannot be read: {error}; the sources could be read at other commits than before; restore it, or "
            f"delete it to resolve the revisions anew"
        ) from error


def _write_lock(lock: Path, card: SourceCard, commit: str) -> None:
    entry = {"hub_id": card.hub_id, "revision": card.revision, "commit": commit}
    content = dict(sorted({**read_lock(lock), card.name: entry}.items()))
    partial = lock.with_name(f"{lock.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(lock)
    except OSError as error:
        print(f"{lock} was not written ({error}); the next build may read another commit", file=sys.stderr)
        return
    print(
        f"{card.name}: revision {card.revision} of {card.hub_id} is commit {commit}; written to {lock}, which later "
        f"builds use; delete its entry to ask the Hub again",
        file=sys.stderr,
    )


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash, which names one state of a repository for ever."""
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")


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


def local_files(local: Path) -> list[Path]:
    """The data files at a path, sorted by name. Raises UserError if there are none."""
    files = [local] if local.is_file() else sorted(file for file in local.iterdir() if file.suffix in SUFFIXES)
    if not files or files[0].suffix not in SUFFIXES:
        raise UserError(
            f"{local} holds no {', '.join(SUFFIXES)} file; there are no rows to read; give a file or folder of those"
        )
    return files


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
        yield from ((split, row) for row in _rows(Path(file)))


def _counted(card: SourceCard, rows: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    counts = dict.fromkeys(card.splits or {}, 0)
    for split, row in rows:
        counts[split] = counts.get(split, 0) + 1
        if _kept(card, row):
            yield split, row
    expected = {split: counts[split] if rows is None else rows for split, rows in (card.splits or {}).items()}
    if expected and counts != expected:
        raise UserError(
            f"{card.hub_id} at {card.revision} has the rows {counts}, its card expects {expected}; the source "
            f"changed, so shares and "
            f"epochs would not be those of the recipe; pin the old revision or correct "
            f"data_cards/{card.name}/source.yaml"
        )


def _kept(card: SourceCard, row: object) -> bool:
    return not isinstance(row, dict) or all(_holds(rule, row.get(rule["field"])) for rule in _keep_rules(card))


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


def reach_hub(card: SourceCard, action: Callable[[str], Result]) -> Result:
    """`action` with the card's Hub id, or where no repository has that name, with a former one. Raises UserError."""
    try:
        return action(card.hub_id)
    except Exception as error:
        for former in (card.former_hub_ids or []) if _is_missing(error) else []:
            try:
                result = action(former)
            except Exception:  # the error worth telling is that of the present name
                continue
            print(
                f"{card.hub_id} is not on this Hub; {card.name} is read as {former}, its former name", file=sys.stderr
            )
            return result
        # The Hub client lets its HTTP library's exceptions through, and which library that is changes between releases.
        first = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        raise UserError(
            f"the Hub dataset {card.hub_id} (revision {card.revision}) cannot be read: {first}; the source "
            f"{card.name} would be missing; "
            f"{_advice(card, error)}, or give a local copy with --data {card.name}=FOLDER"
        ) from error


def _is_gated(error: BaseException) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError)


def _is_missing(error: BaseException) -> bool:
    """Whether the Hub answered that there is no such repository. A gated one is there; so is one that is offline."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError | DatasetNotFoundError) and not _is_gated(error)


def _advice(card: SourceCard, error: BaseException) -> str:
    if _is_gated(error):
        page = f"https://huggingface.co/datasets/{card.hub_id}"
        return f"it is gated: accept its terms at {page} and run `hf auth login`"
    if _is_missing(error):
        return "no repository has this name: it was moved, removed or made private; correct the card's hub_id"
    return "connect"


def _rows(file: Path) -> Iterator[object]:
    if file.suffix == ".parquet":
        yield from _parquet(file)
    elif file.suffix == ".json":
        yield from _json_array(file)
    else:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"line {number}")


def _parse(line: bytes, where: str) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"{where} is not valid JSON: {error}")


def _json_array(file: Path) -> Iterator[object]:
    # One element at a time: a whole ShareGPT file parsed at once takes several times its size in memory.
    decoder, place = json.JSONDecoder(), 0
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
        if not text.startswith("[") or not text.endswith("]"):
            raise ValueError("it is not a list of rows")
        while text[place] != "]":
            place = _skip_space(text, place + 1)
            if text[place] == "]":
                break
            row, place = decoder.raw_decode(text, place)
            yield row
            place = _skip_space(text, place)
            if text[place] not in ",]":
                raise ValueError(f"a comma was due at character {place}")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not a JSON list: {error}; its rows cannot be told apart; repair it or give JSONL"
        ) from error


def _skip_space(text: str, place: int) -> int:
    while text[place].isspace():
        place += 1
    return place


def _parquet(file: Path) -> Iterator[object]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read as Parquet: {error}; its rows are lost; repair or replace the file"
        ) from error


def file_digest(file: Path) -> str:
    """sha256 of a file, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
