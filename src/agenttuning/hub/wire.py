"""How this machine talks to the Hub: with patience, with an end to it, and with nothing secret in what it says.

huggingface_hub asks again by itself (`http_backoff`: five times, for 408, 429, 5xx and broken connections) when it
sends files (preupload, LFS, completion, verification) and when it reads a list in pages. It does not when it makes a
repository, looks at one, commits, tags or fills a collection. `patiently` is for those, and goes around nothing that
asks again by itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from agenttuning import hiding
from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.preflight import endpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
# Seconds. Not stated by the Hub; we chose, because its gateway gives up on a commit after a minute, and because a file
# is sent in pieces of which each has to move. huggingface_hub itself waits for ever.
TIMEOUTS = {"connect": 10.0, "read": 120.0, "write": 60.0}
WAITS = (1, 2, 4, 8, 8)  # seconds before each repeat, as huggingface_hub's http_backoff has them
MOST_WAIT = 310  # seconds: the Hub counts requests in windows of five minutes (hf.co/docs/hub/rate-limits)
AGAIN = (408, 429, 500, 502, 503, 504)  # statuses that pass, as huggingface_hub's http_backoff has them
MOST_CONFLICTS = 10  # answers 409 in one talk; create_repo repeats some of them without a pause and without an end
ANSWERS = {
    401: "the token is not accepted; run `hf auth login` with one that may write",
    402: "the account has no room for it; see its billing settings",
    403: "the token may not write there; use a write token of an account that may write to the owner of the repository",
    404: "there is no such place; check its owner in `publish`, and that the token may see it",
    409: "somebody else changed it at the same time; run it again",
    412: "somebody else changed it at the same time; run it again",
    413: "it is more than the Hub takes at once",
    429: "the Hub asks for fewer requests; wait some minutes and run it again",
}
TROUBLE = "the Hub has trouble; run it again later"


class _NoEnd(Exception):
    """The Hub asks for more patience than anybody has; the text says for how much."""


@contextmanager
def talk(what: str, after: str = "") -> Iterator[HfApi]:
    """The Hub of HF_ENDPOINT with the user's token. `what` begins the message of a failure ("o/n was not pushed"),
    `after` ends it. Time-outs, and the token for this host alone, hold for every request of the process meanwhile.

    Raises UserError when there is no token, and for each failure of Hub or network; a bug of ours keeps its traceback.
    """
    from huggingface_hub import HfApi, get_token

    host, token = endpoint(), get_token()
    if token is None:
        raise UserError(
            f"{what}: no Hub token was found (HF_TOKEN or `hf auth login`), and nothing was sent to {host}; log in "
            "with a token that may write there"
        )
    hiding.in_logs()
    with _client(host):
        try:
            yield HfApi(endpoint=host, token=token)
        except UserError:
            raise
        except Exception as error:
            # The client lets its HTTP library's exceptions through, wraps some, and that library changes between
            # releases. Their texts hold signed addresses and what a server echoes: they are not chained.
            reason = _reason(error, token)
            if reason is None:
                raise
            raise UserError(f"{what} to {host}: {reason}.{after and ' '}{after}") from None


def patiently(ask: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
    """What `ask` returns, asked again while the trouble is one that passes: WAITS long, or as long as the Hub says.

    `done` is called before each repeat: what it returns, other than None, is the answer, for work that was done though
    its answer got lost.
    """
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if not passes(error):
                raise
            time.sleep(_asked_for(error) or wait)
        if (answer := done()) is not None:
            return answer
    return ask()


def passes(error: BaseException) -> bool:
    """Whether the same question may be answered a little later."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in AGAIN
    if any(isinstance(one, socket.gaierror) for one in _causes(error)):
        return False  # a name that is not known: mistyped, or no network; neither mends itself in seconds
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if _of_http_library(error):
        return bool(kinds & {"TimeoutException", "NetworkError", "RemoteProtocolError"})
    return "JSONDecodeError" in kinds  # a proxy's page of HTML in place of the answer


def status_of(error: BaseException) -> int | None:
    """The status of an answer that is an error; None when there was no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _asked_for(error: BaseException) -> float | None:
    """Seconds that the Hub asks to wait: RateLimit (when nothing remains) or Retry-After, and one for the rounding."""
    response = getattr(error, "response", None)
    return None if response is None else _hint(response)


def _hint(response) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    after = response.headers.get("Retry-After", "").strip()
    return int(after) + 1.0 if after.isdecimal() else None


@contextmanager
def _client(host: str) -> Iterator[None]:
    """huggingface_hub's own HTTP client, with time-outs, bounded patience, and a token that stays with `host`."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    before = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    conflicts = 0

    def bounded(request) -> None:
        own = {key: value for key, value in request.extensions.get("timeout", {}).items() if value is not None}
        request.extensions["timeout"] = TIMEOUTS | own
        # Stores and redirects are other hosts. The client sends them no token now; a later one shall not either.
        if _origin(f"{request.url}") != _origin(host):
            request.headers.pop("authorization", None)

    def has_an_end(response) -> None:
        nonlocal conflicts
        wait = _hint(response) or 0
        if response.status_code in AGAIN and wait > MOST_WAIT:
            raise _NoEnd(f"it asks to wait {wait:.0f} s; run it again after that")
        conflicts += response.status_code == 409
        if conflicts > MOST_CONFLICTS:
            raise _NoEnd("it is busy with another change of the same account; run it again in some minutes")

    def made():
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], bounded],
            "response": [*hooks["response"], has_an_end],
        }
        return client

    set_client_factory(made)
    try:
        yield
    finally:
        set_client_factory(before)


def _origin(address: str) -> tuple[str, str | None, int]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"https": 443}.get(parts.scheme, 80)


def _reason(error: BaseException, token: str) -> str | None:
    """What went wrong, without the addresses (they can be signed) and without the token; None for a bug of ours."""
    from huggingface_hub.errors import HfHubHTTPError

    def said(text: str | None, most: int) -> str:
        return escape(" ".join((text or "").replace(token, "***").split()))[:most]

    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, _NoEnd):
            return str(one)
        if isinstance(one, HfHubHTTPError):
            status, words = one.response.status_code, said(one.server_message, 200)
            meaning = ANSWERS.get(status, TROUBLE if status >= 500 else "it does not say more")
            return f"it answers {status}{f' ({words})' if words else ''}: {meaning}"
        if isinstance(one, socket.gaierror):
            return "its name is not known; check the network and HF_ENDPOINT"
    for one in chain:
        if _of_http_library(one):
            return f"the connection failed ({type(one).__name__}); check the network and run it again"
        if isinstance(one, OSError):
            return f"{one.strerror or type(one).__name__}; run it again once that is mended"
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub refuses the card's header: {said(str(error), 300)}"
    if isinstance(error, ValueError) and str(error).startswith("LFS batch API returned errors"):
        return f"the Hub does not take a file: {said(str(error), 300)}"
    if isinstance(error, ValueError):
        return f"it gave an answer that is none of a Hub ({type(error).__name__}); check HF_ENDPOINT and run it again"
    if isinstance(error, RuntimeError):  # hf_xet's, whose text can hold addresses
        return f"the upload of a file failed ({type(error).__name__}); run it again"
    return None


def _of_http_library(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
