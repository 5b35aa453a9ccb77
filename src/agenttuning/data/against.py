"""The evaluation examples that training data is compared with, from names or files, and what identifies them.

A word is one of: a name in evaluation/contamination/ (`mmlu`), read from the Hub at a commit kept in lock.json there;
`NAME=PATH`, rows of the user's own (JSONL, JSON, Parquet, or a folder of them), where a name of that folder decides
which fields are text and PATH may be a checkout of AgentBench; `all` or `all=PATH`, every name of that folder that the
Hub or PATH has; or a suite of evaluation/suites/, whose test items we make ourselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.data.contamination import Example
from agenttuning.data.convert import Unreadable
from agenttuning.data.files import SUFFIXES, file_digest, local_files
from agenttuning.data.lock import LOCK, pin
from agenttuning.data.sources import SourceCard, read
from agenttuning.errors import UserError, nearest
from agenttuning.recipe.schema import REPOSITORY, build
from agenttuning.recipe.yaml_io import read_mapping

FOLDER = REPOSITORY / "evaluation" / "contamination"


@dataclass(frozen=True)
class Benchmark:
    """A file of evaluation/contamination/.

    examples: how many the test set has. texts: each entry a field, of which every string is a text of its own, or a
    list of fields, whose strings make one text with `joint` between them. hub_id .. data_files: as in a data card.
    checkout: globs of the files in a checkout of AgentBench. how: where the user gets a file that the Hub has not.
    """

    examples: int
    texts: list
    joint: str = "\n"
    hub_id: str | None = None
    former_hub_ids: list | None = None
    revision: str | None = None
    files: dict | None = None
    data_files: dict | None = None
    licence: str | None = None
    checkout: list | None = None
    how: str | None = None


@dataclass
class Against:
    """examples: of all words, in order. sources: for each word what its examples were read from (`Check.identity`).
    missing: {name: why} for what `all` could not read.
    """

    examples: list[Example] = field(default_factory=list)
    sources: list[dict] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def benchmarks(folder: Path = FOLDER) -> dict[str, Benchmark]:
    """Every file of evaluation/contamination/, by name. Raises UserError for an unknown key or a wrong value."""
    return {path.stem: build(Benchmark, read_mapping(path), str(path)) for path in sorted(folder.glob("*.yaml"))}


def read_against(words: Sequence[str], fields: Sequence[str] = (), folder: Path = FOLDER) -> Against:
    """The examples that `words` name. `fields` names the text fields of NAME=PATH in place of the known ones (for an
    unknown name every string of a row is text).

    Raises UserError for an unknown name, a file or Hub that cannot be read, a row without the fields, no text at all.
    """
    known, found = benchmarks(folder), Against()
    if fields and not any("=" in word for word in words):
        raise UserError("--fields names fields of NAME=FILE, and there is none; it would do nothing; leave it out")
    for word in words:
        name, equals, path = word.partition("=")
        before = len(found.examples)
        if name == "all":
            _all(known, Path(path) if equals else None, fields, folder, found)
        elif equals:
            _add(found, name, _files(name, Path(path), known.get(name)), known.get(name), fields)
        elif name in known:
            _hub(found, name, known[name], folder)
        else:
            _own(found, name, known)
        if len(found.examples) == before:
            raise UserError(
                f"{word} holds no text; nothing would be compared with it and all would look clean; check it"
            )
    return found


def _all(known: dict[str, Benchmark], path: Path | None, fields: Sequence[str], folder: Path, found: Against) -> None:
    for name, benchmark in known.items():
        files = _files_below(path, name, benchmark) if path is not None else {}
        if files:
            _add(found, name, files, benchmark, fields)
        elif benchmark.hub_id:
            _hub(found, name, benchmark, folder)
        else:
            found.missing[name] = f"{benchmark.how}, with --against {name}=PATH"
            print(f"{name} is NOT compared: {found.missing[name]}", file=sys.stderr)


def _files_below(path: Path, name: str, benchmark: Benchmark) -> dict[str, Path]:
    """{its name below `path`: file} of a checkout of AgentBench, or of a folder that has files by our names."""
    globs = [*(benchmark.checkout or ()), *(f"{name}{suffix}" for suffix in SUFFIXES)]
    return {str(file.relative_to(path)): file for glob in globs for file in sorted(path.glob(glob))}


def _files(name: str, path: Path, benchmark: Benchmark | None) -> dict[str, Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist; {name} would not be compared; check the path")
    below = _files_below(path, name, benchmark) if benchmark and path.is_dir() else {}
    return below or {file.name: file for file in local_files(path)}


def _add(found: Against, name: str, files: dict[str, Path], benchmark: Benchmark | None, fields: Sequence[str]) -> None:
    rows = ((f"{Path(label).stem}_{number}", file, row) for label, file in files.items() for number, row in _rows(file))
    texts = list(fields) or (benchmark.texts if benchmark else None)
    source = {"name": name, "files": {label: file_digest(file) for label, file in files.items()}}
    _take(found, source, rows, texts, benchmark)


def _rows(file: Path) -> Iterator[tuple[int, object]]:
    if file.suffix == ".json" and file.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        try:
            yield 0, json.loads(file.read_text(encoding="utf-8-sig"))  # AgentBench has files of one row, not in a list
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is not JSON: {error}; its row would not be compared; repair the file") from error
    else:
        yield from enumerate(row for _, row in read(SourceCard("", "messages", path=str(file)), file))


def _hub(found: Against, name: str, benchmark: Benchmark, folder: Path) -> None:
    if not benchmark.hub_id:
        raise UserError(f"{name} is not on the Hub; it would not be compared; {benchmark.how}: --against {name}=PATH")
    split = next(iter(benchmark.files or benchmark.data_files or {}))
    card = SourceCard(
        name, "messages", hub_id=benchmark.hub_id, former_hub_ids=benchmark.former_hub_ids,
        revision=benchmark.revision, splits={split: benchmark.examples}, files=benchmark.files,
        data_files=benchmark.data_files,
    )  # fmt: skip
    try:
        card = pin(card, lock=folder / LOCK)
        rows = [(f"{split}_{number}", name, row) for number, (_, row) in enumerate(read(card))]
    except UserError as error:
        why = str(error).partition("; the source")[0]
        raise UserError(f"{why}; {name} would not be compared; give your copy: --against {name}=FILE") from error
    source = {"name": name, "hub_id": card.hub_id, "commit": card.revision}
    _take(found, source | {"hub_files": card.files or card.data_files}, rows, benchmark.texts, benchmark)


def _own(found: Against, name: str, known: dict[str, Benchmark]) -> None:
    from agenttuning import suites

    path = suites.FOLDER / f"{name}.yaml"
    if not path.is_file():
        names = [*known, "all", *(file.stem for file in suites.FOLDER.glob("*.yaml"))]
        raise UserError(
            f"there is no suite {name!r}; nothing would be compared; {nearest(name, names)} Names: "
            f"{', '.join(sorted(names))}; rows of your own: --against {name}=FILE"
        )
    suite = suites.load(path)
    examples = [Example(*item) for item in suites.test_items(suite)]
    found.examples += examples
    found.sources.append({"name": suite.label, "rows": len(examples), "without_text": 0})


def _take(found: Against, source: dict, rows, texts: list | None, benchmark: Benchmark | None) -> None:
    """Add the examples of `rows`, (id, where, row) each, and what they were read from."""
    name, count, empty = source["name"], 0, 0
    if any(other["name"] == name for other in found.sources):
        raise UserError(f"{name} is named twice; its examples would count double; name it once (a folder holds files)")
    for row_id, where, row in rows:
        count += 1
        if isinstance(row, Unreadable):
            raise UserError(f"{where}: {row.reason}; an example would be left out of the check; repair the file")
        kept = tuple(text for text in _texts(row, texts, benchmark, f"{where}: row {row_id}") if text.strip())
        if kept:
            found.examples.append(Example(name, row_id, kept))
        empty += not kept
    counts = {"rows": count, "without_text": empty, "texts": texts, "joint": benchmark.joint if benchmark else None}
    found.sources.append(source | counts | {"expected": benchmark.examples if benchmark else None})
    if benchmark and count != benchmark.examples:
        print(f"{name}: {count:,} rows were read, its test set has {benchmark.examples:,}", file=sys.stderr)


def _texts(row: object, texts: list | None, benchmark: Benchmark | None, where: str) -> Iterator[str]:
    if texts is None:
        yield from _strings(row)
        return
    for entry in texts:
        names = entry if isinstance(entry, list) else [entry]
        missing = [name for name in names if not isinstance(row, dict) or name not in row]
        if missing:
            raise UserError(f"{where} has no field {missing[0]!r}; its text would be left out; see --fields")
        strings = [text for name in names for text in _strings(row[name])]
        yield from [benchmark.joint.join(strings)] if isinstance(entry, list) and benchmark else strings


def _strings(value: object, depth: int = 20) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()  # a lone surrogate has no tokens
    elif isinstance(value, dict | list | tuple) and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, depth - 1)
