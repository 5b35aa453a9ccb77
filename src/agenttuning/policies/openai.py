"""Asks a model behind an OpenAI-compatible server: vLLM, TGI, llama.cpp's server, policies/serve.py, or a paid one.

What asking again may mend is asked again by itself: no connection, a time-out, status 408, 429 and 5xx, an answer that
is no chat completion. A status that would be the same for every turn (401, 403, 404) ends the run, and so does a server
that cannot be reached at all. Anything else, and what stays broken, is an agent_error of that episode.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, GaveUp, Turn
from agenttuning.policies.answers import Again, Completion, overflow_of, read_completion, read_object, retry_after, said

log = logging.getLogger(__name__)
ENDS_THE_RUN = {401: "the key is missing or wrong", 403: "the key may not use it", 404: "no such path or model"}
TELL_S = 5.0  # seconds between two warnings
AGAIN = (408, 425, 429)


@dataclass(frozen=True)
class Patience:
    """Seconds and bytes. connect: for a connection; read: without a byte of the answer; total: for one whole answer.

    Asked again `retries` times after `wait`, 2 `wait`, ... but at most `longest` seconds each; a Retry-After header is
    followed up to `longest`. With the defaults that is 4 minutes and a half, in which a server comes back from a crash.
    An answer of more than `max_bytes` is not read on.
    """

    connect: float = 10.0
    read: float = 120.0
    total: float = 600.0
    retries: int = 9
    wait: float = 0.5
    longest: float = 60.0
    max_bytes: int = 1 << 20


class OpenAIPolicy:
    """Replies of `model` at `base_url` (with its /v1, as the client of OpenAI has it); asked with `ask`, turn by turn.

    `max_new_tokens`, `temperature` and `truncate_prompt_tokens` are the protocol's Decoding; the last is sent only
    where it is set, as vLLM's extra fields (truncate_prompt_tokens, and truncation_side: left, so that the end of the
    prompt is kept): other servers ignore or refuse them. A `seed` is drawn for each (seed, item, turn). `slots`
    questions are asked at a time. `key_variable` names the environment variable that holds the API key; the key itself
    stands in no log, record or exception.

    Proxies and certificates of the environment variables are honoured as httpx does (HTTPS_PROXY, SSL_CERT_FILE),
    except that a server on this machine is never asked through a proxy. Redirects are not followed.

    With `fill_context` a reply may be as long as the room that its prompt leaves, where that is less than
    `max_new_tokens` and the server says its limit and counts prompts: it is then asked for that many. `rooms` has that
    room, in tokens, by (item, turn).

    `counts` says what was done: replies, tokens (new ones), prompt_tokens, `unfinished` (replies that ran into
    max_new_tokens), `cleaned` (broken text), `asked_again`, `context_limit`; `served` counts the names that the server
    gives the model that answered. Raises UserError for a URL that cannot be asked or a variable that is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        truncate_prompt_tokens: int | None = None,
        system_prompt: str | None = None,
        key_variable: str | None = None,
        slots: int = 160,
        patience: Patience | None = None,
        fill_context: bool = False,
    ) -> None:
        self.base_url, self.model, self.slots = _checked(base_url), model, slots
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.truncate_prompt_tokens, self.system_prompt = truncate_prompt_tokens, system_prompt
        self.patience, self._key = patience or Patience(), _key(key_variable)
        self.fill_context, self.rooms = fill_context, {}
        self.counts: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self._clients: list[httpx.AsyncClient] | None = None
        self._free: list[httpx.AsyncClient] = []
        self._context, self._told, self._heard = None, -TELL_S, 0.0

    def __repr__(self) -> str:
        return f"OpenAIPolicy({self.base_url!r}, {self.model!r})"

    async def __aenter__(self) -> OpenAIPolicy:
        """Make ready for the running event loop, which the connections will belong to."""
        self._clients, self._free = [], []
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        clients, self._clients, self._free = self._clients, None, []
        for client in clients:
            await client.aclose()

    @contextmanager
    def _client(self) -> Iterator[httpx.AsyncClient]:
        # A client with one connection for each question at a time: httpx's pool looks at all of its connections at
        # each question, which for 64 of them took 3.5 ms of 4.6.
        if self._clients is None:
            raise RuntimeError("the policy is not open; use `async with policy`, as the runner does")
        if not self._free:
            self._clients.append(self._new())
            self._free.append(self._clients[-1])
        client = self._free.pop()
        try:
            yield client
        finally:
            self._free.append(client)

    def _new(self) -> httpx.AsyncClient:
        headers = {"Accept-Encoding": "identity"}  # the limit in bytes is to hold for what is kept, too
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        trusted = not _on_this_machine(urlsplit(self.base_url).hostname)
        if self._context is None:
            # reads all certificates: once is enough, and never where none is looked at
            self._context = _over_tls(self.base_url) and httpx.create_ssl_context(trust_env=trusted)
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(self.patience.read, connect=self.patience.connect, pool=None),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            verify=self._context,
            trust_env=trusted,
        )

    async def ask(self, turn: Turn) -> str | ContextLimit:
        """One reply. Raises GaveUp for what stays broken, UserError for what would be so for every turn."""
        asked = self.payload(turn)
        answer = await self._until_answered(asked)
        if isinstance(answer, ContextLimit) and self.fill_context:
            answer = await self._fill(turn, asked, answer)
        if isinstance(answer, ContextLimit):
            self.counts["context_limit"] += 1
            return answer
        self.counts.update(answer.counts)
        self.served.update([answer.model] if answer.model else [])
        # vLLM shows the blank that Llama's first token begins with; TGI, which the paper used, and `decode` do not
        return answer.text.removeprefix(" ")

    async def _fill(self, turn: Turn, asked: dict, full: ContextLimit) -> Completion | ContextLimit:
        # One token is asked for first, for its usage: what an error says of the prompt may be a lower bound alone
        # (newer vLLM reads no further than the limit less max_tokens, and says "at least").
        one = await self._until_answered(asked | {"max_tokens": 1})
        if isinstance(one, ContextLimit):
            return one
        prompt = one.counts.get("prompt_tokens", 0)
        if not 0 < prompt < full.limit:
            return ContextLimit(prompt or full.prompt_tokens, full.limit)
        self.rooms[turn.item, turn.number] = full.limit - prompt
        return await self._until_answered(asked | {"max_tokens": full.limit - prompt})

    async def post(self, path: str, payload: dict) -> dict | ContextLimit:
        """The JSON object that `base_url` + `path` answers to `payload`, as patiently as `ask` and with what it
        raises. For what is no conversation: /completions.
        """
        return await self._patiently(path, payload, read_object)

    async def context(self) -> int | None:
        """Tokens that prompt and reply may have together, where the server says so at /models (vLLM: max_model_len)."""
        with self._client() as client:
            try:
                listed = (await client.get(f"{self.base_url}/models")).json()["data"]
                found = next(one.get("max_model_len") for one in listed if one["id"] == self.model)
            except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
                return None
        return found if isinstance(found, int) and found > 0 else None

    async def _until_answered(self, asked: dict) -> Completion | ContextLimit:
        return await self._patiently("/chat/completions", asked, read_completion)

    async def _patiently(self, path: str, payload: dict, read: Callable[..., Any]) -> Any:
        body = json.dumps(payload).encode("ascii")
        patience, begun, there = self.patience, time.monotonic(), False
        for attempt in range(patience.retries + 1):
            try:
                return await self._ask(path, body, read)
            except (Again, httpx.TransportError, TimeoutError) as error:
                there = there or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                reason = self._hidden(str(error) or type(error).__name__)
                wait = min(patience.longest, patience.wait * 2**attempt)
                if isinstance(error, Again) and error.after is not None:
                    wait = min(patience.longest, error.after)
            if attempt < patience.retries:
                self.counts["asked_again"] += 1
                self._tell(f"attempt {attempt + 1} of {patience.retries + 1}: {reason}")
                await asyncio.sleep(wait)
        if not there and self._heard < begun:  # nobody else was answered either
            raise UserError(
                f"{self.base_url} could not be reached for {time.monotonic() - begun:.0f} s ({reason}); every further "
                "turn would wait as long; start the server, or mend its address, and type the same command: what has a "
                "result is not played again"
            )
        raise GaveUp(f"{self.base_url} gave no usable answer in {patience.retries + 1} attempts; the last: {reason}")

    def payload(self, turn: Turn) -> dict:
        """The body of the question."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        asked = {
            "model": self.model,
            "messages": system + [{"role": m["role"], "content": m["content"]} for m in turn.messages],
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": turn.rng(self.seed).getrandbits(31),
            "stream": False,
        }
        if self.truncate_prompt_tokens is not None:
            # newer vLLM: without a side it is the tokenizer's own, for Llama the one that cuts the newest messages off
            asked |= {"truncate_prompt_tokens": self.truncate_prompt_tokens, "truncation_side": "left"}
        if self.temperature > 0:
            # newer vLLM takes what is not said from the model's generation_config.json: Llama-2-chat's has top_p 0.9
            asked["top_p"] = 1.0
        return asked

    async def _ask(self, path: str, body: bytes, read: Callable[..., Any]) -> Any:
        url, headers = f"{self.base_url}{path}", {"Content-Type": "application/json"}
        data = bytearray()
        with self._client() as client:
            async with (
                asyncio.timeout(self.patience.total),
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                self._heard = time.monotonic()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > self.patience.max_bytes:
                        raise GaveUp(f"{self.base_url} sent more than {self.patience.max_bytes} bytes for one reply")
        # a server may tell what it was sent, in an error or as a reply, which is kept
        data = data.replace(self._key.encode(), b"[key]") if self._key else data
        if response.status_code != 200:
            return self._refused(response, bytes(data))
        return read(bytes(data), self._hidden)

    def _refused(self, response: httpx.Response, data: bytes) -> ContextLimit:
        # hidden before it is shortened: half a key would not be found
        code, text = response.status_code, said(self._hidden(data.decode("utf-8", "replace")).encode())
        if (limit := overflow_of(code, data)) is not None:
            return limit
        if code in AGAIN or code >= 500:
            raise Again(f"status {code}: {text}", retry_after(response.headers.get("Retry-After")))
        if code in ENDS_THE_RUN:
            raise UserError(
                f"{self.base_url} answered {code} for model {self.model!r}: {text}; every turn would be answered so "
                f"({ENDS_THE_RUN[code]}); check the URL (it ends in /v1 for most servers), the model's name and the key"
            )
        raise GaveUp(f"{self.base_url} answered {code}: {text}")

    def _tell(self, text: str) -> None:
        # where a server is down every live episode meets it: one line now and then is enough, all are counted
        now = time.monotonic()
        level = logging.WARNING if now - self._told >= TELL_S else logging.DEBUG
        if level == logging.WARNING:
            self._told = now
        log.log(level, "%s, %s", self.base_url, text)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def must_answer(base_url: str) -> None:
    """Raise UserError where nothing listens at `base_url`: a wrong port would else cost minutes of asking again."""
    url = _checked(base_url)
    try:
        trusted = not _on_this_machine(urlsplit(url).hostname)
        httpx.get(f"{url}/models", timeout=10.0, trust_env=trusted, verify=_over_tls(url))
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError(
            f"no server listens at {url} ({error or type(error).__name__}); every turn would be lost; start it and "
            "wait until it answers, or check host and port"
        ) from None
    except httpx.HTTPError:
        pass  # something is there; whether it answers questions is seen when it is asked one


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise UserError(
            f"{base_url!r} is no address of a server; the model could not be asked; write http://HOST:PORT/v1"
        )
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"the address of the server at {parts.hostname} holds a name, a password or a query; they would stand in "
            "logs and records; give the key in an environment variable and name that"
        )
    return base_url.rstrip("/")


def _over_tls(url: str) -> bool:
    return urlsplit(url).scheme == "https"


def _on_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(
            f"the environment variable {variable} is not set, or holds what is no key; the server would refuse every "
            "turn; export it, or name no variable where the server wants no key"
        )
    return key
