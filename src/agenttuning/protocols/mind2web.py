"""How a question about a web page is answered: `Answer: C.`, `Action: TYPE`, `Value: New York`, after a thought.

Read as AgentBench.old reads it (src/tasks/mind2web/task.py, postprocess_action_llm): each part is the first match in
the reply, wherever it stands. Every question is a conversation of its own, so no text of ours stands before the first
one only. The practice prompt is in our own words; the paper's is three worked examples, from the user's checkout.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agenttuning.environments.mind2web.answer import Answer, read_answer, write_answer
from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = """You finish a task on a web site, one step at a time. Each message shows a part of the page, the task,
the steps taken so far and a list of choices. Choose the element for the next step and say what to do with it:

Thought: why this is the next step, in one sentence
Answer: the letter of the choice
Action: CLICK, TYPE or SELECT
Value: what to type, or the option to select

Answer A where no choice is the next step; Action and Value are then left out. Value is left out for CLICK."""
ACKNOWLEDGEMENT = "Ok."
LEAD = ""

_ANSWER = re.compile(r"Answer: ([A-F])")
_ACTION = re.compile(r"Action: (CLICK|SELECT|TYPE)")
_VALUE = re.compile(r"Value: (.*)$", re.MULTILINE)


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    answer = read_answer(action)
    lines = [f"Thought: {thought}", f"Answer: {answer.letter}."]
    lines += [f"Action: {answer.operation}"] if answer.operation else []
    lines += [f"Value: {answer.value}"] if answer.value else []
    reply = "\n".join(lines)
    if read(reply, len(action) + 1).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written after the thought {thought[:80]!r}")
    return reply


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """Read a reply. Never raises, in time linear in its length.

    The action is in the grammar of environments/mind2web/answer.py, cut to `action_chars`. A reply without an answer
    has the letter `-`; the environment counts it as A, as the original does, and as not valid.
    """
    text = reply.strip()
    letter, operation, value = (pattern.search(text) for pattern in (_ANSWER, _ACTION, _VALUE))
    parts = (match.group(1).strip() if match else "" for match in (letter, operation, value))
    action = write_answer(Answer(*parts))
    thought = (text[: letter.start()] if letter else text).strip()
    return Reading(
        thought.removeprefix("Thought:").strip(), action[:action_chars].strip(), cut=len(action) > action_chars
    )


FORMAT = Format(read, write, fresh=True)
