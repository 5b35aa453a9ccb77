"""What the model is shown and how it is read: ReAct (Yao et al. 2023), a thought before every action.

    user       INSTRUCTION of the task                 loss False
    assistant  ACKNOWLEDGEMENT of the task             loss False
    user       first observation, which has the goal   loss False
    assistant  Thought: ...\\nAction: ...               loss True
    user       observation ...

The same functions write the training trajectories and the evaluation prompts, so the two match by construction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Message = dict  # {"role": "user" | "assistant", "content": str, "loss": bool}

_REFUSALS = re.compile(
    r"\bas an ai\b|\bi(?: am|'m) (?:just |only )?an? (?:ai|language model)\b|\bi apologi[sz]e\b|\bi(?: am|'m) sorry\b"
    r"|\bi (?:cannot|can't|can not|will not|won't|am not able to|am unable to|'m unable to)\b"
)
_REFUSAL_WINDOW = 300  # characters; a refusal opens a reply, and a long reply that mentions one is not one


@dataclass(frozen=True)
class Parsed:
    """A reply as read: `action` is None without an action line; `cut`: the action was longer than allowed."""

    thought: str
    action: str | None
    cut: bool = False


def opening(instruction: str, acknowledgement: str, observation: str) -> list[Message]:
    """The messages before the model's first turn."""
    return [user(instruction), assistant(acknowledgement, loss=False), user(observation)]


def user(content: str) -> Message:
    """A message of the environment."""
    return {"role": "user", "content": content, "loss": False}


def assistant(content: str, loss: bool = True) -> Message:
    """A message of the model, verbatim: chat decides what is stripped, for training and prompting alike."""
    return {"role": "assistant", "content": content, "loss": loss}


def render(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `parse` would not give the action back."""
    reply = f"Thought: {thought}\nAction: {action}"
    if parse(reply, len(action) + 1).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written as one line after 'Action:'")
    return reply


def parse(reply: str, action_chars: int) -> Parsed:
    """Read a reply. Never raises, in time linear in its length.

    The action is the rest of the first line that starts with "Action:" (any case), or the next line that is not blank
    when nothing follows; stripped; cut to `action_chars`. What comes after is a model playing on by itself: ignored.
    """
    lines = reply.split("\n")
    for number, line in enumerate(lines):
        head = line.lstrip()
        if head[:7].lower() != "action:":
            continue
        following = (text.strip() for text in lines[number + 1 :])
        action = head[7:].strip() or next((text for text in following if text), "")
        thought = _thought(lines[:number])
        if not action:
            return Parsed(thought, None)
        return Parsed(thought, action[:action_chars].strip(), cut=len(action) > action_chars)
    return Parsed(_thought(lines), None)


def _thought(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    return text[8:].strip() if text[:8].lower() == "thought:" else text


def is_refusal(reply: str) -> bool:
    """True for a reply that has no action and opens with an apology or a refusal.

    The paper counts "refuse to answer" by rules which it does not print; these phrases are our choice.
    """
    return (
        parse(reply, 1).action is None
        and _REFUSALS.search(reply[:_REFUSAL_WINDOW].lower().replace("’", "'")) is not None
    )
