"""A causal language model in this process, asked for all episodes of a batch at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformersPolicy:
    """Replies of `model` to `Turn.messages`; token ids come from `agenttuning.chat.encode_prompt`, as in training.

    Greedy at `temperature` 0, else sampled with a generator seeded by (`seed`, item, turn). `width` prompts are decoded
    together (32 was the fastest of 8 to 150 for one million parameters on two cores). `context` is the room in tokens
    for prompt and reply, by default the model's max_position_embeddings: a prompt which leaves less than
    `max_new_tokens` is answered with ContextLimit, never cut; unless `truncate_prompt_tokens` says how many ids are
    kept, the first `<s>` and the end (vLLM's name; the cut is that of the released evaluation's server, TGI, whose
    tokenizer puts `<s>` before what it has cut; half an instruction can be lost).

    With `fill_context` a reply may be as long as the room that its prompt leaves, where that is less than
    `max_new_tokens`: only a prompt that leaves none is answered with ContextLimit. `rooms` has that room, in tokens, by
    (item, turn).

    `counts` says what was done: replies, tokens, `unfinished` (replies that ran into `max_new_tokens`, or into the end
    of the context), and `truncated` (prompts that lost their beginning).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        system_prompt: str | None = None,
        width: int = 32,
        context: int | None = None,
        truncate_prompt_tokens: int | None = None,
        fill_context: bool = False,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no end-of-sequence token; every reply would run on to max_new_tokens; "
                "load it with agenttuning.chat.load_tokenizer"
            )
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.system_prompt, self.width = system_prompt, width
        self.stop = {tokenizer.eos_token_id, *_own_stops(model, tokenizer)}
        self.context = context or model.config.max_position_embeddings
        if truncate_prompt_tokens is not None and truncate_prompt_tokens < 1:
            raise ValueError(f"truncate_prompt_tokens is {truncate_prompt_tokens}; a prompt has at least one token")
        self.truncate_prompt_tokens, self.fill_context = truncate_prompt_tokens, fill_context
        self.rooms: dict[tuple[str, int], int] = {}
        self.counts: Counter[str] = Counter()

    def __call__(self, turns: list[Turn]) -> list[str | ContextLimit]:
        """One reply a turn, without the closing end-of-sequence token and with no other special token in it."""
        from agenttuning.chat import RowError, decode_reply, encode_prompt
        from agenttuning.policies.generate import generate

        try:
            prompts = [encode_prompt(turn.messages, self.tokenizer, system_prompt=self.system_prompt) for turn in turns]
        except RowError as error:
            # what a model wrote can make its template refuse: an error of that episode, which must not stop the others
            raise ValueError(f"the conversation cannot be asked on: {error}") from error
        if self.truncate_prompt_tokens is not None:
            self.counts["truncated"] += sum(len(prompt) > self.truncate_prompt_tokens for prompt in prompts)
            prompts = [self._cut(prompt) for prompt in prompts]
        replies: list[str | ContextLimit] = [ContextLimit(len(prompt), self.context) for prompt in prompts]
        limits = [self._most(turn, len(prompt)) for turn, prompt in zip(turns, prompts, strict=True)]
        fits = [row for row, most in enumerate(limits) if most]
        pad = self.tokenizer.pad_token_id
        found = generate(
            self.model,
            [prompts[row] for row in fits],
            max_new_tokens=[limits[row] for row in fits],
            stop=self.stop,
            pad=self.tokenizer.eos_token_id if pad is None else pad,  # masked, so any id does
            temperature=self.temperature,
            rngs=[turns[row].rng(self.seed) for row in fits],
            width=self.width,
        )
        for row, ids in zip(fits, found, strict=True):
            replies[row] = decode_reply(ids, self.tokenizer)
        self.counts.update(
            replies=len(found),
            tokens=sum(map(len, found)),
            unfinished=sum(len(ids) == limits[row] for row, ids in zip(fits, found, strict=True)),
        )
        return replies

    def _most(self, turn: Turn, prompt: int) -> int:
        room = self.context - prompt
        if room >= self.max_new_tokens:
            return self.max_new_tokens
        if not self.fill_context or room < 1:
            return 0
        self.rooms[turn.item, turn.number] = room
        return room

    def _cut(self, prompt: list[int]) -> list[int]:
        keep = self.truncate_prompt_tokens
        if len(prompt) <= keep:
            return prompt
        begin = prompt[:1] if prompt[0] == self.tokenizer.bos_token_id else []
        return begin + prompt[len(prompt) - keep + len(begin) :]


def _own_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Further end tokens of a model in its own format, where servers stop too (Llama 3's `<|eom_id|>`): those of its
    generation_config. In format llama2 there is one end token, `</s>`.
    """
    from agenttuning.chat import format_of

    ids = getattr(model.generation_config, "eos_token_id", None)
    if format_of(tokenizer) != "tokenizer" or ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    chat_format: str | None = None,
    **settings,
) -> TransformersPolicy:
    """The policy of a checkpoint folder or Hub id; `settings` are those of TransformersPolicy.

    `chat_format` is the recipe's; None means the one noted beside the weights. `device` defaults to the first GPU, or
    the CPU. Remote code is never run and only safetensors are read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from agenttuning.chat import load_tokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(
        path, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
    ).to(device)
    return TransformersPolicy(model, load_tokenizer(path, revision, chat_format), **settings)
