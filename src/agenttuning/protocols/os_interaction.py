"""The os task's format: `Think:` and `Act:` lines, with bash code in fenced blocks.

How a reply is read is AgentBench.old's rule (src/tasks/os_interaction/task.py, extract_action), kept to the letter:
every `Think:` and `Act:` counts, wherever it stands; of the acts the last that can be read is taken; the code is every
```bash block of the reply, also those of earlier acts. The practice prompt is in our own words.
"""

from __future__ import annotations

from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = (
    "You work at the terminal of a Linux machine, as root. I give you a problem: a question about the machine, or "
    "something to be done on it. In each turn say first what you think, and then take one action.\n\n"
    "To run commands:\n\nThink: what you want to find out or do.\n\nAct: bash\n\n```bash\n# commands\n```\n\n"
    "To answer the question, and only with what is asked for:\n\nThink: how you know.\n\nAct: answer(the answer)\n\n"
    "When the work is done and nothing was asked:\n\nThink: why it is done.\n\nAct: finish\n\n"
    "You are shown what the terminal prints, and only the beginning when it is long. Do not start programs that wait "
    "for somebody to type."
)
ACKNOWLEDGEMENT = "Ok."
LEAD = "The problem is:\n\n"

_BLOCK, _END = "```bash\n", "\n```"


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None = None) -> Reading:
    """Read a reply. Never raises, in time linear in its length; code and answers are cut to `action_chars`.

    Actions are `bash: CODE`, `answer: TEXT` and `finish`. Act: bash without a block is a command of nothing.
    """
    thought = "\n".join(_after(reply, "Think:"))
    for act in reversed(_after(reply, "Act:")):
        head = act[:6].lower()
        if head.startswith("bash"):
            return _cut(thought, "bash:", _code(reply), action_chars)
        if head == "finish":
            return Reading(thought, "finish")
        if head == "answer":
            left, right = act.find("(", 6), act.rfind(")")
            if left < 0 or right < 6:
                continue
            return _cut(thought, "answer:", act[left + 1 : right], action_chars)
    return Reading(thought, None)


def write(thought: str, action: str) -> str:
    """The reply with this thought and action. Raises ValueError when `read` would not give the action back."""
    if action == "finish":
        act = "finish"
    elif action.startswith("answer: "):
        act = f"answer({action[8:]})"
    elif action.startswith("bash: "):
        act = f"bash\n\n{_BLOCK}{action[6:]}{_END}"
    else:
        raise ValueError(f"the action {action[:80]!r} is none of `bash: `, `answer: ` and `finish`")
    reply = f"Think: {thought}\n\nAct: {act}"
    if read(reply, len(action) + 1).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written so that it is read again")
    return reply


def _cut(thought: str, kind: str, text: str, limit: int) -> Reading:
    return Reading(thought, f"{kind} {text[:limit]}", cut=len(text) > limit)


def _after(reply: str, word: str) -> list[str]:
    """What re.findall(word + r"\\s*(.+)", reply) gives: the rest of the line, or the next line that is not blank."""
    found, place = [], reply.find(word)
    while place >= 0:
        start = place + len(word)
        while start < len(reply) and reply[start].isspace():
            start += 1
        end = reply.find("\n", start)
        end = len(reply) if end < 0 else end
        if start == end:
            # Only white space is left. `.` would take back the last of it that is no line end; nothing starts so.
            break
        found.append(reply[start:end])
        place = reply.find(word, end)
    return found


def _code(reply: str) -> str:
    """Every block, joined by blank lines."""
    blocks, place = [], reply.find(_BLOCK)
    while place >= 0:
        start = place + len(_BLOCK)
        end = reply.find(_END, start)
        if end < 0:
            break
        blocks.append(reply[start:end])
        place = reply.find(_BLOCK, end + len(_END))
    return "\n\n".join(blocks)


FORMAT = Format(read, write)
