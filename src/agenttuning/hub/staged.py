"""A folder that is ready to be sent, and what is said of it before: every file, its size, the card's header."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agenttuning.chat.show import escape
from agenttuning.errors import UserError

CARD = "README.md"
# Files that the Hub keeps outside git: those of the default .gitattributes that we send, and all that are larger
# (huggingface.co/docs/hub/repositories-getting-started: git itself takes files below 10 MB).
LARGE_SUFFIXES, LARGE = (".safetensors", ".parquet"), 10 * 10**6
FRONT = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Staged:
    """what: model, data or traces. folder: what goes to `repository` (repo_type model or dataset) under `message`.

    owned(name): whether a file that is there and no longer here is one of an earlier push; `owns` says it in words.
    tag: the name of this state, or None.
    """

    what: str
    folder: Path
    repository: str
    repo_type: str
    message: str
    owned: Callable[[str], bool]
    owns: str
    tag: str | None = None

    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) of all files, in the order of their names."""
        return [(name, path.stat().st_size) for name, path in walk(self.folder)]


def walk(folder: Path) -> list[tuple[str, Path]]:
    """(name in the repository, path) of the files of a folder, in the order of their names."""
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    return sorted(found)


@contextmanager
def new(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place when all went well. Raises UserError in place of an OSError."""
    partial = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or type(error).__name__}; nothing was sent to the Hub; "
            "make room and run it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_ids(ids: Iterable[tuple[str, str | None]]) -> list[str]:
    """What is wrong with (key of the recipe, repository) pairs."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = []
    for key, repository in ids:
        try:
            validate_repo_id(repository or "")
            valid = (repository or "").count("/") == 1
        except HFValidationError:
            valid = False
        if not valid:
            found.append(f"{key} is {repository!r}; it must name a repository: owner/name")
    return found


def report(staged: Staged, private: bool, every: bool) -> str:
    """What would be sent, as text for the screen; `every` names each file and shows the card's header."""
    files = staged.files()
    head = (
        f"{staged.what}: {len(files)} files, {size(sum(bytes_ for _, bytes_ in files))}, to the "
        f"{'private' if private else 'public'} {staged.repository} ({staged.repo_type})"
    )
    lines = [head, f"  from {staged.folder}"]
    if every:
        width = max(len(escape(name)) for name, _ in files)
        lines += [f"  {escape(name):<{width}}  {size(bytes_):>9}  {_mode(name, bytes_)}" for name, bytes_ in files]
        lines.append(f"  deleted there if it is not among these: {staged.owns}; nothing else")
        lines.append(f"  tag: {staged.tag or 'none'}")
        if front := FRONT.match((staged.folder / CARD).read_text(encoding="utf-8")):
            lines += ["  header of the card:", *(f"    {escape(line)}" for line in front[1].split("\n"))]
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for a reader."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} B"


def _mode(name: str, count: int) -> str:
    return "as a large file" if name.endswith(LARGE_SUFFIXES) or count >= LARGE else "in the commit"
