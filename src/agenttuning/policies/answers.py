"""What an OpenAI-compatible server answered, read with distrust: any bytes may come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agenttuning.policies import ContextLimit

SAID_CHARS = 300  # of a server's error that are kept
NAME_CHARS = 100  # of the name that a server gives its model
# How servers say that prompt and reply do not fit: OpenAI's error code, llama.cpp's error type, and the words of OpenAI
# and vLLM, llama.cpp, TGI (a validation error, status 422).
OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size_error|maximum context length|longer than the maximum model length"
    r"|exceeds the available context size|cannot be greater than max_model_len"
    r"|`inputs` (?:tokens \+ `max_new_tokens` )?must (?:be|have)"
)
LIMIT = re.compile(
    r"(?:maximum context length (?:is|of)|available context size \(|`max_new_tokens` must be <=|max_model_len="
    r"(?:max_total_tokens=)?) ?(\d{1,9})"
)
ASKED = re.compile(
    r"\((\d{1,9}) in the messages|resulted in (\d{1,9}) tokens|(?:has|contains|at least) (\d{1,9}) input tokens"
    r"|request \((\d{1,9}) tokens|Given: (\d{1,9}) `inputs`"
)


class Again(Exception):
    """Worth another attempt; `after` is the server's wish in seconds, if it has one."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Completion:
    """A reply, what is to be counted for it, and the name that the server gives the model ("" where it does not)."""

    text: str
    counts: dict[str, int]
    model: str = ""


def read_object(data: bytes, hide: Callable[[str], str] = str) -> dict:
    """A JSON object. Raises Again for bytes that are none, which says what `hide` makes of them."""
    text, _ = _decoded(data)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Again(f"an answer that is no JSON object: {_shortened(hide(text))}")
    return answer


def read_completion(data: bytes, hide: Callable[[str], str] = str) -> Completion:
    """The reply of a chat completion. Raises Again for bytes that are none, which says what `hide` makes of them."""
    if not data.strip():
        raise Again("an empty answer")
    text, broken = _decoded(data)
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        reply = choice["message"]["content"]
    except (ValueError, RecursionError):
        raise Again(f"an answer that is no JSON: {_shortened(hide(text))}") from None
    except (KeyError, IndexError, TypeError):
        raise Again(f"an answer without choices[0].message.content: {_shortened(hide(text))}") from None
    if reply is None:  # a model that ended at once, or spent its tokens on hidden reasoning
        reply = ""
    if not isinstance(reply, str):
        raise Again(f"an answer whose content is no text: {_shortened(hide(text))}")
    cleaned = reply.encode("utf-8", "replace").decode("utf-8")
    usage = answer.get("usage")
    counts = {
        "replies": 1,
        "tokens": _count(usage, "completion_tokens"),
        "prompt_tokens": _count(usage, "prompt_tokens"),
        "unfinished": int(choice.get("finish_reason") == "length"),
        "cleaned": int(broken or cleaned != reply),
    }
    name = answer.get("model")
    shown = _shortened(hide(name))[:NAME_CHARS] if isinstance(name, str) else ""
    shown = "".join(filter(str.isprintable, shown))
    return Completion(cleaned, {name: n for name, n in counts.items() if n}, shown)


def overflow_of(code: int, data: bytes) -> ContextLimit | None:
    """The context limit that an error speaks of, or None: its numbers are 0 where the server does not say them."""
    if code not in (400, 413, 422):
        return None
    text = data[:10_000].decode("utf-8", "replace")
    if not OVERFLOW.search(text):
        return None
    return ContextLimit(_first(ASKED, text), _first(LIMIT, text))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it says nothing useful."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def said(data: bytes) -> str:
    """The message of an error's body, or its beginning."""
    text = data[:10_000].decode("utf-8", "replace")
    try:
        body = json.loads(text)
        message = body["error"]
        message = message["message"] if isinstance(message, dict) else message
    except (ValueError, RecursionError, KeyError, TypeError):
        message = text
    return _shortened(str(message))


def _decoded(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), True


def _shortened(text: str) -> str:
    return " ".join(text[: 4 * SAID_CHARS].split())[:SAID_CHARS].encode("utf-8", "replace").decode("utf-8")


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and 0 <= value < 10**9 else 0


def _first(pattern: re.Pattern, text: str) -> int:
    found = pattern.search(text)
    return int(next((group for group in found.groups() if group), 0)) if found else 0
