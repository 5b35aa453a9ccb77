"""Who answers. There are two faces.

A policy in this process is a callable `policy(turns: list[Turn]) -> list[str | ContextLimit]`, one reply a turn, which
is asked for all live episodes at once. A policy that waits for something else has `async def ask(turn: Turn) -> str |
ContextLimit` instead, and may have `slots`, the most questions at a time. Where it has `__aenter__`, it is entered for
the time of a run.

A model looks at `messages` only; the scripted policies also look at `env`. A reply must depend on its own turn alone,
never on what else is asked at the time: randomness is drawn from `Turn.rng`, so that a batch, one-by-one play, a retry
and a resumed run give the same episodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


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
    """In place of a reply: the prompt and a whole reply need more tokens than the model has room for (0: not said)."""

    prompt_tokens: int
    limit: int


class GaveUp(Exception):
    """Raised by a policy that has asked again by itself, or knows that it would be in vain: the runner does not."""


class AsyncPolicy(Protocol):
    """The face of a policy that waits for something outside of this process."""

    async def ask(self, turn: Turn) -> str | ContextLimit:
        """One reply. Raises GaveUp for what asking again would not mend, UserError for what ends the run."""


BatchPolicy = Callable[[list[Turn]], list["str | ContextLimit"]]
Policy = BatchPolicy | AsyncPolicy
