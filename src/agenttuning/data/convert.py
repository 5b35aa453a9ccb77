"""Rows of other people's formats, converted to one shape: {"id", "source", "messages": [{"role", "content", "loss"}]}.

agentinstruct: {"id", "conversations": [{"from": "human|gpt", "value", "loss"}]}, `loss` true, false or null.
    The released data has null on human turns only. A gpt turn with null or no flag counts as not trained: a flag is a
    permission, and a file that has lost its flags must end as rows without supervision, which are quarantined and stop
    the build, instead of training on the one-shot demonstrations.
sharegpt: `conversations` or `items`, turns with "from"/"value" or "role"/"content", human|gpt|system|user|assistant.
    There are no flags, so every assistant turn is trained. An id is optional.
messages: {"messages": [{"role": "system|user|assistant", "content", "loss"?}]}. No flag, or null, means trained.

Whatever a file holds, `convert` returns a row or raises RowError; nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from agenttuning.chat.turns import RowError, check_turns, clean_text
from agenttuning.errors import UserError

FORMATS = ("agentinstruct", "sharegpt", "messages")
_AGENT_ROLES = {"human": "user", "gpt": "assistant"}
_CHAT_ROLES = {**_AGENT_ROLES, "system": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What a reader yields in place of a row it could not read, so that the row is counted and not lost."""

    reason: str


def convert(raw: object, format: str, source: str = "", fallback_id: str | None = None) -> dict:
    """Convert one raw row. `fallback_id` is used where the format has no ids (sharegpt, messages).

    Raises RowError(reason) for a malformed row and UserError for an unknown `format`.
    """
    if format not in FORMATS:
        raise UserError(f"unknown data format {format!r}; no row could be read; use one of {', '.join(FORMATS)}")
    if isinstance(raw, Unreadable):
        raise RowError(raw.reason)
    if not isinstance(raw, dict):
        raise RowError(f"the row is {type(raw).__name__}, not a mapping")
    row_id = _row_id(raw, None if format == "agentinstruct" else fallback_id)
    messages = [_message(turn, message, format) for turn, message in enumerate(_turns(raw, format))]
    for turn, message in enumerate(messages):
        if not message["content"].strip():
            raise RowError(f"turn {turn} ({message['role']}) is empty")
    check_turns(messages)
    return {"id": row_id, "source": source, "messages": messages}


def _row_id(raw: dict, fallback: str | None) -> str:
    row_id = raw.get("id")
    if row_id is None:
        if fallback is None:
            raise RowError("the key `id` is missing")
        return fallback
    if not clean_text(row_id, "the id"):
        raise RowError("the id is empty")
    return row_id


def _turns(raw: dict, format: str) -> list:
    names = {"agentinstruct": ("conversations",), "sharegpt": ("conversations", "items"), "messages": ("messages",)}[
        format
    ]
    found = [raw[name] for name in names if raw.get(name) is not None]
    if not found:
        raise RowError(f"the key `{'` or `'.join(names)}` is missing")
    if not isinstance(found[0], list | tuple):
        raise RowError(f"`{names[0]}` is {type(found[0]).__name__}, not a list of turns")
    return list(found[0])


def _message(turn: int, raw: object, format: str) -> dict:
    if not isinstance(raw, dict):
        raise RowError(f"turn {turn} is {type(raw).__name__}, not a mapping")
    speaker, text = ("role", "content") if format == "messages" else ("from", "value")
    if format == "sharegpt" and raw.get("from") is None:
        speaker, text = "role", "content"
    for key in (speaker, text):
        if raw.get(key) is None:
            raise RowError(f"turn {turn} has no `{key}`")
    roles = _AGENT_ROLES if format == "agentinstruct" else _CHAT_ROLES
    if not isinstance(raw[speaker], str) or raw[speaker] not in roles:
        raise RowError(f"turn {turn} has the unknown role {str(raw[speaker])[:40]!r}")
    role = roles[raw[speaker]]
    content = clean_text(raw[text], f"the text of turn {turn}")
    return {"role": role, "content": content, "loss": role == "assistant" and _flag(turn, raw, format)}


def _flag(turn: int, raw: dict, format: str) -> bool:
    if format == "sharegpt":
        return True
    flag = raw.get("loss")
    if not isinstance(flag, bool | None):
        raise RowError(f"the loss of turn {turn} is {type(flag).__name__}, not true, false or null")
    return format == "messages" if flag is None else flag
