"""Loading, saving and reading a Llama-2 tokenizer so that training, evaluation and serving agree about every token.

Two traps of transformers 5 shape this file. AutoTokenizer rebuilds a Llama tokenizer and drops the normalizer that
tokenizer.json states, which changes one id per turn ("[INST]" without its leading space piece); PreTrainedTokenizerFast
uses the file as it is. And literal "</s>" inside content becomes a real end token unless special tokens are told to
stay text.
"""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import words
from agenttuning.chat.llama2 import TEMPLATE
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

CONTROL = ("<s>", "</s>", "<unk>")
# Llama-2's own ids of the pieces of "[INST]", compared whenever the vocabulary is Llama-2's.
LLAMA2_VOCABULARY, LLAMA2_INST = 32000, {"▁[": 518, "INST": 25580, "]": 29962}

_backends: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_words: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_tables: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load tokenizer.json exactly as it is written, from a folder or a Hub id, with `<unk>` as padding.

    Padding is `<unk>` (id 0) and never `</s>`: collators that mask padding would mask the real end token, and an added
    `<pad>` would make 32,001 embedding rows. Raises UserError if nothing loads or the tokenizer does not encode the
    Llama-2 format.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"no tokenizer could be loaded from {path}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; "
            "without it nothing can be encoded; give a folder or Hub id that holds tokenizer.json (gated models need "
            "`hf auth login`)"
        ) from error
    tokenizer.pad_token = tokenizer.unk_token
    check_tokenizer(tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | Path) -> None:
    """Save with the official chat template (no generation tags, which plain jinja engines reject) and a class name
    under which both AutoTokenizer and PreTrainedTokenizerFast read tokenizer.json unchanged.
    """
    directory = Path(directory)
    before, tokenizer.chat_template = tokenizer.chat_template, TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    try:
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.chat_template = before
    config_file = directory / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise UserError unless the tokenizer has <s>, </s>, <unk>, keeps control strings as text, and starts "[INST]"
    with its space piece (the ids are compared with Llama-2's own when the vocabulary is Llama-2's).
    """
    for name in ("bos_token_id", "eos_token_id", "unk_token_id"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"the tokenizer has no {name}; the Llama-2 format cannot be built; use a Llama-2 tokenizer")
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    for literal in CONTROL:
        if special & set(encode_texts(tokenizer, [f"a {literal} b"])[0]):
            raise UserError(
                f"the text {literal!r} encodes to a control token; content could end a turn; check tokenizer.json"
            )
    ids = encode_texts(tokenizer, ["[INST]"])[0]
    vocabulary = tokenizer.get_vocab()
    wanted = [vocabulary.get(piece) for piece in LLAMA2_INST]
    is_llama2 = len(vocabulary) == LLAMA2_VOCABULARY and wanted == list(LLAMA2_INST.values())
    if not ids or piece_bytes(tokenizer)[ids[0]][:1] != b" " or (is_llama2 and ids != wanted):
        raise UserError(
            f"'[INST]' encodes to {ids} without its leading space piece; every turn would be trained on a header that "
            f"Llama-2 "
            "never saw; load the tokenizer with chat.load_tokenizer, which uses tokenizer.json as it is"
        )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Encode texts to ids in one call: none added, no special token recognised, no padding or truncation."""
    if tokenizer not in _words:
        _words[tokenizer] = words.of(tokenizer.backend_tokenizer)
    by_words = _words[tokenizer]
    if by_words is not None:
        return [by_words.encode(text) for text in texts]
    return [encoding.ids for encoding in _backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    # A private copy: the padding, truncation and special-token switches of the shared one change under any other
    # caller.
    from tokenizers import Tokenizer

    if tokenizer not in _backends:
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        _backends[tokenizer] = backend
    return _backends[tokenizer]


def piece_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """The bytes each id stands for, indexed by id: "▁" is a space, "<0x0A>" a byte. Joining them needs no decoder, so
    no leading space is stripped and a byte-fallback character cut in two stays visible.
    """
    if tokenizer not in _tables:
        vocabulary = tokenizer.get_vocab()
        table = [b""] * (max(vocabulary.values()) + 1)
        for piece, index in vocabulary.items():
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
            table[index] = bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode("utf-8")
        _tables[tokenizer] = table
    return _tables[tokenizer]
