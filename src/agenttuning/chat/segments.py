"""Token ids of many texts at a multiple of the tokenizer's own speed, and the same ids: each different word once.

A byte-pair encoder without a pre-tokenizer, as Llama-2's, merges neighbouring symbols over a whole text. Where no entry
of the vocabulary holds a space behind another character, no merge ever crosses the place before a space; where none
holds a newline, none crosses a newline. What lies between two such places is encoded alike alone and in its text, so
that a table of the words met before replaces most of the work. A tokenizer for which this does not hold encodes whole
texts, as `encode_texts` does.
"""

from __future__ import annotations

import json
import os
import re
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy

from agenttuning.chat.tokenizer import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE = "▁"
WORD = re.compile(r"\n| +[^ \n]*|[^ \n]+")
KEPT = 1 << 21  # tokens of the words kept, about 100 MB with the words; words met later are encoded each time
LLAMA2 = [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]


class _Numbers(dict):
    """Word -> number; a word that is not there gets the next one."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class Segments:
    """The encoder of one tokenizer with its table of words, which a fork takes along."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.words = _encoder_of_words(tokenizer)
        self.process = os.getpid()
        self.numbers = _Numbers()
        self.tokens, self.starts = numpy.zeros(0, dtype=numpy.int32), numpy.zeros(1, dtype=numpy.int64)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "words": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, process=None)  # it may be a forked one
        self.words = _encoder_of_words(self.tokenizer)  # a pickled one would take "</s>" in a text for the end token

    def encode(self, texts: list[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """(tokens, starts): the ids that `encode_texts` gives, int32, all texts one behind the other, and where each
        text begins, int64, with the end of the last.
        """
        if self.words is None or not texts:
            return _flat(encode_texts(self.tokenizer, texts) if texts else [])
        split = [WORD.findall(f" {text.replace(SPACE, ' ')}") if text else [] for text in texts]
        counts = numpy.fromiter(map(len, split), dtype=numpy.int64, count=len(split))
        known = len(self.numbers)
        numbers = map(self.numbers.__getitem__, chain.from_iterable(split))
        places = numpy.fromiter(numbers, dtype=numpy.int64, count=int(counts.sum()))
        tokens, starts = self._table(known)
        lengths = numpy.diff(starts)[places]
        behind = numpy.concatenate([[0], numpy.cumsum(lengths)])
        ids = tokens[numpy.arange(behind[-1]) + numpy.repeat(starts[places] - behind[:-1], lengths)]
        return ids, behind[numpy.concatenate([[0], numpy.cumsum(counts)])]

    def _table(self, known: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The ids of all numbered words, of which the first `known` are in the table. It grows while there is room."""
        fresh = list(islice(reversed(self.numbers), len(self.numbers) - known))[::-1]
        if not fresh:
            return self.tokens, self.starts
        kept = False
        try:
            more, starts = _flat(self._ids(fresh))
            tokens = numpy.concatenate([self.tokens, more])
            starts = numpy.concatenate([self.starts, starts[1:] + len(self.tokens)])
            if kept := len(tokens) <= KEPT:
                self.tokens, self.starts = tokens, starts
            return tokens, starts
        finally:
            if not kept:  # no room, or an error: numbers without tokens would stand for other words later
                for _ in fresh:
                    self.numbers.popitem()

    def _ids(self, words: list[str]) -> list[list[int]]:
        if os.getpid() == self.process:
            found = self.words.encode_batch_fast(words, add_special_tokens=False)
        else:  # the library's threads do not survive a fork, and a batch would wait for them for ever
            found = [self.words.encode(word, add_special_tokens=False) for word in words]
        return [one.ids for one in found]


def _flat(lists: list[list[int]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    starts = numpy.zeros(len(lists) + 1, dtype=numpy.int64)
    numpy.cumsum(numpy.fromiter(map(len, lists), dtype=numpy.int64, count=len(lists)), out=starts[1:])
    return numpy.fromiter(chain.from_iterable(lists), dtype=numpy.int32, count=int(starts[-1])), starts


def _encoder_of_words(tokenizer: PreTrainedTokenizerFast):
    """A `tokenizers.Tokenizer` that adds no space in front, or None where words cannot be encoded one by one."""
    from tokenizers import Tokenizer, normalizers

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = state["model"], state["normalizer"] or {}
    vocabulary = model.get("vocab") or {}
    plain = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model.get("merges", [])]
    apart = (
        model["type"] == "BPE"
        and normalizer.get("normalizers") == LLAMA2
        and state["pre_tokenizer"] is None
        and all((model.get(key) or unset) == unset for key, unset in plain.items())
        and all(token["special"] for token in state["added_tokens"])  # others are cut out of the text first
        and model.get("byte_fallback")
        and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))  # so that no unknowns are fused
        and not any("\n" in piece or re.search(f"[^{SPACE}]{SPACE}", piece) for piece in vocabulary)
        and not any("<0x0A>" in part for pair in pairs for part in (*pair, "".join(pair)))
    )
    if not apart:
        return None
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words.no_padding()
    words.no_truncation()
    words.encode_special_tokens = True
    words.normalizer = normalizers.Replace(" ", SPACE)
    return words
