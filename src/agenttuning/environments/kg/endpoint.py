"""A SPARQL endpoint over HTTP: Virtuoso with Freebase, as the benchmark was made for.

A server that is down, hangs, or answers with something else than a whole result raises `Down`, after retries: it is
never an empty answer. `Refused` is a verdict on the query, which a model brings about by what it asks for: the server
calls it malformed (400), gives up on it for its cost, or has more rows than anybody would read. The original tells the
model "cannot be executed" there too (SPARQLWrapper raises QueryBadFormed or EndPointInternalError).
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from urllib.parse import urlsplit

import httpx

from agenttuning.environments import Backend, Missing
from agenttuning.environments.kg.graphs import MAX_ROWS, Refused, plain
from agenttuning.environments.kg.sparql import NAMESPACE, VIRTUOSO
from agenttuning.errors import UserError

TIMEOUT_S = 60.0  # of one query, whole; not stated; we chose: the original waits for ever
MAX_BYTES = 64 * 1024 * 1024
RETRIES = 3
WAIT_S = 0.5
START = "start Virtuoso with Freebase (github.com/dki-lab/Freebase-Setup), and --env kg.url=http://HOST:PORT/sparql"

# Freebase has about three million people; a part of it, such as subset.py saves, has far fewer. We chose the bound.
PEOPLE = 1_000_000

_COSTLY = ("S1T00", "exceeds the limit", "S1TAT")  # Virtuoso: timed out, the estimate is too high, given up midway
_RESULT = "application/sparql-results+json"


class Down(Exception):
    """The endpoint did not answer a query."""


class Endpoint:
    """A client that threads may share. `close` it in the end."""

    dialect = VIRTUOSO

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, retries: int = RETRIES, wait_s: float = WAIT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{url!r} is no address of a SPARQL endpoint; nothing could be asked; give http://HOST/sparql"
            )
        self.url, self.timeout_s, self.retries, self.wait_s = url, timeout_s, retries, wait_s
        # trust_env: a proxy of the shell's would carry the queries of a local server away.
        self.client = httpx.Client(timeout=timeout_s, trust_env=False, headers={"Accept": _RESULT})

    def close(self) -> None:
        """Give back the connections."""
        self.client.close()

    def values(self, query: str) -> list[str]:
        """The column of a SELECT, with Freebase's prefix taken off. Raises Refused or Down."""
        values = []
        for row in self.rows(query)[0]:
            if len(row) != 1:
                raise Down(f"a row of the answer has {len(row)} values, not one")
            values += [plain(term["value"]) for term in row.values()]
        return values

    def rows(self, query: str) -> tuple[list[dict[str, dict]], bool]:
        """The rows of a SELECT, variable -> {type, value, datatype or xml:lang}, and whether the server kept some back.

        Raises Refused or Down. Virtuoso shows at most its ResultSetMaxRows, 10,000 as installed, also to the original.
        """
        failure = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait_s * 2 ** (attempt - 1))
            try:
                body, cut = self._ask(query)
                return _rows(body), cut
            except (httpx.HTTPError, Down) as error:
                failure = f"{type(error).__name__}: {error}"[:300]
                if isinstance(error, httpx.TimeoutException) and attempt:
                    break  # a server that hangs holds up all the others: asked once more, not for minutes
        raise Down(f"{self.url} did not answer in {attempt + 1} attempts; the last: {failure}")

    def _ask(self, query: str) -> tuple[bytes, bool]:
        ends = time.monotonic() + self.timeout_s
        body = bytearray()
        with self.client.stream("POST", self.url, data={"query": query}) as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_BYTES:
                    raise Refused(f"more than {MAX_BYTES} bytes")
                if time.monotonic() > ends:
                    raise Down(f"no whole answer in {self.timeout_s:.0f} s")
            said = bytes(body[:2000]).decode("utf-8", "replace")
            given_up = any(sign in response.headers.get("X-SQL-State", "") for sign in _COSTLY)
            # Virtuoso says with 500 that a query costs too much; a 500 without these words is a fault of the server.
            costly = response.status_code == 500 and any(sign in said for sign in _COSTLY)
            if response.status_code == 400 or given_up or costly:
                raise Refused(f"status {response.status_code}: {said[:300]}")
            if response.status_code != 200:
                raise Down(f"status {response.status_code}: {said[:200]}")
            cut = "X-SPARQL-MaxRows" in response.headers
        return bytes(body), cut


def _rows(body: bytes) -> list[dict[str, dict]]:
    try:
        rows = json.loads(body)["results"]["bindings"]
        whole = isinstance(rows, list) and all(
            isinstance(row, dict) and all(isinstance(term["value"], str) for term in row.values()) for row in rows
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Down(f"not a result in JSON: {body[:100]!r}") from error
    if not whole:
        raise Down(f"not a result in JSON: {body[:100]!r}")
    if len(rows) > MAX_ROWS:
        raise Refused(f"more than {MAX_ROWS} rows")
    return rows


def judged(endpoint: Endpoint, backend: Backend) -> Backend:
    """The backend as this server deserves it: comparable only where it holds people as Freebase does; asked once."""
    of_type = f"?x <{NAMESPACE}type.object.type> <{NAMESPACE}people.person>"
    try:
        found = int(endpoint.values(f"SELECT (COUNT(?x) AS ?n) WHERE {{ {of_type} }}")[0])
    except (Down, Refused, ValueError, IndexError):
        return replace(backend, label=f"{backend.label}; how much of it could not be counted", comparable=False)
    label = f"{backend.label}; {found:,} people in it"
    return replace(backend, label=label, comparable=backend.comparable and found >= PEOPLE)


def missing(url: str | None, timeout_s: float = 10.0) -> list[Missing]:
    """What an endpoint needs and this machine lacks: an address, a server that answers, Freebase in it."""
    if url is None:
        return [Missing("the address of a SPARQL endpoint with Freebase", START)]
    endpoint = Endpoint(url, timeout_s, retries=0)
    try:
        found = endpoint.values(f"SELECT ?type WHERE {{ ?x <{NAMESPACE}type.object.type> ?type }} LIMIT 1")
    except (Down, Refused) as error:
        return [Missing(f"a SPARQL endpoint at {url} ({error})", START)]
    finally:
        endpoint.close()
    return [] if found else [Missing(f"Freebase in the endpoint {url}, which holds no type of it", START)]
