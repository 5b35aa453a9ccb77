"""How lm-eval reaches a model: what all backends have in common, and transformers in this process.

A prompt is made here and nowhere else: in the words of the protocol (`chat`), and, for the trained format, checked
against `chat.encode_prompt` before a score leaves the engine. One wrong space, and it is another model that is judged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agenttuning.chat import format_of
from agenttuning.errors import UserError
from agenttuning.general.kept import Answers
from agenttuning.general.protocol import Rules

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EVERY_S = 30.0  # between two lines of progress
CPU_BATCH = 64  # prompts at a time on a CPU; on a GPU lm-eval finds the largest that fits


class Lost(str):
    """In place of an answer that infrastructure lost; it is counted and never scored."""

    def __new__(cls, why: str) -> Lost:
        lost = super().__new__(cls, "")
        lost.why = why
        return lost


LOST_CHOICE = (float("nan"), False)  # the same in place of a choice's likelihood


def fschat(messages: list[dict], bos: str) -> str:
    """The text that fschat 0.2.31 makes of a conversation in its template llama-2, as the original sent it: nothing is
    stripped, and a last assistant message is the beginning of the answer.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    text = f"{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n" if system else f"{bos}[INST] "
    for place, turn in enumerate(turns):
        if turn["role"] == "user":
            text += f"{turn['content']} " if place == 0 else f"[INST] {turn['content']} "
        elif place == len(turns) - 1:
            return f"{text}[/INST] {turn['content']}"
        else:
            text += f"[/INST] {turn['content']} </s><s>"
    return f"{text}[/INST]"


class Asking:
    """Mixed into a class of lm-eval in front of it: the protocol's prompts, and answers that are kept.

    `ask_by` must be called before a task is run. `rendered`: the messages of each prompt made since then. The class
    that it is mixed into says in `longest()` how many tokens prompt and reply may have.
    """

    rules: Rules
    answers: Answers
    rendered: dict[str, list[dict]]
    precision: str | None = None  # of the weights as they are loaded, where that is known here
    draws_bars = True  # whether the class of lm-eval draws a bar of its progress on a terminal
    chat_only = False  # whether it takes messages and no ids, and puts them into a template of its own

    def ask_by(self, rules: Rules, answers: Answers) -> None:
        """Ask by these rules from now on, and keep answers there."""
        self.rules, self.answers, self.rendered = rules, answers, {}
        self._max_length = self.longest()

    def form(self) -> str:
        """What decides an answer besides the model, the rules and the words of a question."""
        return str(self.longest())

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """A prompt as text. lm-eval gives a last assistant message where the answer's beginning is fixed."""
        if self.rules.chat == "fschat" and format_of(self.tokenizer) == "llama2":
            text = fschat(chat_history, self.tokenizer.bos_token)
        else:
            text = self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        self.rendered[text] = chat_history
        return text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self.rules.letters == "natural":
            prompt, scored = super()._encode_pair(context, continuation)
        else:
            # eval_mmlu_hf.py: tokenizer(" A")["input_ids"][-1] after the whole prompt, its last space included
            letter = self.tok_encode(f" {continuation.strip()}", add_special_tokens=False)
            prompt, scored = self.tok_encode(context), letter[-1:]
        most = self.rules.max_prompt_tokens
        if most is not None and len(prompt) > most:
            prompt = prompt[1 - most :]  # eval_mmlu_hf.py, get_logits: one less than it allows is left
        return prompt, scored

    def is_cut(self, context: str, continuation: str | dict) -> bool:
        """Whether the model has no room for a prompt, of which lm-eval then leaves the beginning out."""
        if (longest := self.longest()) is None:
            return False
        if isinstance(continuation, str):
            prompt, scored = self._encode_pair(context, continuation)
            return len(prompt) + len(scored) - 1 > longest
        return len(self.tok_encode(context)) > longest - continuation.get("max_gen_toks", 0)

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """lm-eval's: (log likelihood, whether greedy) of each (context, continuation)."""
        return self._kept("loglikelihood", requests, super().loglikelihood, disable_tqdm)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """lm-eval's: a reply to each (context, generation keywords). Raises UserError where a reply as long as the task
        lets it be leaves no room for a prompt.
        """
        longest = self.longest()
        for most in {request.args[1].get("max_gen_toks") or 0 for request in requests}:
            if longest is not None and most >= longest:
                raise UserError(
                    f"{requests[0].task_name} lets a reply have {most:,} tokens, and the model has room for "
                    f"{longest:,} with its prompt; nothing could be asked; leave the task out with --task"
                )
        return self._kept("generate_until", requests, super().generate_until, disable_tqdm)

    def _kept(self, kind: str, requests: list, ask: Callable[..., list], disable_tqdm: bool) -> list:
        keys, kept = self.answers.keys(kind, [request.args for request in requests]), self.answers
        left = [place for place, key in enumerate(keys) if key not in kept]
        kept.reused += len(requests) - len(left)
        places: dict[str, list[int]] = {}  # of a question; it is asked several times where several samples are drawn
        for place in left:
            places.setdefault(repr(requests[place].args), []).append(place)
        heard: Counter[str] = Counter()
        bars = self.draws_bars and not disable_tqdm and sys.stderr.isatty()
        tell = (lambda: None) if bars or not left else _progress(requests[0].task_name, kind, len(left))

        def keep(args: tuple, answer: Any) -> None:  # lm-eval tells of every answer as it comes
            question = repr(tuple(args))
            if question in places and heard[question] < len(places[question]) and not is_lost(answer):
                kept.add(keys[places[question][heard[question]]], answer)
                heard[question] += 1
                tell()

        lost: dict[int, Any] = {}
        if left:
            self.cache_hook = _Hook(keep)
            new = ask([requests[place] for place in left], disable_tqdm=not bars)
            answers = dict(zip(left, new, strict=True))
            for question, own in places.items():
                good = [answers[place] for place in own if not is_lost(answers[place])]
                for answer in good[heard[question] :]:  # of a class of lm-eval that does not tell
                    keep(requests[own[0]].args, answer)
                bad = [answers[place] for place in own if is_lost(answers[place])]
                lost |= dict(zip(own[len(own) - len(bad) :], bad, strict=True))
        return [lost[place] if place in lost else _as_given(kept[key]) for place, key in enumerate(keys)]


