"""What the tools may list: AgentBench's ontology files, of the user's checkout, or a small graph's own schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments import Missing
from agenttuning.errors import UserError

FOLDERS = (  # of AgentBench v0.2, of AgentBench before it, of AgentTuning
    "src/server/tasks/knowledgegraph/ontology",
    "src/tasks/knowledgegraph/ontology",
    "AgentBench.old/src/tasks/knowledgegraph/ontology",
)
FILES = ("vocab.json", "fb_roles")
CLONE = "git clone https://github.com/THUDM/AgentBench, and --env kg.checkout=FOLDER"


@dataclass(frozen=True)
class Ontology:
    """`relations` and `attributes` that are listed (None: all), `ranges`: relation -> type of what it leads to."""

    relations: frozenset[str] | None
    attributes: frozenset[str] | None
    ranges: dict[str, str]


def folder(checkout: str | Path) -> Path | None:
    """The folder of the ontology files in a checkout, or the checkout itself when they lie in it; None: not there."""
    candidates = (Path(checkout) / part for part in (*FOLDERS, "."))
    return next((path for path in candidates if all((path / name).is_file() for name in FILES)), None)


def missing(checkout: str | Path | None) -> list[Missing]:
    """What a real graph needs of the ontology and this machine lacks."""
    if checkout is not None and folder(checkout) is not None:
        return []
    return [Missing(f"the ontology of AgentBench ({' and '.join(FILES)})", CLONE)]


def read(checkout: str | Path) -> Ontology:
    """The ontology of a checkout. Raises UserError when it is not there or not what AgentBench ships."""
    where = folder(checkout)
    if where is None:
        raise UserError(
            f"{checkout}: no {' and '.join(FILES)} of AgentBench's knowledge graph; the tools would list other "
            f"relations than in the benchmark; {CLONE}"
        )
    try:
        vocabulary = json.loads((where / "vocab.json").read_text(encoding="utf-8"))
        relations, attributes = frozenset(vocabulary["relations"]), frozenset(vocabulary["attributes"])
        rows = [line.split() for line in (where / "fb_roles").read_text(encoding="utf-8").splitlines() if line.strip()]
        ranges = {relation: range_ for _domain, relation, range_ in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not AgentBench's ontology ({error}); nothing can be listed; {CLONE}") from error
    return Ontology(relations, attributes, ranges)
