"""The table of words gives the tokenizer's own ids, whatever the text, and steps aside where it would not."""

from __future__ import annotations

import pickle

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.chat import segments
from agenttuning.chat.segments import Segments
from agenttuning.chat.tokenizer import encode_texts
from agenttuning.miniature.tokenizer import build_tokenizer as miniature
from helpers.llama_tokenizer import TEXTS, build_tokenizer

PIECES = ["drawer", " ", "  ", "\n", "▁", "▁▁", "a", "é", "中", "\x00", "\t", "\r\n", "</s>", "<0x0A>", "[INST]"]
TEXT = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
TOKENIZERS = [build_tokenizer(), miniature(TEXTS, 600)]
CODERS = [Segments(tokenizer) for tokenizer in TOKENIZERS]  # kept: their tables grow from example to example


def lists(found):
    tokens, starts = found
    assert tokens.dtype == numpy.int32 and starts.dtype == numpy.int64
    return [tokens[begin:end].tolist() for begin, end in zip(starts, starts[1:], strict=False)]


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXT, max_size=5), st.sampled_from([0, 1]))
def test_ids_are_those_of_the_tokenizer(texts, which):
    assert CODERS[which].words is not None
    assert lists(CODERS[which].encode(texts)) == (encode_texts(TOKENIZERS[which], texts) if texts else [])


def test_a_full_table_changes_nothing(monkeypatch):
    monkeypatch.setattr(segments, "KEPT", 30)
    coder = Segments(TOKENIZERS[0])
    texts = [*TEXTS, "mug pen keys", *TEXTS[::-1]]
    for _ in range(2):
        for text in texts:
            assert lists(coder.encode([text])) == encode_texts(TOKENIZERS[0], [text])
    assert len(coder.tokens) <= 30 and len(coder.numbers) == len(coder.starts) - 1 > 0
    copy = pickle.loads(pickle.dumps(coder))  # noqa: S301 (our own bytes)
    assert lists(copy.encode(texts)) == encode_texts(TOKENIZERS[0], texts)


def test_a_text_that_cannot_be_encoded_leaves_the_table_as_it_was():
    coder = Segments(TOKENIZERS[0])
    coder.encode(["open the drawer"])
    with pytest.raises((TypeError, UnicodeError)):
        coder.encode(["a mug", "and \ud800 pens"])
    assert lists(coder.encode(["two keys", "and a mug"])) == encode_texts(TOKENIZERS[0], ["two keys", "and a mug"])


@pytest.mark.parametrize("piece", ["g▁t", "g\nt"])
def test_a_vocabulary_that_crosses_a_space_or_a_newline_encodes_whole_texts(piece):
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(TOKENIZERS[0].backend_tokenizer.to_str())
    middle = piece[1:]
    vocabulary = state["model"]["vocab"]
    for entry in (piece[1], middle, piece):
        vocabulary.setdefault(entry, len(vocabulary))
    state["model"]["merges"] = [[middle[0], "t"], ["g", middle], *state["model"]["merges"]]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>")
    text = piece.replace("▁", " ")
    assert vocabulary[piece] in encode_texts(tokenizer, [text])[0]  # the merge does cross
    assert lists(Segments(tokenizer).encode([text])) == encode_texts(tokenizer, [text])
