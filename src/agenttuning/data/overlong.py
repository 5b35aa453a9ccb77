"""Conversations longer than max_length tokens: dropped, cut at the end, or split between exchanges; never silently.

drop           the conversation is left out
truncate_end   the first max_length tokens are kept, cutting inside a turn if it falls there
split_at_turn  the conversation becomes several, cut only between exchanges. Each fragment begins with the system turn.
               A trajectory that opens with untrained exchanges (instruction, acknowledgement, demonstration) repeats
               those and the first trained one, whose user turn states the task, as untrained context in each later
               fragment: no action loses its task, and none is trained twice. What cannot fit is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agenttuning.chat import Encoded, Span, encode, encode_many

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

POLICIES = ("drop", "truncate_end", "split_at_turn")
PLAIN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": True}]


def fit(
    encoded: Encoded,
    messages: list[dict],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    policy: str,
    system_prompt: str | None = None,
) -> list[tuple[Encoded, list[dict]]]:
    """Return what is left of a conversation under `policy`: pieces of at most `max_length` tokens, each with the
    messages it was made from. Pieces without a supervised token are left out; the caller counts what was lost.
    """
    if len(encoded.input_ids) <= max_length:
        pieces = [(encoded, messages)]
    elif policy == "truncate_end":
        pieces = [(_truncate(encoded, max_length), messages)]
    elif policy == "split_at_turn":
        pieces = _split(encoded, messages, tokenizer, max_length, system_prompt)
    else:
        pieces = []
    return [piece for piece in pieces if piece[0].spans and len(piece[0].input_ids) <= max_length]


def supervised(encoded: Encoded) -> int:
    """Number of labelled tokens."""
    return sum(span.end - span.start for span in encoded.spans)


def _truncate(encoded: Encoded, max_length: int) -> Encoded:
    spans = [Span(s.start, min(s.end, max_length), s.turn) for s in encoded.spans if s.start < max_length]
    return Encoded(encoded.input_ids[:max_length], encoded.labels[:max_length], spans, encoded.loss)


def _split(
    encoded: Encoded,
    messages: list[dict],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    system_prompt: str | None,
) -> list[tuple[Encoded, list[dict]]]:
    first = 1 if messages[0]["role"] == "system" else 0
    system = messages[0]["content"] if first else system_prompt
    trained = {span.turn for span in encoded.spans}
    exchanges = [
        (messages[turn], {**messages[turn + 1], "loss": turn + 1 in trained}) for turn in range(first, len(messages), 2)
    ]
    lengths = [len(part.input_ids) for part in encode_many([list(pair) for pair in exchanges], tokenizer)]
    one, two = (len(encode(PLAIN * times, tokenizer).input_ids) for times in (1, 2))
    once = 2 * one - two  # what a template writes once a conversation: each of `lengths` holds it
    lengths = [length - once for length in lengths]
    system_length = len(encode(_flat(system, exchanges[:1]), tokenizer).input_ids) - lengths[0]
    # Which turns to train was decided on the whole conversation; only `all` has no turns to choose.
    rule, opening = ("all", 0) if encoded.loss == "all" else ("flags", _opening(messages[first + 1 :: 2]))
    context = [(user, {**answer, "loss": False}) for user, answer in exchanges[:opening]]
    groups = _groups(lengths, opening, max_length - system_length)
    pieces = []
    for number, group in enumerate(groups):
        turns = _flat(system, [*(context if number else []), *(exchanges[index] for index in group)])
        pieces.append((encode(turns, tokenizer, rule), turns))
    return pieces


def _opening(answers: list[dict]) -> int:
    """Number of exchanges that every fragment needs: the untrained ones at the start and the first trained one, or 0 if
    the first is trained already. It follows the row's own flags under any `loss`."""
    first = next((index for index, answer in enumerate(answers) if answer.get("loss") is True), 0)
    return first + 1 if first else 0


def _groups(lengths: list[int], opening: int, limit: int) -> list[list[int]]:
    """Consecutive exchanges per fragment; each fragment but the first also has room for the first `opening` ones."""
    free = limit - sum(lengths[:opening])
    if free < 0:
        return []  # without its task, no action of this trajectory can be learned
    groups = [list(range(opening))] if opening else []
    room = free if opening else -1
    for index in range(opening, len(lengths)):
        if lengths[index] > free:
            continue
        if lengths[index] <= room:
            groups[-1].append(index)
        else:
            groups.append([index])
            room = free
        room -= lengths[index]
    return groups


def _flat(system: str | None, exchanges: list[tuple[dict, dict]]) -> list[dict]:
    opening = [] if system is None else [{"role": "system", "content": system, "loss": False}]
    return opening + [message for exchange in exchanges for message in exchange]
