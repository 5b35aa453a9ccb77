"""Llama's tokenizer.model as a tokenizer, for folders that hold no tokenizer.json (AgentLM's may be such).

The file is a protocol buffer of SentencePiece (sentencepiece_model.proto). What is needed of it, pieces with scores
and a few settings, is read here without that library; the tokenizer made of it is what transformers' converter wrote
into Llama-2's tokenizer.json: BPE with byte fallback, "▁" put in front, spaces to "▁". The other reading of
transformers 5 ("legacy" false) would encode "[INST]" otherwise (tokenizer.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = "tokenizer.model"
# Kinds of pieces and the settings below: numbers of sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BPE = 2
MODEL_TYPE, BYTE_FALLBACK = 3, 35  # of the trainer's settings
CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 2, 3, 4, 5  # of the normalizer's
FIRST = ["<unk>", "<s>", "</s>"]


def load(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder's tokenizer.model. Raises UserError for a file that is no SentencePiece model, or one
    whose settings are not Llama's: its ids would be others.
    """
    path = Path(folder) / FILE
    try:
        pieces, trainer, normalizer = _read(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(
            f"{path} is no SentencePiece model that can be read ({error}); nothing could be encoded; put the "
            "tokenizer.json of the model's base beside it"
        ) from error
    odd = _unlike_llama(pieces, trainer, normalizer)
    odd += ["added_tokens.json names further tokens"] if (path.parent / "added_tokens.json").exists() else []
    if odd:
        raise UserError(
            f"{path} is not made as Llama's ({'; '.join(odd)}); its ids would be guessed; put a tokenizer.json "
            "beside it"
        )
    return _build(pieces)


def _unlike_llama(pieces: list[tuple[str, float, int]], trainer: dict, normalizer: dict) -> list[str]:
    odd = []
    if trainer.get(MODEL_TYPE, 1) != BPE or not trainer.get(BYTE_FALLBACK, 0):
        odd.append("it is no BPE with byte fallback")
    if normalizer.get(CHARSMAP) or normalizer.get(REMOVE_SPACES, 1):
        odd.append("it changes the text before it cuts it")
    if not normalizer.get(DUMMY_PREFIX, 1) or not normalizer.get(ESCAPE_SPACES, 1):
        odd.append("it puts no ▁ in front")
    if [piece for piece, _, _ in pieces[:3]] != FIRST or any(kind in (UNKNOWN, CONTROL) for _, _, kind in pieces[3:]):
        odd.append(f"its control pieces are not {', '.join(FIRST)}")
    if sum(kind == BYTE for _, _, kind in pieces) != 256 or any(
        kind not in (NORMAL, BYTE) for _, _, kind in pieces[3:]
    ):
        odd.append("it has pieces of other kinds")
    return odd


def _build(pieces: list[tuple[str, float, int]]) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    model = models.BPE(vocabulary, _merges(pieces, vocabulary), unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in FIRST])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _merges(pieces: list[tuple[str, float, int]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every cut of a piece into two others, the piece of the highest score first: what SentencePiece joins first."""
    ordinary = {piece: vocabulary[piece] for piece, _, kind in pieces if kind == NORMAL}
    found = []
    for piece, score, kind in pieces:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))] if kind == NORMAL else []
        cuts = [cut for cut in cuts if cut[0] in ordinary and cut[1] in ordinary]
        found += [(-score, cut) for cut in sorted(cuts, key=lambda cut: (ordinary[cut[0]], ordinary[cut[1]]))]
    return [cut for _, cut in sorted(found, key=lambda one: one[0])]


def _read(content: bytes) -> tuple[list[tuple[str, float, int]], dict, dict]:
    """(piece, score, kind) by id, and the settings of trainer and normalizer by their field's number."""
    pieces, settings = [], {2: {}, 3: {}}
    for number, value in _fields(content):
        if number == 1:
            one = dict(_fields(value))
            (score,) = struct.unpack("<f", one.get(2, bytes(4)))
            pieces.append((one[1].decode("utf-8"), score, one.get(3, NORMAL)))
        elif number in settings:
            settings[number] = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces, settings[2], settings[3]


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protocol buffer's message: an int where it is a varint, else its bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(content, at)
        elif wire in (1, 2, 5):
            length, at = _varint(content, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = content[at : at + length], at + length
            if len(value) != length:
                raise ValueError("it ends in the middle of a field")
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        yield key >> 3, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
