"""The chat template that a model's own tokenizer carries (chat_format `tokenizer`), as ids with one span per answer.

Rules, the same for training (`encode`) and asking (`encode_prompt`):

- A conversation is rendered once, and once more up to each answer with the generation prompt. Each of those must be a
  prefix of the whole, or the template is refused: a model would be asked with another text than it was trained on.
- The text is cut at the end of each generation prompt before it is tokenised, so the prompt's ids are a prefix too.
- Control strings inside a turn are put out of the template's and the tokenizer's sight while rendering and end as plain
  text. In an answer this holds for special tokens only: `<think>` and the like are words that a model writes.
- An answer ends with the token that the template puts after the last answer. Where it writes another one into the
  history (gpt-oss: `<|end|>` for `<|return|>`) the id is the history's and the label the one to be emitted.
- What a template adds of its own before an answer (an empty think block before Qwen3's last one) is trained with it.
- A template that prints today's date is changed to print DATE (`pin_date`), when it is loaded and so where it is saved:
  the same rows give the same bytes on any day, and a server asks with the date of training.
- What goes wrong with one conversation is a RowError. What no conversation could do right is a UserError on loading.
"""

from __future__ import annotations

import json
import re
import weakref
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from agenttuning.chat.turns import RowError, check_turns
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DATE = "2024-07-26"  # the date that Llama 3.2's template falls back to
DATE_CODES = {
    **{"%d": "26", "%-d": "26", "%m": "07", "%-m": "7", "%Y": "2024", "%y": "24", "%j": "208"},
    **{"%b": "Jul", "%B": "July", "%a": "Fri", "%A": "Friday", "%H": "00", "%M": "00", "%S": "00"},
}
PINNED = "{% macro strftime_now(format) %}"
HIDING = (0xF0000, 0x100000)  # first characters of the two private planes of Unicode
PROBE = "A probe."


@dataclass(frozen=True, slots=True)
class Shape:
    """`stop`: id that ends a last answer; `past`: id that ends an earlier one; `openings`: text which the template puts
    between generation prompt and answer, of an earlier and of a last answer; `closings`: text which it puts between
    answer and end token.
    """

    stop: int
    past: int
    openings: tuple[str, str]
    closings: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """`items`: ids of control tokens and texts in between. `answers`: (turn, first item, item of the end token, whether
    the answer's words are there), `turn` as in the caller's list."""

    items: list[int | str]
    answers: list[tuple[int, int, int, bool]]


_tokens: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_shapes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def added_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, dict]:
    """The tokenizer's added tokens by their text, as tokenizer.json states them."""
    if tokenizer not in _tokens:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        _tokens[tokenizer] = {token["content"]: token for token in state["added_tokens"]}
    return _tokens[tokenizer]


def plan(
    messages: list[dict], tokenizer: PreTrainedTokenizerFast, system_prompt: str | None, ends_with: str = "assistant"
) -> Plan:
    """Cut one conversation into control tokens and texts. Raises RowError for a malformed one, and for one of which
    the template rewrites earlier turns or at which it fails.
    """
    messages = check_turns(messages, ends_with)
    offset = 0
    if system_prompt is not None and messages[0]["role"] != "system":
        messages, offset = [{"role": "system", "content": system_prompt}, *messages], 1
    hidden, shown = _hide(messages, tokenizer)
    shape = shape_of(tokenizer)
    whole = render(hidden, tokenizer, prompt=ends_with == "user")
    turns = [turn for turn, message in enumerate(hidden) if message["role"] == "assistant"]
    cuts = [_prompt_end(hidden, turn, whole, tokenizer) for turn in turns]
    items = cut(whole[: cuts[0]] if cuts else whole, tokenizer)
    answers = []
    for turn, start, end in zip(turns, cuts, [*cuts[1:], len(whole)][: len(cuts)], strict=True):
        region = cut(whole[start:end], tokenizer)
        closing = shape.stop if turn == len(hidden) - 1 else shape.past
        if closing not in region:
            raise RowError(
                f"turn {turn - offset} (assistant): the template writes no {tokenizer.convert_ids_to_tokens(closing)} "
                "after it; the model would not learn to stop; use a template that ends each answer"
            )
        last = region.index(closing)
        words = [item if isinstance(item, str) else tokenizer.convert_ids_to_tokens(item) for item in region[:last]]
        there = hidden[turn]["content"].strip() in "".join(words)
        answers.append((turn - offset, len(items), len(items) + last, there))
        items += region
    return Plan([item if isinstance(item, int) else item.translate(shown) for item in items], answers)


