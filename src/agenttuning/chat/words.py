"""Llama's BPE word by word, with the words remembered: the ids of tokenizers' own encoding, and sooner.

Llama's tokenizer does not cut text into words, it merges over the whole of it. Yet no piece of its vocabulary goes on
from another character into "▁" (its space), so no merge ever crosses the end of a word, and what stands before does not
change what comes behind: the ids of a text are those of its words, one behind the other. `of` looks whether that holds
for a tokenizer, and gives None where it does not; tests/unit/test_words.py compares both ways.
"""

from __future__ import annotations

import json
import re
from itertools import chain

from tokenizers import Tokenizer

SPACE = "▁"
LONGEST, MOST = 64, 400_000  # characters of a word that is remembered, and how many words (about 100 MB)
_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
_NORMALIZERS = [
    {"type": "Prepend", "prepend": SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
]


class Words:
    """An encoder for one tokenizer, made by `of`."""

    def __init__(self, backend: Tokenizer):
        self._known = _Known(backend)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none added; control strings in it stay text."""
        if not text:
            return []
        words = _WORD.findall(SPACE + text.replace(" ", SPACE))
        return list(chain.from_iterable(map(self._known.__getitem__, words)))


class _Known(dict):
    def __init__(self, backend: Tokenizer):
        super().__init__()
        self._encode = backend.encode

    def __missing__(self, word: str) -> list[int]:
        ids = self._encode(word, add_special_tokens=False).ids
        if len(word) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[word] = ids
        return ids


def of(backend: Tokenizer) -> Words | None:
    """The word-wise encoder of `backend`, or None where its text does not fall into words this way."""
    content = json.loads(backend.to_str())
    model = content["model"]
    vocabulary = model.get("vocab") or {}
    falls_into_words = (
        model.get("type") == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and model.get("byte_fallback")
        and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))  # so that no two unknown words become one
        and (content.get("normalizer") or {}).get("normalizers") == _NORMALIZERS
        and content.get("pre_tokenizer") is None
        and all(token["special"] for token in content.get("added_tokens") or [])
        and SPACE in vocabulary
        and not any(SPACE in piece.lstrip(SPACE) for piece in vocabulary)
    )
    if not falls_into_words:
        return None
    content["normalizer"] = None  # `encode` has done it
    words = Tokenizer.from_str(json.dumps(content))
    words.no_padding()
    words.no_truncation()
    words.encode_special_tokens = True
    return Words(words)
