"""A chat server on the loopback that plays the toy task, and fails in a chosen way at chosen questions."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FULL = (
    "This model's maximum context length is 4096 tokens. However, you requested 128 output tokens and your prompt "
    "contains at least 3969 input tokens, for a total of at least 4097 tokens."
)


def reply_to(messages: list[dict]) -> str:
    """A move that depends on the whole conversation and on nothing else."""
    return f"Thought: so.\nAction: add {zlib.crc32(json.dumps(messages).encode()) % 3}"


class FaultyServer:
    """A context manager. `fault(number, messages)` names what is done to the question of that number (from 0, as they
    come): die, hang, empty, html, no choices, deep, big, bytes, surrogate, slow, busy, overloaded, overflow, echo key,
    broken, refused; None for a reply.

    `asked` holds the bodies of all questions, `when` their times, `sent` the bytes of content sent.
    """

    def __init__(self, fault: Callable[[int, list[dict]], str | None] = lambda number, messages: None) -> None:
        self.fault, self.asked, self.when, self.sent = fault, [], [], 0
        self.headers: list[dict] = []
        self.most, self._now = 0, 0
        self._lock, self._over, self._open = threading.Lock(), threading.Event(), set()
        self._server, self._gone = None, False
        self.delay, self.reply = 0.0, reply_to

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultyServer:
        self.port = 0
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._down()

    def _listen(self) -> None:
        handler = type("Handler", (_Handler,), {"home": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _down(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            # reset, as when a process is killed
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def die(self, seconds: float = 0.3) -> None:
        """Be gone for some seconds, then come back on the same port."""

        with self._lock:
            if self._gone:
                return
            self._gone = True

        def restart() -> None:
            self._down()
            time.sleep(seconds)
            self._listen()
            self._gone = False

        threading.Thread(target=restart, daemon=True).start()

    def begin(self, body: dict, headers: dict) -> int:
        with self._lock:
            self.asked.append(body)
            self.headers.append(headers)
            self.when.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
            return len(self.asked) - 1

    def end(self) -> None:
        with self._lock:
            self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 256

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1
    home: FaultyServer

    def setup(self) -> None:
        super().setup()
        self.home._open.add(self.connection)

    def finish(self) -> None:
        self.home._open.discard(self.connection)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "messages" not in body:  # /completions: a chat server
            said = f"only chat is served, not to {self.headers.get('Authorization')}"
            return self._send(json.dumps({"error": {"message": said}}).encode(), 404)
        number = self.home.begin(body, dict(self.headers))
        try:
            if self.home.delay:
                time.sleep(self.home.delay)
            self._answer(self.home.fault(number, body["messages"]), self.home.reply(body["messages"]))
        finally:
            self.home.end()

    def _answer(self, fault: str | None, text: str) -> None:
        good = json.dumps(_completion(text)).encode()
        if fault is None:
            self._send(good)
        elif fault == "die":
            self.home.die()
            self.home._over.wait(0.2)
        elif fault == "hang":
            self.home._over.wait(20)
        elif fault == "slow":
            self._send(good, pause=0.02)
        elif fault == "big":
            self._send(json.dumps(_completion("x" * 10_000_000)).encode())
        elif fault in BODIES:
            self._send(BODIES[fault])
        else:
            code, body, headers = REFUSALS[fault]
            if fault == "echo key":
                body = {"error": {"message": f"no such key: {self.headers.get('Authorization')}"}}
            self._send(json.dumps(body).encode(), code, headers)

    def _send(self, data: bytes, code: int = 200, headers: dict | None = None, pause: float = 0) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        step = 1 if pause else 1 << 16
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            self.wfile.flush()
            self.home.sent += min(step, len(data) - start)
            if pause and self.home._over.wait(pause):
                return

    def log_message(self, *_: object) -> None:
        pass


def _completion(text: str) -> dict:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


BODIES = {
    "empty": b"",
    "html": b"<html>502 Bad Gateway</html>",
    "no choices": b'{"choices": []}',
    "deep": b"[" * 100_000,
    "bytes": b'{"choices": [{"message": {"content": "Thought: \xff\xfe\\nAction: add 1"}, "finish_reason": "length"}]}',
    "surrogate": b'{"choices": [{"message": {"content": "Thought: \\ud800\\nAction: add 1"}}]}',
    "blank": b'{"choices": [{"message": {"content": "  Action: add 1 "}}]}',
    "null": b'{"choices": [{"message": {"content": null}}]}',
}
REFUSALS = {
    "busy": (429, {"error": {"message": "slow down"}}, {"Retry-After": 3600}),
    "overloaded": (503, {"error": {"message": "no replica"}}, {}),
    "overflow": (400, {"error": {"message": FULL, "type": "BadRequestError", "code": 400}}, {}),
    "refused": (400, {"error": {"message": "the template cannot render this"}}, {}),
    "broken": (500, {"error": {"message": "CUDA error"}}, {}),
    "echo key": (401, {"error": {"message": "no such key"}}, {}),
}