def render(messages: list[dict], tokenizer: PreTrainedTokenizerFast, prompt: bool) -> str:
    """The template's text, with a generation prompt if `prompt`, as servers make it. Raises RowError if the template
    fails.
    """
    from jinja2 import TemplateError

    turns = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise RowError(
            f"the tokenizer's chat template fails: {error}; nothing can be encoded; use data that it takes (some know "
            "no system turn: mixture.system_prompt: null), or another model"
        ) from error


def pin_date(template: str) -> str:
    """The template with a `strftime_now` of its own that knows one day, DATE, so that it gives the same text on any day
    wherever it is rendered. Unchanged if it asks for no date, or was pinned before. Raises UserError for a part of a
    date that DATE_CODES lacks.
    """
    if "strftime_now" not in template or template.startswith(PINNED):
        return template
    asked = {code for call in re.findall(r"strftime_now\(([^)]*)\)", template) for code in re.findall("%-?.", call)}
    if unknown := sorted(asked - set(DATE_CODES)):
        raise UserError(
            f"the tokenizer's chat template prints {', '.join(unknown)} of today's date, which is not fixed here; rows "
            "made on two days would differ; use another model, or add it to chat.template.DATE_CODES"
        )
    changes = "".join(f"|replace('{code}', '{text}')" for code, text in DATE_CODES.items())
    return f"{PINNED}{{{{ format{changes} }}}}{{% endmacro %}}\n{template}"


def shape_of(tokenizer: PreTrainedTokenizerFast) -> Shape:
    """How the template opens and ends an answer, read from two probes. Raises UserError where it does not do so."""
    if tokenizer not in _shapes:
        turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": PROBE}] * 2
        whole = render(turns, tokenizer, prompt=False)
        ends = [_probe(turns, turn, whole, tokenizer) for turn in (1, 3)]
        (first, past, before), (last, stop, after) = ends
        _shapes[tokenizer] = Shape(stop, past, (first, last), (before, after))
    return _shapes[tokenizer]


def _probe(turns: list[dict], turn: int, whole: str, tokenizer: PreTrainedTokenizerFast) -> tuple[str, int, str]:
    rest = whole[_prompt_end(turns, turn, whole, tokenizer) :]
    opening, found, rest = rest.partition(PROBE)
    items = cut(rest, tokenizer)
    token = next((item for item in items if isinstance(item, int)), None)
    if not found or token is None:
        raise UserError(
            "the tokenizer's chat template writes no token of its own after an answer; the model would not learn to "
            "stop; use an instruct model's tokenizer"
        )
    return opening, token, items[0] if isinstance(items[0], str) else ""


def _prompt_end(messages: list[dict], turn: int, whole: str, tokenizer: PreTrainedTokenizerFast) -> int:
    prompt = render(messages[:turn], tokenizer, prompt=True)
    if whole.startswith(prompt):
        return len(prompt)
    place = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
    raise RowError(
        f"the tokenizer's chat template rewrites earlier turns: before the answer of turn {turn} it gives "
        f"{prompt[place : place + 40]!r} where the whole conversation has {whole[place : place + 40]!r}; the model "
        "would be asked with another text than it was trained on; use another template, or chat_format: llama2"
    )


def _hide(messages: list[dict], tokenizer: PreTrainedTokenizerFast) -> tuple[list[dict], dict[int, str]]:
    # blank added tokens (runs of spaces) are ordinary text of some vocabularies
    tokens = [text for text in added_tokens(tokenizer) if text.strip()]
    special = {text for text in tokens if added_tokens(tokenizer)[text]["special"]}
    text = "".join(message["content"] for message in messages)
    first = next((at for at in HIDING if not any(at <= ord(char) < at + len(tokens) for char in text)), None)
    if first is None:
        raise RowError("the conversation uses both private planes of Unicode, which hide control strings")
    signs = {word: chr(first + number) for number, word in enumerate(tokens)}
    hidden = []
    for message in messages:
        words = special if message["role"] == "assistant" else tokens
        content = _pattern(tuple(words)).sub(lambda match: signs[match[0]], message["content"]) if words else None
        hidden.append({**message, "content": message["content"] if content is None else content})
    return hidden, {ord(sign): word for word, sign in signs.items()}


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))


def controls(items: list[int | str], tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether one of the items is a special token, which no text can hold."""
    special = {token["id"] for token in added_tokens(tokenizer).values() if token["special"]}
    return any(item in special for item in items)


def cut(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int | str]:
    """A rendered text as ids of added tokens and the texts between them."""
    tokens = added_tokens(tokenizer)
    items: list[int | str] = []
    place = 0
    for match in _pattern(tuple(tokens)).finditer(text) if tokens else ():
        before, place = text[place : match.start()], match.end()
        items += [before] if before else []
        items.append(tokens[match[0]]["id"])
    return items + ([text[place:]] if text[place:] else [])
