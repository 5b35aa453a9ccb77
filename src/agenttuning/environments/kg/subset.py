"""Saves the part of Freebase around a benchmark's items, so that it can be played on without a server.

    python -m agenttuning.environments.kg.subset --items AgentBench/data/knowledgegraph/std.json \\
        --url http://localhost:3001/sparql --checkout AgentBench --out kg-std.nt.gz

From the items' entities the edges that the tools can show are followed `hops` times, the types with them. What is left
out by a limit is counted and said: a subset gives other answers than the whole, and its scores stand beside nothing.
An export that was interrupted goes on where it was: OUT.part holds whole entities, each closed by a comment.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments.kg import load, ontology, programs
from agenttuning.environments.kg.endpoint import Endpoint
from agenttuning.environments.kg.sparql import NAMESPACE, iri
from agenttuning.errors import UserError

HOPS = 3  # of the dev split's gold calls, none walks further
MAX_TRIPLES = 5_000_000
PER_ENTITY = 2_000
ASKED = 50_000  # edges of an entity that the server is asked for
TYPE = "type.object.type"

_DONE = re.compile(r"# done (\S+)( cut)?\n")
_SPECIAL = re.compile(r'[\\"\n\r\t]')
_NO_IRI = re.compile(r'[\x00-\x20<>"{}|^`\\]')
_LANGUAGE = re.compile(r"[A-Za-z]+(-[A-Za-z0-9]+)*")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Export:
    """What was saved: triples, entities followed, how many of them had more edges than were kept, and whether the limit
    on triples ended it before the last hop was done.
    """

    triples: int
    entities: int
    cut: int
    full: bool


def export(
    items: list[dict],
    endpoint: Endpoint,
    known: ontology.Ontology,
    out: str | Path,
    hops: int = HOPS,
    max_triples: int = MAX_TRIPLES,
    per_entity: int = PER_ENTITY,
) -> Export:
    """Write the triples within `hops` of the items' entities to `out`, a .nt.gz.

    The same server gives the same bytes, unless it keeps back some edges of an entity.
    Raises UserError for another name of `out`, and what the endpoint raises; a second call then goes on.
    """
    out = Path(out)
    if not out.name.endswith(".nt.gz"):
        raise UserError(f"{out}: the export is gzipped N-Triples, and would be taken for something else; end in .nt.gz")
    part = out.with_name(f"{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    wanted = (known.relations or frozenset()) | (known.attributes or frozenset()) | {TYPE}
    ends, triples, cut = _resume(part, f"# at most {per_entity} edges of an entity\n")
    frontier = sorted({id_ for item in items for id_ in item["entities"].values() if programs.is_entity(id_)})
    seen: set[str] = set()
    full = False
    with part.open("a", encoding="utf-8", newline="\n") as file:
        for _hop in range(hops):
            for entity in frontier:
                if entity in ends:
                    continue
                if triples >= max_triples:
                    break
                lines, over = _edges(endpoint, entity, wanted, per_entity)
                file.write("".join(lines) + f"# done {entity}{' cut' if over else ''}\n")
                file.flush()
                ends[entity], triples, cut = _entities(lines), triples + len(lines), cut + over
            seen |= set(frontier)
            full = not ends.keys() >= set(frontier)
            if full:
                break
            frontier = sorted({end for entity in frontier for end in ends[entity]} - seen)
    _close(part, out)
    return Export(triples, len(ends), cut, full)


def _edges(endpoint: Endpoint, entity: str, wanted: frozenset[str], limit: int) -> tuple[list[str], bool]:
    rows, cut = endpoint.rows(f"SELECT ?r ?o WHERE {{ {iri(entity)} ?r ?o . }} LIMIT {ASKED}")
    lines = {
        f"<{NAMESPACE}{entity}> <{row['r']['value']}> {term} .\n"
        for row in rows
        if row["r"]["value"].removeprefix(NAMESPACE) in wanted and (term := _term(row["o"])) is not None
    }
    return sorted(lines)[:limit], cut or len(rows) == ASKED or len(lines) > limit


def _term(term: dict) -> str | None:
    """A value of a result in N-Triples; None for what has no place in it, such as a blank node."""
    value = term["value"]
    if term["type"] == "uri":
        return None if _NO_IRI.search(value) else f"<{value}>"
    if term["type"] not in ("literal", "typed-literal"):
        return None
    quoted = f'"{_SPECIAL.sub(lambda found: _ESCAPES[found[0]], value)}"'
    language, datatype = term.get("xml:lang"), term.get("datatype")
    if language:
        return f"{quoted}@{language}" if _LANGUAGE.fullmatch(language) else None
    if datatype:
        return None if _NO_IRI.search(datatype) else f"{quoted}^^<{datatype}>"
    return quoted


def _entities(lines: list[str]) -> set[str]:
    ends = (line.split(" ", 2)[2].removeprefix(f"<{NAMESPACE}").removesuffix("> .\n") for line in lines)
    return {end for end in ends if programs.is_entity(end)}


def _resume(part: Path, head: str) -> tuple[dict[str, set[str]], int, int]:
    """What an earlier export left, once the entity that it did not close is cut off: entity -> where its edges lead,
    the number of triples, that of entities with more edges than were kept. Begins the file with `head` when missing.
    """
    if not part.is_file() or not part.stat().st_size:
        part.write_text(head, encoding="utf-8", newline="\n")
    ends: dict[str, set[str]] = {}
    lines: list[str] = []
    triples = cut = whole = place = 0
    with part.open("rb") as file:
        for number, raw in enumerate(file):
            place += len(raw)
            line = raw.decode("utf-8", "replace")
            if number == 0:
                if line != head:
                    raise UserError(
                        f"{part}: an export with other settings ({line.strip()}); two halves would not fit; remove it"
                    )
                whole = place
            elif (closing := _DONE.fullmatch(line)) is not None:
                ends[closing[1]], cut, whole = _entities(lines), cut + bool(closing[2]), place
                triples, lines = triples + len(lines), []
            else:
                lines.append(line)
    os.truncate(part, whole)
    return ends, triples, cut


def _close(part: Path, out: Path) -> None:
    """Turn the part into the export, whole or not at all. The time in gzip's header is 0, so that bytes repeat."""
    fresh = out.with_name(f"{out.name}.new")
    with part.open("rb") as lines, fresh.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as packed:
        for line in lines:
            if not line.startswith(b"#"):
                packed.write(line)
    fresh.replace(out)
    part.unlink()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exits 2 with a message for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m agenttuning.environments.kg.subset", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--items", required=True, help="AgentBench's data/knowledgegraph/std.json or dev.json")
    parser.add_argument("--url", required=True, help="SPARQL endpoint with Freebase")
    parser.add_argument("--checkout", required=True, help="AgentBench checkout, for its ontology")
    parser.add_argument("--out", required=True, help="file to write, .nt.gz")
    parser.add_argument("--hops", type=int, default=HOPS, help="edges from the items' entities (default %(default)s)")
    parser.add_argument("--max-triples", type=int, default=MAX_TRIPLES, help="stop there (default %(default)s)")
    parser.add_argument(
        "--per-entity", type=int, default=PER_ENTITY, help="edges kept of one entity (default %(default)s)"
    )
    told = parser.parse_args(arguments)
    try:
        items, known, endpoint = load(told.items), ontology.read(told.checkout), Endpoint(told.url)
        try:
            made = export(items, endpoint, known, told.out, told.hops, told.max_triples, told.per_entity)
        finally:
            endpoint.close()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{told.out}: {made.triples} triples of {made.entities} entities; {made.cut} had more edges than were kept")
    if made.full:
        print(f"stopped at {told.max_triples} triples: entities further away are without edges")
    return 0


if __name__ == "__main__":
    sys.exit(main())
