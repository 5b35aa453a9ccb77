"""Which part of a conversation the model is shown: AgentBench.old's filter (src/agent.py, Session.filter_messages)."""

from __future__ import annotations

from agenttuning.protocols.messages import Message


def count_segments(text: str) -> int:
    """AgentBench's own measure of length: each begun 7 letters of a run of letters, and each other character that is
    neither space nor newline, count 1.
    """
    segments = run = 0
    for character in text:
        if character.isalpha():
            segments += run % 7 == 0
            run += 1
        else:
            segments += character not in " \n"
            run = 0
    return segments


def newest(messages: list[Message], limit: int) -> list[Message]:
    """The first message and the newest ones that stay below `limit` segments with it, beginning with a reply.

    When messages are left out, the first says so; the notice is the original's, word for word, as it is part of what
    the model reads.
    """
    first, rest = messages[0], messages[1:]
    used, start = count_segments(first["content"]), len(rest)
    for place in range(len(rest) - 1, -1, -1):
        used += count_segments(rest[place]["content"])
        if used >= limit:
            break
        start = place
    if start < len(rest) and rest[start]["role"] == "user":
        start += 1
    if start == 0:
        return messages
    notice = f"{first['content']}\n\n[NOTICE] {start} messages are omitted."
    return [{**first, "content": notice}, *rest[start:]]
