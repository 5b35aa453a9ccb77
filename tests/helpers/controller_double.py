"""A v0.2 controller of AgentBench on this machine, written from its contract: sessions, slots, and ways to fail.

Its one task counts: a sample asks for a number of replies `go`, then `done`. What a reply does:

    go, done        played; `done` completes the sample, with success where enough was counted
    bad, odd        agent invalid action; agent validation failed
    boom            the worker fails: the controller answers 501 with the worker's output as text
    gone            the session is lost: 400
    wait            no answer before `release` is set
    drip            an answer that never ends, a byte at a time
    die             the connection breaks after the reply was played
    again           the conversation begins anew
    junk, huge      no JSON; more bytes than a client should take
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

FORMAT = [{"role": "user", "content": "Count."}, {"role": "agent", "content": "Ok."}]


class Controller:
    """The state. `requests` has every call (path, body); `busy` is the number of starts that find no worker free."""

    def __init__(self, task: str = "dbbench-std", capacity: int = 4, rounds: int = 5) -> None:
        self.task, self.capacity, self.rounds = task, capacity, rounds
        self.busy = 0
        self.indices: list[int | str] = [0, 1, 2, "three"]
        self.overall: dict | None = None  # what calculate_overall answers, instead of the truth
        self.start_as: dict | None = None  # what start_sample answers in `output`
        self.requests: list[tuple[str, dict]] = []
        self.sessions: dict[int, dict] = {}
        self.release = threading.Event()
        self.lock = threading.Lock()
        self.next = -1
        self.url = ""

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def get(self, path: str, query: dict) -> tuple[int, object]:
        if path == "/list_workers":
            worker = {"id": 0, "address": "x", "capacity": self.capacity, "current": len(self.sessions), "status": 0}
            return 200, {self.task: {"indices": self.indices, "workers": {"0": worker}}}
        if path == "/get_indices":
            return (
                (200, self.indices) if query["name"] == [self.task] else (400, {"detail": "Error: Task does not exist"})
            )
        return 404, {}

    def post(self, path: str, body: dict) -> tuple[int, object]:
        if path == "/start_sample":
            return self._start(body)
        if path == "/interact":
            return self._interact(body)
        if path == "/cancel":
            if self.sessions.pop(body["session_id"], None) is None:
                return 400, {"detail": "Error: Session does not exist"}
            return 200, {"session_id": body["session_id"]}
        if path == "/calculate_overall":
            (result,) = body["results"]
            won = float(result["result"] is not None and result["result"]["won"] and result["index"] in self.indices)
            truth = {
                "SELECT_accuracy": 0,
                "INSERT_accuracy": won,
                "UPDATE_accuracy": 0,
                "overall_cat_accuracy": won / 3,
            }
            return 200, truth if self.overall is None else self.overall
        return 404, {}

    def _start(self, body: dict) -> tuple[int, object]:
        if body["name"] != self.task:
            return 406, {"detail": "Error: Task does not exist"}
        if body["index"] not in self.indices:
            return 400, {"detail": "Error: Index out of bounds"}
        if self.busy or len(self.sessions) >= self.capacity:
            self.busy = max(0, self.busy - 1)
            return 406, {"detail": "Error: No workers available"}
        self.next += 1  # the first is 0, as the original's
        goal = 1 + self.indices.index(body["index"])
        history = [*FORMAT, {"role": "user", "content": f"Go {goal} times."}]
        self.sessions[self.next] = {"index": body["index"], "goal": goal, "count": 0, "history": history, "turns": 0}
        output = {"index": body["index"], "status": "running", "result": None, "history": history}
        return 200, {"session_id": self.next, "output": output if self.start_as is None else self.start_as}

    def _interact(self, body: dict) -> tuple[int, object]:
        session = self.sessions.get(body["session_id"])
        if session is None:
            return 400, {"detail": "Error: Session does not exist"}
        answer = body["agent_response"]
        if answer["status"] == "agent context limit":
            return self._end(body, "agent context limit")
        reply = answer["content"]
        session["turns"] += 1
        session["history"] = [*session["history"], {"role": "agent", "content": reply}]
        if reply == "boom":
            del self.sessions[body["session_id"]]
            return 501, {"detail": 'Error: Worker returned error\n{"detail":{"output":{"status":"task error"}}}'}
        if reply == "gone":
            del self.sessions[body["session_id"]]
            return 400, {"detail": "Error: Session does not exist"}
        if reply == "wait":
            self.release.wait(30)
        if reply == "again":
            session["history"] = session["history"][:2]
        if reply in ("bad", "odd"):
            return self._end(body, "agent invalid action" if reply == "bad" else "agent validation failed")
        if reply in ("lost", "broken"):
            return self._end(body, "unknown" if reply == "lost" else "task error")
        if reply == "done":
            return self._end(body, "completed", {"won": session["count"] == session["goal"]})
        session["count"] += reply == "go"
        if session["turns"] >= self.rounds:
            return self._end(body, "task limit reached", {"won": False})
        session["history"].append({"role": "user", "content": f"At {session['count']}."})
        output = {"index": session["index"], "status": "running", "result": None, "history": session["history"]}
        return 200, {"session_id": body["session_id"], "output": output}

    def _end(self, body: dict, status: str, result: dict | None = None) -> tuple[int, object]:
        session = self.sessions.pop(body["session_id"])
        output = {"index": session["index"], "status": status, "result": result, "history": session["history"]}
        return 200, {"session_id": body["session_id"], "output": output}


@contextmanager
def controller(**settings):
    """A running controller on the loopback."""
    state = Controller(**settings)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._answer(*state.get(parts.path.removeprefix("/api"), parse_qs(parts.query)))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/api")
            reply = (body.get("agent_response") or {}).get("content")
            with state.lock:
                state.requests.append((path, body))
            if reply == "wait":
                status, content = state.post(path, body)
            else:
                with state.lock:
                    status, content = state.post(path, body)
            if reply == "die":
                self.close_connection = True
                self.connection.close()
            elif reply == "drip":
                self._drip()
            else:
                self._answer(status, content, {"junk": b"<html>", "huge": b" " * (17 << 20)}.get(reply))

        def _answer(self, status: int, content: object, raw: bytes | None = None) -> None:
            text = json.dumps(content).encode() if raw is None else raw
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not state.release.is_set():
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the client went away, or "die"
                super().handle()

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/api"
    state.stop = server.server_close
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
