"""A SPARQL endpoint on the loopback, over a pyoxigraph store, that speaks Virtuoso's dialect and fails when told to."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pyoxigraph as ox


class FakeEndpoint:
    """`faults` are taken one a query, in order; their names are below."""

    def __init__(self, store: ox.Store, url: str) -> None:
        self.store, self.url = store, url
        self.faults: deque[str] = deque()
        self.queries: list[str] = []
        self.hang_s = 0.0


def _handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        wbufsize = 1 << 16  # head and body in one packet: the second would wait for the first to be acknowledged

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            query = parse_qs(body)["query"][0]
            endpoint.queries.append(query)
            fault = endpoint.faults.popleft() if endpoint.faults else None
            if fault == "reset":
                self.close_connection = True
                self.connection.shutdown(2)
                return None
            if fault == "hang":
                time.sleep(endpoint.hang_s)
            canned = {
                "500": (500, b"Virtuoso 08C01 Error CL...: Cluster could not connect"),
                "costly": (500, b"Virtuoso S1T00 Error SR171: Transaction timed out"),
                "garbage": (200, b"<html>Welcome</html>"),
                "rows": (200, b'{"results": {"bindings": [{"x": "text"}]}}'),
                "503": (503, b'{"results": {"bindings": []}}'),
                "404": (404, b"no such page"),
            }
            if fault in canned:
                return self._send(*canned[fault])
            standard = query.replace("COUNT DISTINCT ?x", "(COUNT(DISTINCT ?x) AS ?c)").replace(" OR ", " || ")
            try:
                answer = endpoint.store.query(standard).serialize(format=ox.QueryResultsFormat.JSON)
            except SyntaxError as error:
                return self._send(400, f"Virtuoso 37000 Error SP030: {error}".encode())
            if fault == "truncated":
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer[: len(answer) // 2])
                self.close_connection = True
                return None
            headers = {"partial": {"X-SQL-State": "S1TAT"}, "kept back": {"X-SPARQL-MaxRows": "50"}}
            return self._send(200, answer, headers.get(fault))

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serving(store: ox.Store):
    """A FakeEndpoint over the store, for the duration of the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hung up is what the tests want
    endpoint = FakeEndpoint(store, f"http://127.0.0.1:{server.server_address[1]}/sparql")
    server.RequestHandlerClass = _handler(endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
