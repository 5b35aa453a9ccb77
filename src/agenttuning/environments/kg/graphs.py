"""Graphs in this process, on pyoxigraph: made by a generator, or read from the user's own part of Freebase.

A graph is anything with `dialect` and `values(query) -> list[str]`, the one column of a SELECT with Freebase's prefix
taken off; it raises Refused for a query which it will not run, and another exception when it is out of order.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from agenttuning.environments import Missing
from agenttuning.environments.kg.sparql import NAMESPACE, STANDARD, typed
from agenttuning.errors import UserError

MAX_ROWS = 100_000  # not stated; we chose. No gold answer of the dev split has more than 6 members
SUFFIXES = (".nt", ".nt.gz", ".ttl", ".ttl.gz")
INSTALL = 'pip install -e ".[eval]"'


class Refused(ValueError):
    """A query that the graph does not run: not its language, or more rows than anybody would read."""


def plain(value: str) -> str:
    """A value as the tools and the answers have it (sparql_executer.py, execute_query)."""
    return value.replace(NAMESPACE, "").replace("-08:00", "")


class Graph:
    """A pyoxigraph store behind the face of a graph. Read only once made, so that threads may share it."""

    dialect = STANDARD

    def __init__(self, store) -> None:
        self.store = store

    def values(self, query: str) -> list[str]:
        """The column of a SELECT."""
        try:
            found = self.store.query(query)
        except SyntaxError as error:
            raise Refused(str(error)) from error
        values = []
        for row in found:
            if len(values) == MAX_ROWS:
                raise Refused(f"more than {MAX_ROWS} rows")
            if row[0] is not None:
                values.append(plain(row[0].value))
        return values


def build(triples: Iterable[tuple[str, str, str]]) -> Graph:
    """The graph of (entity, relation, end) by their names in Freebase; an end may be a literal, `value^^type`, or a
    plain text with a quotation mark before it, `"text`.
    """
    import pyoxigraph as ox

    def end(text: str):
        if text.startswith('"'):
            return ox.Literal(text[1:])
        literal = typed(text) if "^^" in text else None
        if literal is not None:
            return ox.Literal(literal[0], datatype=ox.NamedNode(literal[1]))
        return ox.NamedNode(NAMESPACE + text)

    store = ox.Store()
    store.extend(
        ox.Quad(ox.NamedNode(NAMESPACE + start), ox.NamedNode(NAMESPACE + relation), end(to))
        for start, relation, to in triples
    )
    return Graph(store)


def missing() -> list[Missing]:
    """What an embedded graph needs and this machine lacks."""
    from importlib.util import find_spec

    return [] if find_spec("pyoxigraph") else [Missing("the Python package pyoxigraph", INSTALL)]


def read(path: str | Path) -> Graph:
    """The graph of a file, .nt or .ttl, plain or .gz. Raises UserError when it is missing, damaged or empty."""
    import pyoxigraph as ox

    path = Path(path)
    if not path.name.endswith(SUFFIXES) or not path.is_file():
        raise UserError(
            f"{path}: not a graph; there would be nothing to ask; give a file that ends with {', '.join(SUFFIXES)}"
        )
    turtle = path.name.removesuffix(".gz").endswith(".ttl")
    store = ox.Store()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            store.bulk_load(file, format=ox.RdfFormat.TURTLE if turtle else ox.RdfFormat.N_TRIPLES)
    except (SyntaxError, OSError, EOFError) as error:
        raise UserError(
            f"{path}: cannot be read to its end ({error}); a part of the graph would be missing; write it again"
        ) from error
    if not len(store):
        raise UserError(f"{path}: holds no triple; every answer would be empty; write it again")
    return Graph(store)
