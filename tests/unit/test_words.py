"""Word by word and in one go give the same ids; a tokenizer of which that is not sure is not encoded word by word."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from agenttuning.chat import words
from agenttuning.chat.tokenizer import encode_texts
from agenttuning.miniature.tokenizer import build_tokenizer as build_miniature
from helpers.llama_tokenizer import build_tokenizer

PLAIN = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(st.sampled_from([" ", "▁", "  ", "\n", "a", "th", "e", "</s>", "[INST]", "é", "日本", "🙂"]) | PLAIN)


def whole(backend: Tokenizer, text: str) -> list[int]:
    """The ids as the library makes them, control strings as text."""
    backend = Tokenizer.from_str(backend.to_str())
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def backends():
    """A vocabulary by hand with runs of spaces, and one of 4,000 learned pieces."""
    rng = random.Random(0)
    syllables = ["th", "er", "on", "an", "re", "he", "in", "ed", "nd", "ha", "at", "en", "es", "of", "or", "nt", "ea"]
    texts = [" ".join("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(50)) for _ in range(200)]
    return [build_tokenizer().backend_tokenizer, build_miniature(texts, 4000).backend_tokenizer]


@settings(max_examples=400, deadline=None)
@given(parts=TEXT)
def test_the_ids_are_those_of_the_whole_text(backends, parts):
    text = "".join(parts)
    for backend in backends:
        assert words.of(backend).encode(text) == whole(backend, text)


def test_words_that_come_again_and_words_too_many_to_remember(backends, monkeypatch):
    monkeypatch.setattr(words, "MOST", 3)
    monkeypatch.setattr(words, "LONGEST", 4)
    by_words = words.of(backends[0])
    for text in ("one two  three one two four five six one two three", "x" * 3000, "a b c d e f g a b c", " ", ""):
        assert by_words.encode(text) == whole(backends[0], text)
    assert 0 < len(by_words._known) <= 3 and all(len(word) <= 4 for word in by_words._known)


def test_the_result_is_the_callers_own(backends):
    by_words = words.of(backends[0])
    first = by_words.encode("same")
    first.append(-1)
    assert by_words.encode("same") == first[:-1]


def changed(backend, change):
    content = json.loads(backend.to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


def crossing_piece(content):
    model = content["model"]
    vocabulary = model["vocab"]
    vocabulary["e▁"] = len(vocabulary)
    model["merges"] = [["e", "▁"], *model["merges"]]


def lost_byte(content):
    content["model"]["vocab"]["not a byte"] = content["model"]["vocab"].pop("<0x80>")


CHANGES = {
    "a piece that goes on into a space": crossing_piece,
    "a byte that is missing": lost_byte,
    "no byte fallback": lambda content: content["model"].update(byte_fallback=False),
    "dropout": lambda content: content["model"].update(dropout=0.1),
    "no leading space": lambda content: content["normalizer"]["normalizers"].pop(0),
    "no normalizer": lambda content: content.update(normalizer=None),
    "words of its own": lambda content: content.update(
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    ),
    "another kind of model": lambda content: content.update(
        model={"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "<unk>"}
    ),
    "a token that is cut out of text": lambda content: content["added_tokens"].append(
        {**content["added_tokens"][0], "content": "the", "special": False, "id": content["model"]["vocab"]["t"]}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_where_it_is_not_sure_there_is_no_word_wise_encoder(backends, change):
    assert words.of(backends[0]) is not None
    assert words.of(changed(backends[0], change)) is None


def test_without_it_the_library_encodes(backends, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    content = changed(backends[0], crossing_piece)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=content, unk_token="<unk>")
    text = "the one e e </s>"
    assert encode_texts(tokenizer, [text]) == [whole(content, text)]
    assert tokenizer.convert_tokens_to_ids("e▁") in encode_texts(tokenizer, [text])[0], "the trap was not laid"
