"""WebShop's format: a thought, then an action on a line of its own (AgentBench.old, src/tasks/webshop).

Thought:
I think ...

Action:
search[keywords]    or    click[text]
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = """\
You visit a web shop for a customer, who says what to buy. In each round you are told what the page shows and which \
actions it has: a search bar or none, and the texts that can be clicked. Choose one action. `search[words]` looks for \
products where there is a search bar; `click[text]` presses one of the clickable texts, and does nothing with any \
other. Compare products with what the customer asks for, set the options they want, and buy with `click[Buy Now]`. \
You have ten rounds. Write each answer like this:

Thought:
what you think about the page

Action:
search[words] or click[text]"""
ACKNOWLEDGEMENT = "Ok."
LEAD = ""  # the environment writes the whole message

# AgentBench.old's expression. No dot crosses a line and "Action" begins at one place only, so it is linear.
_ACTION = re.compile(r"[Aa]ction: *\n *((?:search|click)\[.+?\])")


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """The first action that stands below an "Action:"; it ends at the first "]". Never raises."""
    found = _ACTION.search(reply)
    if found is None:
        return Reading(_thought(reply), None)
    action = found.group(1)
    return Reading(_thought(reply[: found.start()]), action[:action_chars], cut=len(action) > action_chars)


def _thought(text: str) -> str:
    text = text.strip()
    return text[8:].strip() if text[:8].lower() == "thought:" else text


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    reply = f"Thought:\n{thought}\n\nAction:\n{action}"
    if read(reply, len(action) + 1).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written below 'Action:'")
    return reply


FORMAT = Format(read, write)
