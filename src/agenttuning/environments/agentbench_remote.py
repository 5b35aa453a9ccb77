"""AgentBench's own server: a client of the v0.2 controller, whose workers hold the real environments.

The server composes the whole conversation, prompt and demonstration included, and parses the replies, so an action is a
reply as it is and the format is protocols/raw.py. v0.2 is not the harness of AgentTuning's evaluation (its prompts and
limits differ), so no score of it is set beside the paper's.

The first observation is the server's conversation so far, as JSON: [{"role": "user" | "agent", "content": str}, ...];
protocols/raw.py opens an episode with it. Later ones are the newest message. Where the server rewrites a reply in its
history (knowledgegraph cuts it at "Observation:"), the model goes on seeing the reply as it was.

Contract: THUDM/AgentBench v0.2, src/server/task_controller.py and src/client/task.py. A start is repeated while no
worker is free (406). Nothing else is ever repeated: an answer that reached the worker must not reach it twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agenttuning.environments import Backend, Move, Room, Step
from agenttuning.errors import UserError

BACKEND = Backend("agentbench-v0.2", "AgentBench's v0.2 server, with its prompts and its parser", comparable=False)
ANSWER_S = 250.0  # the controller gives up on a worker after 240 s; until then it may still answer
CONNECT_S = 10.0
CANCEL_S = 10.0  # the controller's own limit for it is 5 s
PATIENCE_S = 45.0  # how long a start is repeated while no worker is free; with ANSWER_S below the runner's own limit
WAIT_S = 1.0  # between two of them
MAX_BYTES = 16 << 20  # of one answer of the server
TEXT_CHARS = 300  # of an answer, in an error

# What the server calls the end of an episode -> episodes/status.py. `unknown` is counted as AgentBench's
# src/analysis.py counts it, among the task limits. A `task error` is a failure of the worker.
ENDS = {
    "completed": "completed",
    "task limit reached": "task_limit",
    "unknown": "task_limit",
    "agent context limit": "context_limit",
    "agent validation failed": "invalid_format",
    "agent invalid action": "invalid_action",
}

# The main number of each task's `calculate_overall`, as AgentBench's src/analysis.py reads it, for one sample. The
# number of dbbench is the mean of three categories: of one sample only its own category can be above 0.
REWARDS: dict[str, Callable[[Any], float]] = {
    "os": lambda found: found["overall"]["acc"],
    "db": lambda found: max(found[f"{kind}_accuracy"] for kind in ("SELECT", "INSERT", "UPDATE")),
    "kg": lambda found: found["main"],
    "alfworld": lambda found: found["overall"]["success_rate"],
    "webshop": lambda found: found["reward"],
}


class ServerError(RuntimeError):
    """The server failed, or did not answer: nothing that says anything about the model."""


class Client:
    """HTTP to one controller, `url` as in http://127.0.0.1:5000/api. Every method raises ServerError."""

    def __init__(self, url: str, *, answer_s: float = ANSWER_S, patience_s: float = PATIENCE_S, wait_s: float = WAIT_S):
        import httpx

        self.url = url.rstrip("/")
        self.patience_s, self.wait_s = patience_s, wait_s
        # No proxy or credential of the surroundings: the address is all that is meant.
        timeout = httpx.Timeout(answer_s, connect=CONNECT_S)
        limits = httpx.Limits(max_connections=None)  # a thread for each episode, and none may wait for another
        # Certificates take a quarter of a second to load, and plain HTTP has none; redirects are not followed.
        verify = self.url.startswith("https:")
        self._http = httpx.Client(timeout=timeout, limits=limits, trust_env=False, verify=verify)
        self.answer_s = answer_s

    def workers(self) -> dict:
        """{task: {indices, workers}}"""
        return self._mapping(self._call("GET", "/list_workers"), "/list_workers")

    def start(self, task: str, index: int | str) -> dict:
        """{session_id, output} of a new session; asked again while no worker is free."""
        until = time.monotonic() + self.patience_s
        while True:
            answer = self._call("POST", "/start_sample", {"name": task, "index": index}, also=406)
            if answer is not None:
                return self._mapping(answer, "/start_sample")
            if time.monotonic() + self.wait_s > until:
                raise ServerError(f"no worker of {task} was free at {self.url} for {self.patience_s:g} s")
            time.sleep(self.wait_s)

    def interact(self, session: object, content: str | None, status: str = "normal") -> dict:
        """{session_id, output} after a reply. Sent once, whatever comes of it."""
        response = {"status": status, "content": content}
        answer = self._call("POST", "/interact", {"session_id": session, "agent_response": response})
        return self._mapping(answer, "/interact")

    def cancel(self, session: object) -> None:
        """Give a session up."""
        self._call("POST", "/cancel", {"session_id": session}, timeout=CANCEL_S)

    def overall(self, task: str, output: dict) -> Any:
        """The task's own metrics of one finished sample."""
        return self._call("POST", "/calculate_overall", {"name": task, "results": [output]})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(
        self, method: str, path: str, body: dict | None = None, also: int | None = None, timeout: float | None = None
    ) -> Any:
        """The JSON of an answer, or None for one of the status `also`."""
        import httpx

        limit = {} if timeout is None else {"timeout": timeout}
        until = time.monotonic() + (timeout or self.answer_s)
        text = bytearray()
        try:
            with self._http.stream(method, self.url + path, json=body, **limit) as answer:
                for piece in answer.iter_bytes():
                    text += piece
                    if len(text) > MAX_BYTES:
                        raise ServerError(f"{path} at {self.url} answered with more than {MAX_BYTES:,} bytes")
                    if time.monotonic() > until:  # httpx waits so long for each piece
                        raise ServerError(
                            f"{path} at {self.url} was still answering after {timeout or self.answer_s:g} s"
                        )
        except httpx.HTTPError as error:
            raise ServerError(f"{path} at {self.url}: {type(error).__name__} {error}") from error
        if answer.status_code == also:
            return None
        if answer.status_code != 200:
            said = text[:TEXT_CHARS].decode(errors="replace")
            raise ServerError(f"{path} at {self.url} answered {answer.status_code}: {said}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ServerError(f"{path} at {self.url} answered with what is not JSON: {error}") from None

    def _mapping(self, answer: Any, path: str) -> dict:
        if not isinstance(answer, dict):
            raise ServerError(f"{path} at {self.url} answered with a {type(answer).__name__}, not an object")
        return answer


@contextmanager
def serve(url: str, task: str, kind: str, **settings: float) -> Iterator[Room]:
    """The room of one task of a running controller: `task` is its name there ("dbbench-std"), `kind` the name of the
    task here ("db"), which the protocol and the records bear. settings: answer_s, patience_s and wait_s of Client.

    Raises UserError when the controller is not there, or has no such task or no worker for it.
    """
    if kind not in REWARDS:
        raise UserError(
            f"the reward of {kind!r} is not known for AgentBench's server; it could not be scored; choose one of "
            f"{', '.join(REWARDS)}"
        )
    client = Client(url, **settings)
    try:
        slots = _slots(client, task)
        yield Room(kind, BACKEND, lambda item: Environment(client, task, kind, item), isolation="thread", slots=slots)
    finally:
        client.close()


def items(url: str, task: str) -> list[dict]:
    """One item for each index of a task of a running controller. Raises UserError as `serve` does."""
    client = Client(url)
    try:
        _slots(client, task)
        return [{"id": f"{task}_{index}", "index": index} for index in client.workers()[task]["indices"]]
    finally:
        client.close()


def _slots(client: Client, task: str) -> int:
    try:
        known = client.workers()
        workers = known[task]["workers"].values() if task in known else []
        # status 0: alive. Slots that somebody else holds now may be free later, so all of them count.
        slots = sum(int(worker["capacity"]) for worker in workers if worker["status"] == 0)
    except (ServerError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"no controller of AgentBench at {client.url} ({error}); nothing could be played; start it with "
            "`python -m src.start_task -a` in AgentBench, and give its address with /api at the end"
        ) from None
    if slots < 1:
        raise UserError(
            f"the controller at {client.url} has no living worker of {task!r}; it knows {', '.join(known) or 'none'}; "
            "no episode could start; start its worker"
        )
    return slots


class Environment:
    """One sample, held by the server. An action is a whole reply."""

    def __init__(self, client: Client, task: str, kind: str, item: dict) -> None:
        self.client, self.task, self.kind, self.index = client, task, kind, item["index"]
        self.session: object = None
        self.output: dict = {}
        self.over = False

    def reset(self) -> str:
        """Start the sample; the conversation so far, as JSON. `over` where the server ended it at once."""
        self.close()
        answer = self.client.start(self.task, self.index)
        self.session = answer.get("session_id")
        self._take(answer)
        return json.dumps(self.output["history"])

    def step(self, action: str) -> Step:
        """Send a reply. Raises ServerError when the server fails or does not answer; it is not sent again."""
        return self._after(self.client.interact(self.session, action))

    def context_limit(self) -> Step:
        """Tell the server that the model has no room for another reply, which ends the episode there."""
        return self._after(self.client.interact(self.session, None, "agent context limit"))

    def _after(self, answer: dict) -> Step:
        before = len(self.output["history"])
        self._take(answer)
        history = self.output["history"]
        if self.over:
            return Step("", done=True, valid=self.ended != "invalid_action", ended=self.ended)
        # Mind2Web's questions, for one: the conversation that the model is shown here would not be the server's.
        if len(history) <= before and "[NOTICE]" not in history[0]["content"]:
            raise ServerError(
                f"{self.task} began a new conversation in the middle of a sample, which this client cannot"
            )
        return Step(history[-1]["content"])

    def _take(self, answer: dict) -> None:
        output = answer.get("output")
        if not isinstance(output, dict) or not isinstance(output.get("history"), list | None):
            raise ServerError(f"{self.client.url} answered without an output: {json.dumps(answer)[:TEXT_CHARS]}")
        output["history"] = output["history"] or []
        state = output.get("status")
        if state != "running":
            self.session, self.over = None, True
            if state not in ENDS:
                raise ServerError(f"{self.task} ended as {state!r}: {json.dumps(output.get('result'))[:TEXT_CHARS]}")
        elif not _is_conversation(output["history"]):
            raise ServerError(f"{self.task} waits for a reply to no message of its own")
        self.output = {"index": self.index, **output}

    @property
    def ended(self) -> str | None:
        """How the server ended the episode, a name of episodes/status.py; None while it runs."""
        return ENDS[self.output["status"]] if self.over and self.output else None

    def score(self) -> float:
        """The task's main metric of this sample, computed by a worker of the server. Raises ServerError."""
        if not self.over:
            return 0.0
        found = self.client.overall(self.task, self.output)
        try:
            reward = float(REWARDS[self.kind](found))
        except (KeyError, TypeError, ValueError) as error:
            said = json.dumps(found)[:TEXT_CHARS]
            raise ServerError(
                f"{self.task} has no metric of {self.kind} ({type(error).__name__} {error}): {said}"
            ) from None
        if not math.isfinite(reward):
            raise ServerError(f"{self.task} scored {reward}")
        return reward

    def metrics(self) -> dict[str, str]:
        """How the server itself calls the end."""
        return {"agentbench_status": self.output["status"]} if self.over and self.output else {}

    def actions(self) -> list[str]:
        """None are known: the server alone reads a reply."""
        return []

    def oracle(self) -> Move:
        """Raises UserError: the server knows the answers and does not tell them."""
        raise UserError(f"{self.task} is played by AgentBench's server, which has no expert; play it with a model")

    def close(self) -> None:
        """Give up a session that still runs, so that its worker is free again. Raises ServerError."""
        session, self.session = self.session, None
        if session is not None:
            self.client.cancel(session)


def _is_conversation(history: list) -> bool:
    with contextlib.suppress(TypeError, KeyError):
        roles = [turn["role"] for turn in history]
        texts = all(isinstance(turn["content"], str) for turn in history)
        return texts and len(roles) % 2 == 1 and roles == (["user", "agent"] * len(roles))[: len(roles)]
    return False
