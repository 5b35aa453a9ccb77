"""How replies of the DB task are read and written: AgentBench.old's loop (src/tasks/dbbench/__init__.py).

    ...thoughts...                      ...thoughts...
    Action: Operation                   Action: Answer
    ```sql                              Final Answer: ["...", ...]
    SELECT ...
    ```

The two become the texts `sql: STATEMENT` and `answer:TEXT`, the latter with the blank after the colon, since an answer
that is not a list is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = (
    "You work on a MySQL database to answer a question or to carry out an order. In each turn, first write what you "
    "think, then do one of two things.\n"
    "To run a statement, write:\n"
    "Action: Operation\n"
    "```sql\n"
    "SELECT * FROM `the table` WHERE `a column` = 'a value';\n"
    "```\n"
    "One statement on one line, in the first block of your turn; you are shown what MySQL gives back, unchanged.\n"
    "To end, write:\n"
    "Action: Answer\n"
    'Final Answer: ["first value", "second value"]\n'
    "A question is judged by the values, which must be exactly those of the database. After an order the table is "
    "judged, and the answer may be anything. A turn with neither of the two ends the task, and it is lost."
)
ACKNOWLEDGEMENT = "Ok."

_MARK, _OPEN, _CLOSE, _FINAL = "Action: ", "```sql\n", "\n```", "\nFinal Answer:"


def _after(text: str, start: str, end: str, or_rest: bool = False) -> tuple[int, str] | None:
    # What a lazy regex START(.*?)END finds, but linear: when END is missing after the first START, it is after all.
    opening = text.find(start)
    if opening < 0:
        return None
    closing = text.find(end, opening + len(start))
    if closing < 0:
        return (opening, text[opening + len(start) :]) if or_rest else None
    return opening, text[opening + len(start) : closing]


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """Read a reply as the original does. Never raises, in time linear in its length.

    The first "Action: " that a line break follows counts, and must be followed by "Operation" and nothing else on its
    line; then the first ```sql block is the statement, its line breaks made blanks. Any other reply is an answer, if
    it has a line that begins with "Final Answer:".
    """
    action = _after(reply, _MARK, "\n")
    if action is not None and action[1] == "Operation":
        block = _after(reply, _OPEN, _CLOSE)
        text = None if block is None else "sql: " + block[1].strip().replace("\n", " ")
    else:
        final = _after(reply, _FINAL, "\n", or_rest=True)
        text = None if final is None else "answer:" + final[1]
    ends = [place[0] for place in (action, _after(reply, _FINAL, "\n", or_rest=True)) if place is not None]
    thought = reply[: min(ends, default=len(reply))].strip()
    if text is None:
        return Reading(thought, None)
    return Reading(thought, text[:action_chars], cut=len(text) > action_chars)


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    if action.startswith("sql: "):
        reply = f"{thought}\n{_MARK}Operation\n{_OPEN}{action[5:]}{_CLOSE}"
    else:
        reply = f"{thought}\n{_MARK}Answer{_FINAL}{action.removeprefix('answer:')}"
    if read(reply, len(action) + 1).action != action:
        raise ValueError(
            f"the action {action[:80]!r} cannot be written: it must be one line, `sql: ...` or `answer:...`"
        )
    return reply


FORMAT = Format(read, write)
