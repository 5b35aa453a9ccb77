"""Whom the general benchmarks are asked: a model in this process, in vLLM, or behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.model_files import find_model, model_digest

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

BACKENDS = ("transformers", "vllm", "server")


@dataclass(frozen=True)
class Player:
    """backend: its name, and `says` what it is. label: of the results; model: of the weights. lm() loads what lm-eval
    asks; policy(temperature, max_new_tokens, system_prompt) is who answers in a conversation.
    """

    backend: str
    says: str
    label: str
    model: str
    lm: Callable[[], Any]
    policy: Callable[..., Any]


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
        raise UserError("no server yet")
    if served_model or api_key_env or concurrency is not None:
        raise UserError("--served-model, --api-key-env and --concurrency go with --server; they would do nothing here")
    path, label = find_model(recipe, model)
    loaded: dict[str, Any] = {}

    def load() -> Any:  # once, and not before everything else is ready
        if not loaded:
            from agenttuning.policies.transformers_policy import load as load_policy

            loaded["policy"] = load_policy(path, max_new_tokens=1, chat_format=recipe.mixture.chat_format)
        return loaded["policy"]

    def lm() -> Any:
        from agenttuning.general.lm import transformers_lm

        return transformers_lm(load().model, load().tokenizer)

    def policy(temperature: float, max_new_tokens: int, system_prompt: str | None = None) -> Any:
        from agenttuning.policies.transformers_policy import TransformersPolicy

        return TransformersPolicy(
            load().model,
            load().tokenizer,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            system_prompt=system_prompt,
        )

    says = "transformers in this process, lm-eval's HFLM"
    return Player("transformers", says, label, f"{label}@{model_digest(path)[:16]}", lm, policy)
