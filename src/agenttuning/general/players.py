"""Whom the general benchmarks are asked: a model in this process, in vLLM, or behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.model_files import find_model, model_digest
from agenttuning.players import CONCURRENCY, served_label

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

BACKENDS = ("transformers", "vllm", "server")


@dataclass(frozen=True)
class Player:
    """backend: its name, and `says` what it is. label: of the results; model: of the weights. lm() loads what lm-eval
    asks; policy(temperature, max_new_tokens, system_prompt) is who answers in a conversation, None for nobody.
    """

    backend: str
    says: str
    label: str
    model: str
    lm: Callable[[], Any]
    policy: Callable[..., Any] | None


def player(
    recipe: Recipe,
    model: str | None = None,
    *,
    server: str | None = None,
    served_model: str | None = None,
    api_key_env: str | None = None,
    concurrency: int | None = None,
    backend: str = "transformers",
) -> Player:
    """Who is asked. Raises UserError where there is no such model, and for words that would do nothing."""
    if backend not in BACKENDS:
        raise UserError(f"there is no backend {backend!r}; choose {', '.join(BACKENDS)}")
    if server is not None:
        if backend != "transformers":
            raise UserError(f"--backend {backend} runs the model here and --server asks it elsewhere; give one of them")
        return _behind(recipe, model, server, served_model, api_key_env, concurrency)
    if served_model or api_key_env or concurrency is not None:
        raise UserError("--served-model, --api-key-env and --concurrency go with --server; they would do nothing here")
    path, label = find_model(recipe, model)
    named = f"{label}@{model_digest(path)[:16]}"
    if backend == "vllm":
        return _in_vllm(recipe, path, label, named)
    return _in_process(recipe, path, label, named)


def _in_process(recipe: Recipe, path: Path, label: str, named: str) -> Player:
    @cache  # loaded once, and not before everything else is ready
    def loaded() -> Any:
        from agenttuning.policies.transformers_policy import load

        return load(path, max_new_tokens=1, chat_format=recipe.mixture.chat_format)

    @cache
    def lm() -> Any:
        from agenttuning.general.lm import transformers_lm

        return transformers_lm(loaded().model, loaded().tokenizer)

    def policy(temperature: float, max_new_tokens: int, system_prompt: str | None = None) -> Any:
        from agenttuning.policies.transformers_policy import TransformersPolicy

        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "system_prompt": system_prompt}
        return TransformersPolicy(loaded().model, loaded().tokenizer, **asked)

    return Player("transformers", "transformers in this process, lm-eval's HFLM", label, named, lm, policy)


def _in_vllm(recipe: Recipe, path: Path, label: str, named: str) -> Player:
    @cache
    def lm() -> Any:
        from agenttuning.chat import load_tokenizer
        from agenttuning.general.servers import vllm_lm

        return vllm_lm(path, load_tokenizer(path, None, recipe.mixture.chat_format))

    return Player("vllm", "vLLM in this process, lm-eval's VLLM", label, named, lm, None)


def _behind(
    recipe: Recipe,
    model: str | None,
    server: str,
    served_model: str | None,
    api_key_env: str | None,
    concurrency: int | None,
) -> Player:
    """model: the folder whose tokenizer makes the prompts; by default the recipe's own."""
    if not served_model:
        raise UserError("--server needs --served-model NAME: whose answers they are would be open")
    if concurrency is not None and concurrency < 1:
        raise UserError(f"--concurrency {concurrency}: nothing would ever be asked; give at least 1")

    def policy(temperature: float, max_new_tokens: int, system_prompt: str | None = None) -> Any:
        from agenttuning.policies.openai import OpenAIPolicy

        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "system_prompt": system_prompt}
        return OpenAIPolicy(server, served_model, key_variable=api_key_env, slots=concurrency or CONCURRENCY, **asked)

    @cache
    def lm() -> Any:
        from agenttuning.chat import load_for, load_tokenizer
        from agenttuning.general.servers import server_lm
        from agenttuning.policies.openai import must_answer

        must_answer(server)
        chat_format = recipe.mixture.chat_format
        tokenizer = load_tokenizer(model, None, chat_format) if model else load_for(recipe)
        return server_lm(policy(0.0, 1), tokenizer)

    return Player("server", f"an OpenAI-compatible server, model {served_model}", served_label(served_model),
                  served_model, lm, policy)  # fmt: skip
