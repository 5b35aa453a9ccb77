"""A policy of this process behind an OpenAI-compatible address on this machine: for tests, and to try a client.

    with serve(policy, "agentlm-tiny") as base_url:      # http://127.0.0.1:PORT/v1
        ...

It has /v1/chat/completions and /v1/models. Questions that wait are answered together, as the policy decodes batches. A
policy gives a text alone, so finish_reason is always "stop" and there is no usage.
It listens on the loopback only and is no server for others: there is no key, no streaming and no queue limit.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agenttuning.policies import BatchPolicy, ContextLimit, Turn

BODY_BYTES = 16 << 20  # of a question
SAME = {"max_tokens": "max_new_tokens", "temperature": "temperature", "truncate_prompt_tokens": None}


@contextmanager
def serve(policy: BatchPolicy, model: str, port: int = 0, width: int = 32) -> Iterator[str]:
    """Answer with `policy` for the name `model` while the block runs; gives the base URL. `port` 0 takes a free one.

    At most `width` turns are given to the policy at once. A question with another max_tokens, temperature or
    truncate_prompt_tokens than the policy's own (where it has them) is refused with status 400, since it would not be
    honoured. A ContextLimit is answered as vLLM does, an exception with 500.
    """
    answerer = _Answerer(policy, width)
    handler = type("Handler", (_Handler,), {"answerer": answerer, "model": model})
    server = _Server(("127.0.0.1", port), handler)
    threads = [threading.Thread(target=work, daemon=True) for work in (server.serve_forever, answerer.run)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        answerer.stop()
        for thread in threads:
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may hold its connection open for longer than the server lives
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hung up is no error of the server
            super().handle_error(request, client_address)


class _Answerer:
    """One thread that asks the policy, since a model is not to be asked by two."""

    def __init__(self, policy: BatchPolicy, width: int) -> None:
        self.policy, self._width = policy, width
        self._queue: queue.SimpleQueue[tuple[Turn, Future] | None] = queue.SimpleQueue()

    def ask(self, turn: Turn) -> str | ContextLimit:
        future: Future = Future()
        self._queue.put((turn, future))
        return future.result()

    def stop(self) -> None:
        self._queue.put(None)

    def run(self) -> None:
        while (entry := self._queue.get()) is not None:
            entries = [entry]
            while len(entries) < self._width and not self._queue.empty():
                if (entry := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                entries.append(entry)
            self._answer(entries)

    def _answer(self, entries: list[tuple[Turn, Future]]) -> None:
        try:
            answers = self.policy([turn for turn, _ in entries])
            if len(answers) != len(entries):
                raise TypeError(f"the policy gave {len(answers)} replies to {len(entries)} turns")
        except Exception as error:
            if len(entries) == 1:
                entries[0][1].set_exception(error)
                return
            for one in entries:  # one question that cannot be asked is not the others' fault
                self._answer([one])
            return
        for (_, future), answer in zip(entries, answers, strict=True):
            future.set_result(answer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    answerer: _Answerer
    model: str

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._error(404, f"there is no {self.path}")
        return self._send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and int(length[:12]) <= BODY_BYTES):
            self.close_connection = True
            return self._error(413, f"Content-Length is {length!r}; it must be at most {BODY_BYTES}")
        data = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            return self._error(404, f"there is no {self.path}")
        try:
            asked = json.loads(data)
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in asked["messages"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return self._error(400, f"the question cannot be read: {type(error).__name__}")
        if asked.get("model") != self.model:
            return self._error(404, f"The model `{asked.get('model')}` does not exist.")
        if (wrong := self._differs(asked)) is not None:
            return self._error(400, wrong)
        return self._reply(asked, messages)

    def _differs(self, asked: dict) -> str | None:
        if asked.get("truncation_side", "left") != "left":
            return "truncation_side is not left; this server's policies keep the end of a prompt"
        for name, own in SAME.items():
            mine = getattr(self.answerer.policy, own or name, None)
            if hasattr(self.answerer.policy, own or name) and name in asked and asked[name] != mine:
                return f"{name} is {asked[name]!r}; this server's policy has {mine!r} and would not honour it"
        return None

    def _reply(self, asked: dict, messages: list[dict]) -> None:
        try:
            answer = self.answerer.ask(Turn(messages, str(asked.get("seed")), 0))
        except Exception as error:
            return self._error(500, f"{type(error).__name__}: {error}"[:500])
        if isinstance(answer, ContextLimit):
            text = f"This model's maximum context length is {answer.limit} tokens. However, your messages resulted in "
            return self._error(400, f"{text}{answer.prompt_tokens} tokens.", "context_length_exceeded")
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._send(200, {"object": "chat.completion", "model": self.model, "choices": [choice]})

    def _error(self, code: int, message: str, kind: str = "invalid_request_error") -> None:
        self._send(code, {"error": {"message": message, "type": kind, "code": kind}})

    def _send(self, code: int, body: dict) -> None:
        data = json.dumps(body).encode("ascii")
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is written for a question."""
