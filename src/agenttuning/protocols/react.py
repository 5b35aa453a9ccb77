"""What the model is shown and how it is read: ReAct (Yao et al. 2023), a thought before every action.

    user       INSTRUCTION of the task                 loss False
    assistant  ACKNOWLEDGEMENT of the task             loss False
    user       first observation, which has the goal   loss False
    assistant  Thought: ...\\nAction: ...               loss True
    user       observation ...

The same functions write the training trajectories and the evaluation prompts, so the two match by construction.
"""

from __future__ import annotations

from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading, declines


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    reply = f"Thought: {thought}\nAction: {action}"
    if read(reply, len(action) + 1).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written as one line after 'Action:'")
    return reply


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
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
            return Reading(thought, None)
        return Reading(thought, action[:action_chars].strip(), cut=len(action) > action_chars)
    return Reading(_thought(lines), None)


def _thought(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    return text[8:].strip() if text[:8].lower() == "thought:" else text


def is_refusal(reply: str) -> bool:
    """True for a reply that has no action and declines the task."""
    return read(reply, 1).action is None and declines(reply)


FORMAT = Format(read, write)
