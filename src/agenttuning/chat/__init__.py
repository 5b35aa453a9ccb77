"""The only place that turns turns into token ids and labels; training, evaluation and serving all come through here."""

from agenttuning.chat.encode import (
    IGNORE,
    LOSSES,
    Encoded,
    Span,
    decode_reply,
    encode,
    encode_each,
    encode_many,
    encode_prompt,
)
from agenttuning.chat.own_template import template_record
from agenttuning.chat.tokenizer import (
    fingerprint,
    format_of,
    load_for,
    load_tokenizer,
    save_tokenizer,
)
from agenttuning.chat.turns import MaskError, RowError, check_turns
from agenttuning.chat.verify import verify

__all__ = [
    "IGNORE",
    "LOSSES",
    "Encoded",
    "MaskError",
    "RowError",
    "Span",
    "check_turns",
    "decode_reply",
    "encode",
    "encode_each",
    "encode_many",
    "encode_prompt",
    "fingerprint",
    "format_of",
    "load_for",
    "load_tokenizer",
    "save_tokenizer",
    "template_record",
    "verify",
]