def _progress(task: str, kind: str, total: int) -> Callable[[], None]:
    """To be called at each answer; writes a line to stderr every EVERY_S seconds: a log shows that it goes on."""
    what = "likelihoods of letters" if kind == "loglikelihood" else "replies"
    done, said = 0, time.monotonic()

    def tell() -> None:
        nonlocal done, said
        done += 1
        if (now := time.monotonic()) - said >= EVERY_S:
            said = now
            print(f"{task.partition('_')[0]}: {done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    return tell


class _Hook:
    def __init__(self, heard: Callable[[tuple, Any], None]) -> None:
        self._heard = heard

    def add_partial(self, attr: str, req: tuple, res: Any) -> None:
        self._heard(req, res)


def is_lost(answer: Any) -> bool:
    """Whether infrastructure lost an answer of either kind."""
    return isinstance(answer, Lost) or (isinstance(answer, list | tuple) and answer[0] != answer[0])


def _as_given(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer


def quiet() -> None:
    """lm-eval's warnings are about command lines that nobody typed; its errors are still shown."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def transformers_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | str | None = None):
    """lm-eval's HFLM on a loaded model, asked as above. Of the model's generation_config.json only the tokens count: a
    repetition penalty (Qwen's) would decide greedy answers, too. lm-eval's own tasks take all of it, as lm-eval does.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    class TransformersLM(Asking, HFLM):
        backend_name = "transformers"
        precision = str(model.dtype).removeprefix("torch.")

        def longest(self) -> int | None:
            return model.config.max_position_embeddings

        def ask_by(self, rules: Rules, answers: Answers) -> None:
            super().ask_by(rules, answers)
            model.generation_config = theirs if rules.chat == "none" else bare

    theirs = model.generation_config
    bare = GenerationConfig(
        **{name: getattr(theirs, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )
    quiet()
    chosen = batch_size or ("auto" if model.device.type == "cuda" else CPU_BATCH)
    # a softmax in the precision of the weights would round the likelihoods that choices are compared by
    return TransformersLM(pretrained=model, tokenizer=tokenizer, batch_size=chosen, softmax_dtype="float32")
