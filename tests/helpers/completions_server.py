"""A model on the loopback as vLLM's server has it: /v1/completions with ids and echo, /v1/chat/completions, /v1/models.

`fail(path, number)` may answer for it: a status, or "die" (the connection breaks); None lets the question through.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager

from agenttuning.chat import decode_reply, encode_prompt
from agenttuning.policies.generate import generate


class Served:
    """The model, what was asked (path, body), and how it is to fail. only_chat: there is no /v1/completions."""

    def __init__(self, model, tokenizer, only_chat: bool = False, room: int | None = None) -> None:
        self.model, self.tokenizer, self.only_chat, self.room = model, tokenizer, only_chat, room
        self.asked: list[tuple[str, dict]] = []
        self.fail: Callable[[str, int], int | str | None] = lambda path, number: None
        self.lock = threading.Lock()

    def completion(self, body: dict) -> dict:
        import torch

        ids = body["prompt"]
        if not body.get("echo"):
            return {"text": self.generated(ids, body), "finish_reason": "stop"}
        with torch.inference_mode():
            rows = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        said = [None, *(rows[place, one].item() for place, one in enumerate(ids[1:]))]
        best = [None, *({"best": rows[place].max().item()} for place in range(len(ids) - 1))]
        return {"text": "", "logprobs": {"token_logprobs": [*said, 0.0], "top_logprobs": [*best, {}]}}

    def generated(self, ids: list[int], body: dict) -> str:
        stop = {self.tokenizer.eos_token_id}
        [new] = generate(self.model, [ids], max_new_tokens=body["max_tokens"], stop=stop, pad=0)
        return decode_reply(new, self.tokenizer)

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        with self.lock:
            self.asked.append((path, body))
            failure = self.fail(path, len(self.asked))
            if failure is not None:
                return failure, {"error": {"message": "scripted failure"}}
            if body.get("model") != "served":
                return 404, {"error": {"message": "The model does not exist."}}
            if path == "/v1/completions" and not self.only_chat:
                return 200, {"choices": [{"index": 0, **self.completion(body)}]}
            if path == "/v1/chat/completions":
                text = self.generated(encode_prompt(body["messages"], self.tokenizer), body)
                return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        return 404, {"error": {"message": f"there is no {path}"}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: Served

    def do_GET(self) -> None:
        room = {} if self.served.room is None else {"max_model_len": self.served.room}
        self.send(200, {"data": [{"id": "served", **room}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, content = self.served.answer(self.path, body)
        if status == "die":
            self.close_connection = True
            return self.connection.close()
        return self.send(status, content)

    def send(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def completions_server(served: Served):
    """The base URL of a running server, with its /v1."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"served": served}))
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
