"""Batched decoding for small models on a CPU: a plain loop over a key-value cache.

transformers' own `generate` keeps finished rows in the batch until the last one ends, and pays some milliseconds of
checks a token. This loop drops a row at its last token. `tests/unit/test_policies.py` holds it to `generate`'s tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int | Sequence[int],
    stop: set[int],
    pad: int,
    temperature: float = 0.0,
    rngs: list[random.Random] | None = None,
    width: int = 32,
) -> list[list[int]]:
    """New token ids for each prompt, in the order given, without the stop token. `max_new_tokens` is one number for
    all, or one for each prompt.

    Prompts are sorted by length and decoded `width` at a time, left-padded. Greedy at `temperature` 0; otherwise token
    by token from the tempered distribution with the row's own generator in `rngs`, so that a row does not depend on its
    neighbours. Prompt and reply must fit the model's context; the caller checks. Raises ValueError for an empty prompt
    or for sampling without generators.
    """
    import torch

    if any(not prompt for prompt in prompts):
        raise ValueError("an empty prompt has no last token to go on from")
    if temperature > 0 and (rngs is None or len(rngs) != len(prompts)):
        raise ValueError("sampling needs one generator a prompt")
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    replies: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), width):
                rows = order[start : start + width]
                chosen = [rngs[row] for row in rows] if rngs is not None else None
                most = [limits[row] for row in rows]
                found = _decode(model, [prompts[row] for row in rows], most, stop, pad, temperature, chosen)
                for row, reply in zip(rows, found, strict=True):
                    replies[row] = reply
    finally:
        model.train(was_training)
    return replies


def _decode(
    model: PreTrainedModel,
    prompts: list[list[int]],
    limits: list[int],
    stop: set[int],
    pad: int,
    temperature: float,
    rngs: list[random.Random] | None,
) -> list[list[int]]:
    import torch
    from transformers import DynamicCache

    longest = max(map(len, prompts))
    device = model.device
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    # Positions count real tokens only: with left padding the default 0..n would shift every rotary angle.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    live = list(range(len(prompts)))
    replies: list[list[int]] = [[] for _ in prompts]
    for _ in range(max(limits)):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = _choose(logits, temperature, [rngs[row] for row in live] if rngs else None)
        keep = []
        for place, token in enumerate(tokens):
            if token not in stop:
                replies[live[place]].append(token)
                if len(replies[live[place]]) < limits[live[place]]:
                    keep.append(place)
        if not keep:
            break
        ids = torch.tensor([[tokens[place]] for place in keep], device=device)
        positions = positions[:, -1:] + 1
        if len(keep) < len(live):
            index = torch.tensor(keep, device=device)
            live = [live[place] for place in keep]
            cache.batch_select_indices(index)
            mask, positions = mask[index], positions[index]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)
    return replies


def _choose(logits: torch.Tensor, temperature: float, rngs: list[random.Random] | None) -> list[int]:
    """One token id a row of `logits` (rows x vocabulary)."""
    if temperature <= 0:
        return logits.argmax(-1).tolist()
    import torch

    sums = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    draws = torch.tensor([[rng.random()] for rng in rngs], dtype=sums.dtype, device=sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, draws, right=True).clamp(max=logits.shape[-1] - 1).flatten().tolist()
