"""Who answers. A policy is any callable `policy(turns: list[Turn]) -> list[str | ContextLimit]`, one reply a turn.

All policies share this one face. A model looks at `messages` only; the scripted ones also look at `env`. A reply must
depend on its own turn alone, never on what else is in the batch: randomness is drawn from `Turn.rng`, so that a batch,
one-by-one play, a retry and a resumed run give the same episodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """A question to a policy: the `messages` it is shown (do not change them), the item's id, the turn's number from 0.

    `write(thought, action)` gives a reply in the task's format; scripted policies use it, models do not.
    """

    messages: list[dict]
    item: str
    number: int
    env: Any = None
    write: Callable[[str, str], str] | None = None

    def rng(self, seed: int) -> random.Random:
        """A generator which is the same for the same seed, item and turn."""
        return random.Random(f"{seed}/{self.item}/{self.number}")


@dataclass(frozen=True)
class ContextLimit:
    """In place of a reply: the prompt and a whole reply need more tokens than the model has room for."""

    prompt_tokens: int
    limit: int


Policy = Callable[[list[Turn]], list["str | ContextLimit"]]
