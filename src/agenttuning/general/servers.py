"""Models that lm-eval asks outside of this process's transformers: vLLM in this process, and OpenAI-compatible servers.

A server is asked at /completions with the ids of our own prompt, so that all backends are asked the same; likelihoods
come from its echo of the prompt. One that has only /chat/completions (the paid ones) gets the messages instead, puts
them into a template of its own, and cannot say how likely a given letter is: MMLU is refused there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text

from agenttuning.errors import UserError
from agenttuning.general.lm import LOST_CHOICE, Asking, Lost
from agenttuning.policies import ContextLimit, GaveUp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from agenttuning.policies.openai import OpenAIPolicy

MAX_LENGTH = 4096  # Llama-2's; taken where a server does not say its max_model_len
MAX_GEN_TOKS = 256  # lm-eval's own default where a task says nothing
LEAST = 1e-3  # above 0, and a logarithm of a probability is no rounding any more


class _Served(TemplateLM):
    """A model behind `policy`, its prompts made with `tokenizer`. chat_only: it has only /chat/completions.

    What stays unanswered is Lost (or LOST_CHOICE), which the engine counts and never scores. Raises UserError where
    every question would fail.
    """

    def __init__(
        self, policy: OpenAIPolicy, tokenizer: PreTrainedTokenizerBase, room: int | None, chat_only: bool
    ) -> None:
        super().__init__()
        self.policy, self.tokenizer, self.chat_only, self._room = policy, tokenizer, chat_only, room or MAX_LENGTH
        self._echoes = False  # whether it has echoed a prompt well

    def longest(self) -> int | None:
        return self._room

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Part of lm-eval's record of a run."""
        return self.tokenizer.chat_template or ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        begun = string.startswith(self.tokenizer.bos_token or "\0")
        special = not begun if add_special_tokens is None else add_special_tokens
        return self.tokenizer(string, add_special_tokens=special, return_attention_mask=False).input_ids

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("no task of ours asks for the likelihood of a whole text")

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **_: Any) -> list[tuple[float, bool]]:
        if self.chat_only:
            raise UserError(
                f"{self.policy.base_url} has no /completions that takes token ids, so it cannot say how likely a "
                "letter is; mmlu would be a guess; ask a server that has (vLLM), or leave mmlu out with --task"
            )
        return self._all([(lambda r=r: self._choice(*r)) for r in requests])

    async def _choice(self, key: tuple[str, str], context: list[int], continuation: list[int]) -> tuple[float, bool]:
        ids = (context + continuation)[1 - self._max_length :]  # the one token that must be asked for needs room, too
        asked = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "logprobs": 1, "echo": True}
        try:
            answer = await self.policy.post("/completions", {"model": self.policy.model, **asked})
        except GaveUp:
            return LOST_CHOICE
        if isinstance(answer, ContextLimit):
            return LOST_CHOICE
        try:
            found = _echoed(answer, len(ids), len(continuation))
        except UserError:
            if not self._echoes:
                raise
            return LOST_CHOICE  # rubbish of a server that can do it: asked again by the same command
        self._echoes = True
        self.cache_hook.add_partial("loglikelihood", key, found)
        return found

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        return self._all([(lambda r=r: self._generated(*r.args)) for r in requests])

    async def _generated(self, context: str, keywords: dict) -> str:
        until = handle_stop_sequences(keywords.get("until"), eos=self.tokenizer.eos_token)
        most = int(keywords.get("max_gen_toks", MAX_GEN_TOKS))
        asked = {"max_tokens": most, "stop": until[:4], "temperature": float(keywords.get("temperature") or 0.0)}
        if keywords.get("top_p") is not None or asked["temperature"] > 0:
            asked["top_p"] = float(keywords.get("top_p") or 1.0)
        try:
            if self.chat_only:
                path, more = "/chat/completions", {"messages": self._messages(context)}
            else:
                path, more = "/completions", {"prompt": self.tok_encode(context)[-(self._max_length - most) :]}
            answer = await self.policy.post(path, {"model": self.policy.model, **asked, **more})
            if isinstance(answer, ContextLimit):
                return Lost(f"the prompt is too long for the server ({answer.limit} tokens)")
            text = _text(answer)
        except GaveUp as error:
            return Lost(str(error)[:200])
        text = postprocess_generated_text(text, stop=until, think_end_token=None)
        self.cache_hook.add_partial("generate_until", (context, keywords), text)
        return text

    def _messages(self, context: str) -> list[dict]:
        messages = self.rendered.get(context)
        if messages is None or messages[-1]["role"] == "assistant":
            raise UserError(
                f"{self.policy.base_url} has only /chat/completions, and this task's prompt is no conversation, or "
                "begins the answer; another question would be asked; ask a server that has /completions (vLLM)"
            )
        return messages

    def _all(self, questions: list[Callable[[], Any]]) -> list:
        async def run() -> list:
            slots = asyncio.Semaphore(self.policy.slots)

            async def one(question: Callable[[], Any]) -> Any:
                async with slots:
                    return await question()

            async with self.policy:
                tasks = [asyncio.create_task(one(question)) for question in questions]
                try:
                    return await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

        return asyncio.run(run())


