"""Knowledge graph (AgentBench's knowledgegraph; AgentInstruct's kg): questions over Freebase, answered with tools.

Backends, the real thing first:

    endpoint   a SPARQL server with Freebase; where = url, checkout, timeout_s; its scores may stand beside the paper's
    subset     the user's own part of Freebase as .nt(.gz) or .ttl(.gz), see subset.py; where = graph, checkout
    embedded   practice worlds (world.py), and for the benchmark's items a small graph made for each (witness.py);
               where = checkout, optional

`checkout` is the user's AgentBench: what the tools may list is in its ontology files. An action is a call or
`Final Answer: #k`, see play.py. The reward is F1 over the sets of answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttuning.environments import Backend, Missing, Room, backend_of
from agenttuning.environments.kg import graphs, ontology, witness, world
from agenttuning.environments.kg.play import Environment
from agenttuning.errors import UserError

NAME = "kg"
BENCHMARK = "AgentBench knowledgegraph"
ENDPOINT = Backend("endpoint", "Freebase behind a SPARQL endpoint", comparable=True)
SUBSET = Backend("subset", "a part of Freebase in this process, other answers than the whole", comparable=False)
EMBEDDED = Backend("embedded", "small graphs made for the items in this process, not Freebase", comparable=False)
BACKENDS = (ENDPOINT, SUBSET, EMBEDDED)
SLOTS = 16  # queries that a Virtuoso of one machine answers side by side; not stated; we chose

_FIELDS = {"question": str, "entities": dict, "s_expression": str, "actions": list, "answer": list}

items = world.items


def load(path: str | Path) -> list[dict]:
    """The items of an AgentBench file (data/knowledgegraph/dev.json, std.json), with ids kg-dev_0, kg-dev_1, ...

    Raises UserError for a file that is missing or has an item without a field that is needed.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); there would be nothing to play; give data/knowledgegraph/std.json or "
            "dev.json of an AgentBench checkout"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: holds no list of items; there would be nothing to play; give AgentBench's std.json")
    return [_item(row, f"kg-{path.stem}_{number}", path) for number, row in enumerate(rows)]


def _item(row: object, id_: str, path: Path) -> dict:
    bad = [name for name, kind in _FIELDS.items() if not isinstance(row, dict) or not isinstance(row.get(name), kind)]
    if not bad and not all(isinstance(answer, dict) and "answer_argument" in answer for answer in row["answer"]):
        bad = ["answer"]
    if bad:
        raise UserError(
            f"{path}: item {id_} has no proper {', '.join(bad)}; it could not be judged; give AgentBench's own file"
        )
    return {**row, "id": id_}


@contextmanager
def serve(name: str = EMBEDDED.name, **where: object) -> Iterator[Room]:
    """The room of a backend, for the duration of the context.

    Raises UserError for an unknown backend, and for an option that the backend has not, or lacks.
    """
    backend = backend_of(NAME, BACKENDS, name)
    unknown = sorted(where.keys() - set(OPTIONS[backend.name]))
    if unknown:
        raise UserError(
            f"backend {backend.name} of kg has no option {unknown[0]!r}, it would do nothing; "
            f"it has {', '.join(OPTIONS[backend.name])}"
        )
    lacking = [name for name in _NEEDED[backend.name] if where.get(name) is None]
    if lacking:
        raise UserError(
            f"backend {backend.name} of kg was given no {lacking[0]!r}; the tools could not answer; "
            f"give {', '.join(_NEEDED[backend.name])}"
        )
    known = ontology.read(where["checkout"]) if where.get("checkout") else None
    if backend.name == "endpoint":
        from agenttuning.environments.kg.endpoint import TIMEOUT_S, Endpoint, judged

        endpoint = Endpoint(str(where["url"]), float(where.get("timeout_s") or TIMEOUT_S))
        try:
            backend = judged(endpoint, backend)
            yield Room(NAME, backend, _real(backend, endpoint, known), "thread", SLOTS)
        finally:
            endpoint.close()
    elif backend.name == "subset":
        graph = graphs.read(str(where["graph"]))
        yield Room(NAME, backend, _real(backend, graph, known))
    else:
        yield Room(NAME, backend, _embedded(known))


def _real(backend: Backend, graph, known: ontology.Ontology) -> Callable[[dict], Environment]:
    def make(item: dict) -> Environment:
        if "world" in item:
            raise UserError(
                f"item {item['id']} is about an invented world, of which the {backend.name} knows nothing; it could "
                "not be won; give AgentBench's items, or take the embedded backend"
            )
        return Environment(item, graph, known)

    return make


def _embedded(known: ontology.Ontology | None) -> Callable[[dict], Environment]:
    worlds: dict[str, tuple] = {}  # shared by their items, and only read

    def make(item: dict) -> Environment:
        if "world" not in item:
            graph, own = witness.build(item)
            return Environment(item, graph, known or own)
        if item["world"] not in worlds:
            worlds[item["world"]] = world.build(item["world"]).graph()
        return Environment(item, *worlds[item["world"]])

    return make


def missing(name: str = EMBEDDED.name, **where: object) -> list[Missing]:
    """What this machine lacks for a backend. The endpoint is asked one cheap query, for at most ten seconds."""
    backend = backend_of(NAME, BACKENDS, name)
    if backend.name == "endpoint":
        from agenttuning.environments.kg import endpoint

        url = where.get("url")
        return [*endpoint.missing(None if url is None else str(url)), *ontology.missing(where.get("checkout"))]
    lacking = graphs.missing()
    if backend.name == "subset":
        path = where.get("graph")
        if path is None or not Path(str(path)).is_file():
            what = "a part of Freebase in a file (--env kg.graph=FILE)" if path is None else f"the file {path}"
            lacking.append(Missing(what, "python -m agenttuning.environments.kg.subset --help"))
        lacking += ontology.missing(where.get("checkout"))
    elif where.get("checkout") is not None:
        lacking += ontology.missing(where["checkout"])
    return lacking


OPTIONS = {"endpoint": ("url", "checkout", "timeout_s"), "subset": ("graph", "checkout"), "embedded": ("checkout",)}
_NEEDED = {"endpoint": ("url", "checkout"), "subset": ("graph", "checkout"), "embedded": ()}
