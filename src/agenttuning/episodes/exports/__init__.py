"""Episodes in other people's formats, each in a folder of its own that is written whole or not at all.

    inspect        a log of inspect-ai (`inspect view`) for each task and model
    traces         the Hub's session traces: one JSONL file an episode, rendered by the trace viewer of a data set
    agentinstruct  AgentInstruct's rows, <task>.jsonl

What an export leaves out is counted by reason in `Written.left_out`, printed, and stands in the folder's README.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from agenttuning.data.folders import new_folder
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.view import one_line
from agenttuning.errors import UserError

FORMATS = {"inspect": "inspect_log", "traces": "traces", "agentinstruct": "agentinstruct"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 80  # characters of a name, of the 255 bytes that file systems take


@dataclass
class Written:
    """What an export wrote: `counts` of what by name (samples, sessions, rows of a task) and `left_out` by reason."""

    folder: Path
    counts: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)

    def text(self) -> str:
        """The counts as lines; names from the file are escaped."""
        return "\n".join(
            [f"{one_line(name, 120)}: {number:,}" for name, number in self.counts.items()] + self.reasons()
        )

    def reasons(self) -> list[str]:
        """What was left out, a line for each reason."""
        return [f"left out, {one_line(name, 120)}: {number:,}" for name, number in sorted((+self.left_out).items())]


def export(index: Index, chosen: list[Entry], form: str, out: str | Path) -> Written:
    """Write the chosen episodes as `form` of FORMATS into the new folder `out`.

    Raises UserError for an unknown form, for an `out` that holds something or cannot be written, when nothing can be
    exported, and for inspect where inspect-ai is not installed.
    """
    if form not in FORMATS:
        raise UserError(f"there is no export {form!r}; nothing was written; choose from {', '.join(FORMATS)}")
    write: Callable[[Path, Index, list[Entry], Written], None] = import_module(f"{__name__}.{FORMATS[form]}").write
    out = Path(out)
    done = Written(out)
    done.left_out["earlier records of the same episodes"] += index.superseded
    done.left_out["not chosen by the filters"] += len(index.entries) - len(chosen)
    with new_folder(out) as partial:
        write(partial, index, chosen, done)
        done.left_out = +done.left_out  # without the zeros
        if not done.counts:
            why = "; ".join(done.reasons()) or "there are none"
            raise UserError(f"no episode can be exported ({why}); the folder would be empty; choose others")
    return done


def file_name(*parts: str) -> str:
    """A file's name from text of a record; it cannot leave its folder: letters, digits, `._-`, no leading dot."""
    name = "-".join(_UNSAFE.sub("-", part).strip("-.") or "x" for part in parts)
    return name[:_LONGEST]


def unique(name: str, taken: set[str]) -> str:
    """`name`, or with a number behind it when it is taken (also where case does not count); takes it."""
    found, number = name, 1
    while found.lower() in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found.lower())
    return found


def clean(value: Any) -> Any:
    """A JSON value whose texts are text: lone surrogates, which no UTF-8 holds, become question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {clean(key): clean(one) for key, one in value.items()}
    return [clean(one) for one in value] if isinstance(value, list) else value


def played(index: Index, chosen: Iterable[Entry], done: Written) -> Iterator[tuple[Entry, dict]]:
    """The records of results of the model; what the infrastructure ended is counted and left out."""
    results = []
    for entry in chosen:
        if entry.lost:
            done.left_out[f"lost to infrastructure ({entry.status})"] += 1
        else:
            results.append(entry)
    return index.records(results)
