"""Conversations to token ids and labels, in the format that the tokenizer was loaded for.

Format `tokenizer` is template.py's; what follows is Llama-2's, and the choice of turns is the same in both. A trained
turn's labels are the answer's ids, from the space after [/INST] on, the closing space and `</s>`: exactly what the
model has to emit after the prompt that `encode_prompt` gives it. Which turns are trained is `loss`:

    flags      an assistant turn whose `loss` is true (null or absent is not true)
    assistant  every assistant turn, flags ignored
    last       the last assistant turn
    all        every token, prompts included, except each `<s>`: the server writes `<s>`, the model never does
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from agenttuning.chat import template
from agenttuning.chat.llama2 import Pair, pair_up
from agenttuning.chat.tokenizer import encode_texts, format_of
from agenttuning.chat.turns import MaskError, RowError
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORE = -100  # torch.nn.CrossEntropyLoss's ignore_index
LOSSES = ("flags", "assistant", "last", "all")


@dataclass(frozen=True, slots=True)
class Span:
    """Supervised ids [start, end) of the assistant message at index `turn` of the conversation as it was given."""

    start: int
    end: int
    turn: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """`input_ids` and `labels` have the same length; labels are IGNORE outside `spans`; `loss` is the rule that chose
    the spans.
    """

    input_ids: list[int]
    labels: list[int]
    spans: list[Span]
    loss: str = "flags"


def encode(
    messages: list[dict], tokenizer: PreTrainedTokenizerFast, loss: str = "flags", system_prompt: str | None = None
) -> Encoded:
    """Encode one conversation. `system_prompt` is used only where the conversation has no system turn of its own.

    Raises RowError for a malformed conversation, MaskError if a prompt's ids are not a prefix of its turn's ids,
    UserError for an unknown `loss`.
    """
    return encode_many([messages], tokenizer, loss, system_prompt)[0]


def encode_many(
    conversations: list[list[dict]],
    tokenizer: PreTrainedTokenizerFast,
    loss: str = "flags",
    system_prompt: str | None = None,
) -> list[Encoded]:
    """Encode a batch with one tokenizer call; the results equal those of `encode` one by one, and so does what is
    raised."""
    results = encode_each(conversations, tokenizer, loss, system_prompt)
    for result in results:
        if isinstance(result, RowError):
            raise result
    return results


def encode_each(
    conversations: list[list[dict]],
    tokenizer: PreTrainedTokenizerFast,
    loss: str = "flags",
    system_prompt: str | None = None,
) -> list[Encoded | RowError]:
    """`encode_many` for rows that nobody has vetted: a conversation that cannot be encoded has its RowError in its
    place, and the others are as if it were not there. Raises MaskError and UserError as `encode` does.
    """
    if loss not in LOSSES:
        raise UserError(f"loss is {loss!r}; no turn would be chosen to train on; use one of {', '.join(LOSSES)}")
    if format_of(tokenizer) == "tokenizer":
        plans = [_tried(template.plan, messages, tokenizer, system_prompt) for messages in conversations]
        parts = iter(_ids([plan.items for plan in plans if not isinstance(plan, RowError)], tokenizer))
        return [
            plan if isinstance(plan, RowError) else _tried(_label, messages, plan, next(parts), tokenizer, loss)
            for messages, plan in zip(conversations, plans, strict=True)
        ]
    paired = [_tried(pair_up, messages, system_prompt) for messages in conversations]
    flat = [pair for pairs in paired if not isinstance(pairs, RowError) for pair in pairs]
    ids = encode_texts(tokenizer, [pair.text for pair in flat] + [pair.prompt for pair in flat])
    encoded = iter(zip(ids[: len(flat)], ids[len(flat) :], strict=True))
    return [
        pairs if isinstance(pairs, RowError) else _assemble(pairs, [next(encoded) for _ in pairs], tokenizer, loss)
        for pairs in paired
    ]


def _tried(make, *arguments):
    try:
        return make(*arguments)
    except RowError as error:
        return error.with_traceback(None)


def encode_prompt(
    messages: list[dict], tokenizer: PreTrainedTokenizerFast, system_prompt: str | None = None
) -> list[int]:
    """Ids that end right where the assistant's answer would start; a prefix of `encode(messages + [answer])`'s ids.

    Raises RowError unless the conversation is (system)? user (assistant user)*.
    """
    if format_of(tokenizer) == "tokenizer":
        items = template.plan(messages, tokenizer, system_prompt, ends_with="user").items
        return [token for part in _ids([items], tokenizer)[0] for token in part]
    pairs = pair_up(messages, system_prompt, ends_with="user")
    ids: list[int] = []
    for pair, text in zip(pairs, encode_texts(tokenizer, [pair.text for pair in pairs]), strict=True):
        ids += [tokenizer.bos_token_id, *text]
        if pair.answer is not None:
            ids.append(tokenizer.eos_token_id)
    return ids


def decode_reply(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """The words of a generated reply: without special tokens, and without what the template itself puts before an
    answer (Qwen3: an empty think block; gpt-oss: its final channel, which goes with the channels before it)."""
    start = _answer_start(ids, tokenizer) if format_of(tokenizer) == "tokenizer" else 0
    return tokenizer.decode(ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _answer_start(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> int:
    openings = {opening for opening in template.shape_of(tokenizer).openings if opening}
    for opening in openings:
        items = template.cut(opening, tokenizer)
        if template.controls(items, tokenizer):
            wanted = [token for part in _ids([items], tokenizer)[0] for token in part]
            ends = range(len(ids), len(wanted) - 1, -1)
            found = next((end for end in ends if ids[end - len(wanted) : end] == wanted), None)
            if found is not None:
                return found
    longest = max(map(len, openings), default=0)  # an opening has at most as many ids as characters
    for end in range(1, min(len(ids), longest) + 1):
        if tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) in openings:
            return end
    return 0


def _ids(many: list[list[int | str]], tokenizer: PreTrainedTokenizerFast) -> list[list[list[int]]]:
    texts = iter(encode_texts(tokenizer, [item for items in many for item in items if isinstance(item, str)]))
    return [[[item] if isinstance(item, int) else next(texts) for item in items] for items in many]


def _label(
    messages: list[dict], plan: template.Plan, parts: list[list[int]], tokenizer: PreTrainedTokenizerFast, loss: str
) -> Encoded:
    ids = [token for part in parts for token in part]
    places = [0, *accumulate(map(len, parts))]
    labels = [IGNORE] * len(ids)
    if loss == "all":
        start = int(ids[0] == tokenizer.bos_token_id)
        spans, labels[start:] = [Span(start, len(ids), plan.answers[-1][0])], ids[start:]
    else:
        spans = []
    stop = template.shape_of(tokenizer).stop
    for answer in plan.answers:
        turn, first, last, there = answer
        flagged = answer is plan.answers[-1] if loss == "last" else messages[turn].get("loss") is True
        if loss not in ("all", "assistant") and not flagged:
            continue
        if not there:
            raise RowError(
                f"turn {turn} (assistant): the chat template drops or rewrites part of this answer (a think block of "
                "an earlier turn?); what is left is not what was said; train only the last turn (loss: last), or "
                "remove the block"
            )
        start, end = places[first], places[last + 1]
        labels[end - 1] = stop
        if loss != "all":
            labels[start : end - 1] = ids[start : end - 1]
            spans.append(Span(start, end, turn))
    return Encoded(ids, labels, spans, loss)


def _assemble(
    pairs: list[Pair], encoded: list[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast, loss: str
) -> Encoded:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids: list[int] = []
    labels: list[int] = []
    spans: list[Span] = []
    for pair, (full, prompt) in zip(pairs, encoded, strict=True):
        if full[: len(prompt)] != prompt:
            raise MaskError(
                f"turn {pair.turn} (assistant): the ids of its prompt are not a prefix of the ids of prompt and "
                f"answer, so the model "
                "would be asked with other tokens than it was trained on; the tokenizer merges across '[/INST]' and "
                "the answer"
            )
        header = 0 if loss == "all" else len(prompt)
        start = len(ids) + 1 + header
        ids += [bos, *full, eos]
        trained = loss in ("all", "assistant") or (pair is pairs[-1] if loss == "last" else pair.loss)
        if trained:
            labels += [IGNORE] * (1 + header) + full[header:] + [eos]
            spans.append(Span(start, len(ids), pair.turn))
        else:
            labels += [IGNORE] * (len(full) + 2)
    return Encoded(ids, labels, spans, loss)
