"""The two servers: the Hub and, on another port, its store. Reads a request, fails it as scripted, or answers it."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.hub_double import gather, reading, repos, sending
from helpers.hub_double.faults import as_fault
from helpers.hub_double.state import ROLES, Hub, Seen

NAME = r"(?P<name>[^/]+/[^/]+?)"
KIND = r"/api/(?P<kind>model|dataset)s/" + NAME
FILE = r"/(?:(?P<kind>dataset)s/)?" + NAME
# (methods, pattern, what answers); the first that fits
ROUTES = [
    ("GET", r"/api/whoami-v2", repos.whoami),
    ("POST", r"/api/repos/create", repos.create),
    ("POST", r"/api/validate-yaml", repos.validate),
    ("GET POST", r"/api/collections", gather.all_of),
    ("POST", r"/api/collections/(?P<slug>.+)/items", gather.add_item),
    ("GET", r"/api/collections/(?P<slug>.+)", gather.one),
    ("GET", KIND + r"(?:/revision/(?P<revision>[^/]+))?", repos.info),
    ("GET", KIND + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", reading.tree),
    ("POST", KIND + r"/paths-info/(?P<revision>[^/]+)", reading.paths_info),
    ("GET", KIND + r"/refs", repos.refs),
    ("GET", KIND + r"/commits/(?P<revision>[^/]+)", repos.commits),
    ("POST DELETE", KIND + r"/tag/(?P<revision>[^/]+)", repos.tag),
    ("POST", KIND + r"/branch/(?P<revision>[^/]+)", repos.branch),
    ("POST", KIND + r"/preupload/(?P<revision>[^/]+)", sending.preupload),
    ("POST", KIND + r"/commit/(?P<revision>[^/]+)", sending.commit),
    ("POST", FILE + r"\.git/info/lfs/objects/batch", sending.batch),
    ("POST", FILE + r"\.git/info/lfs/verify", sending.verify),
    ("POST", r"/api/complete_multipart", sending.complete),
    ("HEAD GET", FILE + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", reading.resolve),
]
STORE = [
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", sending.put),
    ("PUT", r"/parts/(?P<upload>\w+)/(?P<number>\d+)", sending.put_part),
    ("HEAD GET", r"/storage/(?P<oid>[0-9a-f]{64})", reading.from_store),
]


@dataclass
class Asked:
    """A request with what its path says. role: of the token, None without one. words: the named parts of its path."""

    hub: Hub
    method: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    role: str | None = None
    token: str | None = None
    words: dict[str, str | None] = field(default_factory=dict)

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """Of the repository that the path names."""
        return ("datasets/" if self.words.get("kind") == "dataset" else "") + self.words["name"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    hub: Hub
    store = False

    def serve(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        fault = as_fault(hub.fail(self.command, parts.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length if fault.cut is None else min(fault.cut, length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with hub.lock:
            hub.requests.append((self.command, parts.path))
            hub.log.append(Seen(self.command, self.path, headers, body, self.store))
        if fault.cut is not None:
            return self.reset()
        if fault.hang:
            hub.over.wait(fault.hang)
            return self.reset()
        if fault.status is not None:
            return self.answer(fault.status, fault.body, fault.headers)
        asked = Asked(hub, self.command, parse_qs(parts.query), headers, body)
        with hub.lock:
            status, content, extra = self.result(asked, unquote(parts.path))
        if fault.late:
            return self.reset()
        return self.answer(status, content, extra | fault.replace, fault.truncate)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def result(self, asked: Asked, path: str) -> tuple[int, object, dict[str, str]]:
        if "chunked" in asked.headers.get("transfer-encoding", ""):
            return repos.refused(501, "NotImplemented", "a body needs its length")
        for methods, pattern, answer in STORE if self.store else ROUTES:
            if asked.method in methods.split() and (found := re.fullmatch(pattern, path)):
                asked.words = found.groupdict()
                return self.allowed(asked) or answer(asked)
        return repos.refused(404, None, f"no such address: {asked.method} {path}")

    def allowed(self, asked: Asked) -> tuple[int, object, dict[str, str]] | None:
        """Who asks, and whether anybody may; what they may do with a repository is that answer's own affair."""
        said = asked.headers.get("authorization")
        if self.store:  # an address is signed; S3 refuses a second way to say who one is
            missing = "signature" not in asked.query
            return repos.refused(400 if said else 403, None, "InvalidArgument") if said or missing else None
        if said is None:
            return None
        asked.token = said.removeprefix("Bearer ")
        asked.role = ROLES.get(asked.token)
        return None if asked.role else repos.refused(401, None, "Invalid credentials in Authorization header")

    def answer(self, status: int, content: object, headers: dict[str, str], most: int | None = None) -> None:
        if content is None:
            content = {"error": self.hub.says}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:most])
        if most is not None:
            self.close_connection = True

    def reset(self) -> None:
        """Break the connection as a machine that dies does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def hub_double():
    """A running Hub; its `url` is what HF_ENDPOINT should hold."""
    hub, servers = Hub(), []
    for store in (False, True):
        server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub, "store": store}))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.over.set()
        for server in servers:
            server.shutdown()
            server.server_close()