class ServerLM(Asking, _Served):
    """_Served, asked by a protocol and with its answers kept."""

    backend_name = "server"
    draws_bars = False

    def form(self) -> str:
        """What decides an answer besides the name of the model, the rules and the words: room and tokenizer."""
        words = hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()
        return f"{self._room} {words}"

    def is_cut(self, context: str, continuation: str | dict) -> bool:
        """Whether the server has no room for a prompt; a choice's takes one token more, which must be asked for."""
        if isinstance(continuation, str):
            return sum(map(len, self._encode_pair(context, continuation))) > self._room - 1
        return super().is_cut(context, continuation)


def _echoed(answer: dict, length: int, scored: int) -> tuple[float, bool]:
    """(sum of log probabilities, whether each was the likeliest) of the last `scored` of `length` prompt tokens."""
    try:
        found = answer["choices"][0]["logprobs"]
        values, best = (
            found["token_logprobs"][length - scored : length],
            found["top_logprobs"][length - scored : length],
        )
        if len(values) != scored or not all(isinstance(value, int | float) and value <= LEAST for value in values):
            raise ValueError("not one logarithm of a probability a token")
        greedy = all(value >= max(top.values()) for value, top in zip(values, best, strict=True))
        return float(sum(values)), greedy
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the server does not echo a prompt with the logprobs of its tokens ({type(error).__name__}: {error}); the "
            "likelihood of a letter cannot be had from it; ask vLLM's server, or leave mmlu out with --task"
        ) from error


def _text(answer: dict) -> str:
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        raise GaveUp("an answer without a text") from None
    text = "" if text is None else text  # a model that ended at once, or spent its tokens on hidden reasoning
    if not isinstance(text, str):
        raise GaveUp("an answer whose text is none")
    return text.encode("utf-8", "replace").decode("utf-8")


def server_lm(policy: OpenAIPolicy, tokenizer: PreTrainedTokenizerBase) -> ServerLM:
    """ServerLM for a server, after it was asked what it can do. Raises UserError where it does not answer."""
    return asyncio.run(_probed(policy, tokenizer))


async def _probed(policy: OpenAIPolicy, tokenizer: PreTrainedTokenizerBase) -> ServerLM:
    asked = {"model": policy.model, "prompt": [tokenizer.bos_token_id or 0], "max_tokens": 1, "temperature": 0.0}
    async with policy:
        try:
            await policy.post("/completions", asked)
            chat_only = False
        except (UserError, GaveUp):
            chat_only = True  # and if it is not that, the next question says what is wrong
            hello = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            try:
                await policy.post("/chat/completions", {"model": policy.model, **hello})
            except GaveUp as error:
                raise UserError(f"{error}; nothing could be asked; see to the server") from error
        room = await policy.context()
    return ServerLM(policy, tokenizer, room, chat_only)


def vllm_lm(path: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    """lm-eval's VLLM on a model folder, with our tokenizer in place of the one that it loads. Raises UserError where
    vLLM is not installed.
    """
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be imported ({error}); nothing could be asked; it needs an environment of its own (pip "
            "install '.[serve,eval]'), or serve the model elsewhere and give --server URL"
        ) from None

    class VllmLM(Asking, VLLM):
        backend_name = "vllm"

        def longest(self) -> int | None:
            return self.model.llm_engine.model_config.max_model_len

    made = VllmLM(pretrained=str(path), dtype="auto", trust_remote_code=False)
    made.tokenizer = tokenizer
    return made
