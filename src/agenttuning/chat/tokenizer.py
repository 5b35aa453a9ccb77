"""Loading, saving and reading a tokenizer so that training, evaluation and serving agree about every token.

Two traps of transformers 5 shape this file. AutoTokenizer rebuilds a Llama tokenizer and drops the normalizer that
tokenizer.json states, which changes one id per turn ("[INST]" without its leading space piece); PreTrainedTokenizerFast
uses the file as it is. And literal "</s>" inside content becomes a real end token unless special tokens are told to
stay text.
"""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat import sentencepiece, words
from agenttuning.chat.llama2 import TEMPLATE
from agenttuning.errors import UserError
from agenttuning.hiding import first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from agenttuning.recipe import Recipe

FORMATS = ("llama2", "tokenizer")
CONTROL = ("<s>", "</s>", "<unk>")
# Llama-2's own ids of the pieces of "[INST]", compared whenever the vocabulary is Llama-2's.
LLAMA2_VOCABULARY, LLAMA2_INST = 32000, {"▁[": 518, "INST": 25580, "]": 29962}

_backends: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_words: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_tables: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def load_tokenizer(
    path: str | Path, revision: str | None = None, chat_format: str | None = None
) -> PreTrainedTokenizerFast:
    """Load tokenizer.json exactly as it is written, from a folder or a Hub id; of a folder without one Llama's
    tokenizer.model, which gives the same ids (sentencepiece.py). `chat_format` is the recipe's; None means the one that
    `save_tokenizer` noted, or llama2. In format `tokenizer` the end token becomes the template's.

    In format llama2 padding is `<unk>` (id 0) and never `</s>`: collators that mask padding would mask the real end
    token, and an added `<pad>` would make 32,001 embedding rows. Raises UserError if nothing loads, if the tokenizer
    does not encode the Llama-2 format, or if its own template cannot be followed.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        if (Path(path) / sentencepiece.FILE).is_file() and not (Path(path) / "tokenizer.json").is_file():
            tokenizer = sentencepiece.load(path)
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        asked = "" if Path(path).exists() else " (no folder here, so the Hub was asked, if it could be reached)"
        raise UserError(
            f"no tokenizer could be loaded from {path}{asked}: {first_line(error)}; "
            "without it nothing can be encoded; give a folder with tokenizer.json or Llama's tokenizer.model, or a "
            "Hub id with tokenizer.json (gated models need `hf auth login`)"
        ) from error
    tokenizer.init_kwargs["chat_format"] = chat_format or format_of(tokenizer)
    if format_of(tokenizer) not in FORMATS:
        raise UserError(
            f"the tokenizer of {path} notes the chat format {format_of(tokenizer)!r}; nobody knows how it was trained; "
            f"known are {', '.join(FORMATS)}: give one as mixture.chat_format"
        )
    if format_of(tokenizer) == "tokenizer":
        from agenttuning.chat.own_template import prepare

        prepare(tokenizer, path)
        return tokenizer
    tokenizer.pad_token = tokenizer.unk_token
    check_tokenizer(tokenizer)
    return tokenizer


def load_for(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer of a recipe's model, in the recipe's chat format. Raises what `load_tokenizer` raises, and a
    UserError where the model's template has no place for the recipe's system prompt.
    """
    name, system = recipe.values["model_name_or_path"], recipe.mixture.system_prompt
    tokenizer = load_tokenizer(name, recipe.values.get("model_revision"), recipe.mixture.chat_format)
    if format_of(tokenizer) == "tokenizer" and system is not None:
        from agenttuning.chat.own_template import check_system

        check_system(tokenizer, system, name)
    return tokenizer


def format_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """The chat format that a tokenizer was loaded for: llama2 or tokenizer."""
    return tokenizer.init_kwargs.get("chat_format", "llama2")


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of everything about a tokenizer that the ids of a conversation depend on: tokenizer.json, the ids that
    start and end, and in format `tokenizer` the template and the words it is rendered with.
    """
    state: list = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    if format_of(tokenizer) == "tokenizer":
        state += [tokenizer.chat_template, {name: str(text) for name, text in tokenizer.special_tokens_map.items()}]
    text = tokenizer.backend_tokenizer.to_str() + json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | Path) -> None:
    """Save with the official chat template (no generation tags, which plain jinja engines reject), in format
    `tokenizer` with the one it came with, and a class name under which both AutoTokenizer and PreTrainedTokenizerFast
    read tokenizer.json unchanged.
    """
    directory = Path(directory)
    before = tokenizer.chat_template
    if format_of(tokenizer) == "llama2":
        tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    try:
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.chat_template = before
    config_file = directory / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["chat_format"] = format_of(tokenizer)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("auto_map", None)  # names Python in the repository that it came from
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
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        if format_of(tokenizer) == "tokenizer":
            state["added_tokens"] = []  # template.py cuts them out; whatever is left is text
        backend = Tokenizer.from_str(json.dumps(state))
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        _backends[tokenizer] = backend
    return _backends[tokenizer]


def _byte_letters() -> dict[str, int]:
    # GPT-2's alphabet of byte-level BPE: printable Latin-1 stands for itself, the other bytes follow from U+0100 on
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def piece_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """The bytes each id stands for, indexed by id: "▁" is a space, "<0x0A>" a byte. Joining them needs no decoder, so
    no leading space is stripped and a byte-fallback character cut in two stays visible.
    """
    if tokenizer not in _tables:
        vocabulary = tokenizer.get_vocab()
        table = [b""] * (max(vocabulary.values()) + 1)
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        added = {token["content"] for token in state["added_tokens"]}
        letters = _byte_letters() if '"ByteLevel"' in json.dumps(state["decoder"]) else None
        for piece, index in vocabulary.items():
            if piece in added or letters:
                plain = piece in added or not set(piece) <= set(letters)
                table[index] = piece.encode("utf-8") if plain else bytes(map(letters.__getitem__, piece))
                continue
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
            table[index] = bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode("utf-8")
        _tables[tokenizer] = table
    return _tables[tokenizer]
