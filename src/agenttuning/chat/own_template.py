"""What a tokenizer must be so that its own chat template can be followed, and what is recorded of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.encode import encode
from agenttuning.chat.template import DATE, PINNED, added_tokens, pin_date, render, shape_of
from agenttuning.chat.tokenizer import format_of
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def prepare(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> None:
    """Pin the template's date, make its end token the tokenizer's, find a padding token, and check the ids of a probe.

    Raises UserError where there is no template, or one that training and evaluation cannot both follow.
    """
    if not isinstance(tokenizer.chat_template, str) or not tokenizer.chat_template.strip():
        raise UserError(
            f"the tokenizer of {path} carries no single chat template; mixture.chat_format: tokenizer has nothing to "
            "follow; use an instruct model's tokenizer, or chat_format: llama2"
        )
    tokenizer.chat_template = pin_date(tokenizer.chat_template)
    tokens = added_tokens(tokenizer)
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in tokens.values()):
        raise UserError(
            f"the tokenizer of {path} has added tokens that swallow the white space beside them; prompts would not be "
            "prefixes of training ids; use another model"
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(shape_of(tokenizer).stop)
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        taken = (tokenizer.eos_token, tokenizer.bos_token)
        free = [text for text in tokens if tokens[text]["special"] and text not in taken]
        spare = [text for word in ("pad", "reserved", "") for text in free if word in text]
        if not spare:
            raise UserError(f"the tokenizer of {path} has no token that could pad but the end token; use another model")
        tokenizer.pad_token = spare[0]
    probe = [{"role": "user", "content": " Two  words.\n"}, {"role": "assistant", "content": "Ja, 2 é."}]
    _check_own_ids(tokenizer, probe, path)


def _check_own_ids(tokenizer: PreTrainedTokenizerFast, probe: list[dict], path: str | Path) -> None:
    own = tokenizer(render(probe, tokenizer, prompt=False), add_special_tokens=False)["input_ids"]
    ours = encode(probe, tokenizer).input_ids
    if own != ours:
        at = next((i for i, (a, b) in enumerate(zip(own, ours, strict=False)) if a != b), min(len(own), len(ours)))
        seen, cut = (tokenizer.convert_ids_to_tokens(ids[at : at + 3]) for ids in (own, ours))
        raise UserError(
            f"the tokenizer of {path} joins text across the end of the prompt: it gives {seen} where training would "
            f"have {cut}; a server would ask with other ids than training; use another model"
        )


def check_system(tokenizer: PreTrainedTokenizerFast, system: str, name: str) -> None:
    """Raise UserError unless the template writes a system turn with this text."""
    turns = [{"role": "system", "content": system}, {"role": "user", "content": "Hi."}]
    try:
        found = system.strip() in render(turns, tokenizer, prompt=True)
        why = "leaves its text out"
    except UserError as error:
        found, why = False, str(error).split(";")[0]
    if not found:
        raise UserError(
            f"the chat template of {name} takes no system turn ({why}), and mixture.system_prompt is {system!r}; no "
            "model would be told that; write mixture.system_prompt: null, or use another model"
        )


def template_record(tokenizer: PreTrainedTokenizerFast) -> dict[str, str | None]:
    """For the record of a build in format `tokenizer`: sha256 of the template, and the date that it prints (None where
    it prints none). Empty in format llama2, whose template is part of this code.
    """
    if format_of(tokenizer) != "tokenizer":
        return {}
    text = tokenizer.chat_template
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"template": digest, "template_date": DATE if text.startswith(PINNED) else None}
