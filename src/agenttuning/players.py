"""Who plays: a model in this process, or one behind an OpenAI-compatible server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.model_files import find_model, model_digest
from agenttuning.protocols import Protocol

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

CONCURRENCY = 64


def player(
    recipe: Recipe,
    model: str | None,
    server: str | None,
    served_model: str | None,
    api_key_env: str | None,
    concurrency: int | None,
    label: str | None = None,
) -> tuple[Callable[[Protocol], Any], str, str]:
    """(makes the policy of a protocol, label of the results, name of the weights). Raises UserError for no model.

    label: of the results, instead of the one that follows from the model.

    There is no system prompt in either: AgentBench.old asked without one (its fschat 0.2.31 has an empty one for
    llama-2), whatever the recipe trains with.
    """
    if server is None:
        if served_model or api_key_env or concurrency is not None:
            raise UserError(
                "--served-model, --api-key-env and --concurrency go with --server; they would do nothing here"
            )
        path, its_own = find_model(recipe, model)
        label = label or its_own
        return (lambda rules: _in_process(recipe, path, rules)), label, f"{label}@{model_digest(path)[:16]}"
    if model is not None or not served_model:
        raise UserError(
            "--server asks a model by the name it has there, not by a folder; whose answers they were would be open; "
            "give --served-model NAME and no --model"
        )
    if concurrency is not None and concurrency < 1:
        raise UserError(f"--concurrency {concurrency}: nothing would ever be asked; give at least 1")

    def make(rules: Protocol) -> Any:
        from agenttuning.policies.openai import OpenAIPolicy, must_answer

        must_answer(server)
        decoding = rules.decoding
        return OpenAIPolicy(
            server,
            served_model,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            truncate_prompt_tokens=decoding.truncate_prompt_tokens,
            key_variable=api_key_env,
            slots=concurrency or CONCURRENCY,
        )

    return make, label or served_label(served_model), served_model


def served_label(name: str) -> str:
    """The label of the results of a model behind a server, a folder's name."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    return f"served-{cleaned or 'served'}"


def _in_process(recipe: Recipe, path: Any, rules: Protocol) -> Any:
    from agenttuning.policies.transformers_policy import load

    decoding = rules.decoding
    return load(
        path,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        truncate_prompt_tokens=decoding.truncate_prompt_tokens,
        chat_format=recipe.mixture.chat_format,
    )
