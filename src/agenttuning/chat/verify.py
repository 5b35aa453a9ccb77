"""A second opinion on supervised spans, which shares no code with encode.py: it reads the labels, turns the labelled
ids back into bytes and compares them with what the assistant said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agenttuning.chat.template import shape_of
from agenttuning.chat.tokenizer import format_of, piece_bytes
from agenttuning.chat.turns import MaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.chat.encode import Encoded


def verify(encoded: Encoded, messages: list[dict], tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise MaskError unless the labelled ids are exactly the answers that `encoded.loss` selects, each with its
    closing </s>.

    Three directions are told apart: the span is too narrow (part of the answer would not be learned), starts in the
    header (the prompt would be learned), or runs past the turn. With `loss="all"` there is no header to protect:
    everything but `<s>` must be labelled.
    """
    ids, labels = encoded.input_ids, encoded.labels
    if len(ids) != len(labels):
        raise MaskError(
            f"{len(ids)} ids but {len(labels)} labels; every label would be trained against the wrong token"
        )
    runs = labelled_runs(labels)
    own = format_of(tokenizer) == "tokenizer"
    shape = shape_of(tokenizer) if own else None
    seen = [shape.stop if own and (i, la) == (shape.past, shape.stop) else i for i, la in zip(ids, labels, strict=True)]
    for start, end in runs:
        if labels[start:end] != seen[start:end]:
            raise MaskError(
                f"the labels at tokens {start}-{end} are not the ids at those places; other text would be learned"
            )
    if runs != [(span.start, span.end) for span in encoded.spans]:
        raise MaskError(f"the labels cover tokens {runs} but the spans say {encoded.spans}; one of the two is wrong")
    if encoded.loss == "all":
        _verify_all(ids, labels, tokenizer)
        return
    if own:
        ids = seen
    turns = _trained_turns(messages, encoded.loss)
    table = piece_bytes(tokenizer)
    for (start, end), turn in zip(runs, turns, strict=False):
        got = b"".join(map(table.__getitem__, ids[start:end]))
        if own:
            wanted = _wanted(got, messages, turn, tokenizer)
            _compare(got, wanted, turn)
            continue
        # Llama's vocabulary writes a space as "▁", so content with that very character decodes to a space.
        answer = messages[turn]["content"].strip().replace("▁", " ")
        _compare(got, f" {answer} ".encode() + table[tokenizer.eos_token_id], turn)
    if len(runs) < len(turns):
        raise MaskError(
            f"turn {turns[len(runs)]} (assistant) has no supervised tokens; the span is too narrow: none of it is "
            f"learned"
        )
    if len(runs) > len(turns):
        raise MaskError(
            f"tokens {runs[len(turns)]} are supervised but belong to no trained turn; the mask runs past the turns"
        )


def _wanted(got: bytes, messages: list[dict], turn: int, tokenizer: PreTrainedTokenizerFast) -> bytes:
    """What the template may make of an answer: its opening, the words, white space at their ends kept or stripped, its
    closing and the end token; the form that `got` has, or else the plainest."""
    shape, text = shape_of(tokenizer), messages[turn]["content"]
    opening = shape.openings[turn == len(messages) - 1]
    openings = [opening, ""] if "</think>" in text else [opening]
    forms = (text.strip(), text, text.lstrip(), text.rstrip(), text.lstrip("\n"), text.lstrip("\n").rstrip())
    stop = piece_bytes(tokenizer)[shape.stop]
    tail = shape.closings[turn == len(messages) - 1]
    wanted = [(head + form + tail).encode() + stop for head in openings for form in forms]
    return got if got in wanted else wanted[0]


def labelled_runs(labels: list[int]) -> list[tuple[int, int]]:
    """Maximal stretches [start, end) of labels other than -100."""
    import numpy

    on = numpy.concatenate(([False], numpy.asarray(labels, dtype=numpy.int64) != -100, [False]))
    edges = numpy.flatnonzero(on[1:] != on[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _trained_turns(messages: list[dict], loss: str) -> list[int]:
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    if loss == "last":
        return turns[-1:]
    return turns if loss == "assistant" else [turn for turn in turns if messages[turn].get("loss") is True]


def _compare(got: bytes, wanted: bytes, turn: int) -> None:
    if got == wanted:
        return
    seen = got if len(got) <= 200 else got[:100] + b" ... " + got[-100:]
    shown = f"the span decodes to {seen.decode('utf-8', 'replace')!r}"
    if got.startswith(wanted):
        raise MaskError(
            f"turn {turn} (assistant): the span runs past the turn: {shown}; text of the next turn would be learned; "
            f"usually the "
            "end of the turn was taken from a later end token"
        )
    if got.endswith(wanted):
        raise MaskError(
            f"turn {turn} (assistant): the span starts in the header: {shown}, which begins before the answer; header "
            f"tokens would be "
            "learned; usually the prompt was encoded shorter than it is"
        )
    raise MaskError(
        f"turn {turn} (assistant): the span is too narrow or is other text: {shown}, which does not hold the whole "
        f"answer with its "
        "closing space and end token; part of the answer, or when to stop, would not be learned"
    )


def _verify_all(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerFast) -> None:
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        first = place == 0 or format_of(tokenizer) == "llama2"
        if (label == -100) != (first and token == tokenizer.bos_token_id):
            raise MaskError(
                f"loss is 'all' but token {place} (id {token}) has label {label}; all tokens but <s> must be learned"
            )
