"""The whole reply is the action, and the conversation before it is the server's (environments/agentbench_remote.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from agenttuning.protocols.messages import Format, Message, Prompt, Reading, assistant, user


@dataclass(frozen=True)
class Given(Prompt):
    """Nothing of ours: the first observation is the conversation so far, as JSON."""

    source: str = "the server"

    def opening(self, observation: str) -> list[Message]:
        """The messages before the model's first turn. Raises ValueError or KeyError for another text."""
        turns = json.loads(observation)
        return [
            user(turn["content"]) if turn["role"] == "user" else assistant(turn["content"], loss=False)
            for turn in turns
        ]


def prompts(_item: dict) -> Prompt:
    """The prompt of every item."""
    return Given(())


def write(_thought: str, action: str) -> str:
    """The action as it is: it is the reply. Raises ValueError for an empty one."""
    if not action:
        raise ValueError("an empty reply is no action")
    return action


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """The reply as it is, cut to `action_chars`. Never raises. An empty reply is an action too: the server says what it
    is worth.
    """
    return Reading("", reply[:action_chars], cut=len(reply) > action_chars)


FORMAT = Format(read, write)
