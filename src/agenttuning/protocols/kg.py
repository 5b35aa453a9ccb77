"""How replies are read in the knowledge graph task (AgentBench.old, src/tasks/knowledgegraph/task.py, predict_single).

    Thought: ...                           Thought: ...
    Action: get_relations(Ada Lovelace)    Final Answer: #2

A reply ends where the model goes on to play the environment, at "Observation:", and `\\_` is `_`; what is left takes
the reply's place in the history. `Final Answer: #k` (or `Find Answer:`) anywhere in it is the answer; else the first
line that begins with "Action" and has a colon is the action; else the model is told so and the episode goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = """Answer questions about a graph of entities that relations connect. You have these tools:

get_relations(x): the relations that lead away from x, an entity of the question or a variable such as #0.
get_neighbors(x, relation): a new variable, all that the relation leads to from x. Ask get_relations for x first.
intersection(x, y): a new variable, what two variables of the same type have in common.
get_attributes(x): the attributes with a number or a date that the members of a variable have.
argmax(x, attribute): a new variable, the members of x with the largest value. Ask get_attributes for x first.
argmin(x, attribute): a new variable, the members of x with the smallest value. Ask get_attributes for x first.
count(x): a new variable, the number of members of x.

Variables are numbered from #0 in the order in which they are made. Call one tool a turn, after a thought:

Thought: what you know and what you need
Action: get_relations(name of an entity)

When a variable holds the answer, end with its number in place of an action, like this:

Final Answer: #3

You have 15 turns."""
ACKNOWLEDGEMENT = "I will call one tool a turn and end with the variable that holds the answer."
LEAD = "Question: "

NO_ACTION = "No executable function found! Need to recheck the action."
_ANSWER = re.compile(r"(?:Find|Final) Answer: #(\d+)")


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """Read a reply. Never raises, in time linear in its length. The action is the line after "Action...:", unless a
    parenthesis opens before the colon, for then the original would look for functions there too.
    """
    kept = reply.partition("Observation:")[0].replace("\\_", "_")
    found = _ANSWER.search(kept)
    if found is not None:
        action = f"Final Answer: #{found[1]}"
        return Reading(_thought(kept[: found.start()]), action[:action_chars], len(action) > action_chars, keep=kept)
    place = 0
    for line in kept.split("\n"):
        if line.startswith("Action") and ":" in line:
            head, _, rest = line.partition(":")
            action = line if "(" in head else rest.strip()
            return Reading(_thought(kept[:place]), action[:action_chars], len(action) > action_chars, keep=kept)
        place += len(line) + 1
    return Reading(_thought(kept), None, keep=kept, tell=NO_ACTION)


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    reply = f"Thought: {thought}\n{action if _ANSWER.fullmatch(action) else f'Action: {action}'}"
    reading = read(reply, len(action) + 1)
    if reading.action != action or reading.keep != reply:
        raise ValueError(f"the action {action[:80]!r} cannot be written after the thought {thought[:80]!r}")
    return reply


def _thought(text: str) -> str:
    text = text.strip()
    return text[8:].strip() if text[:8].lower() == "thought:" else text


FORMAT = Format(read, write)
