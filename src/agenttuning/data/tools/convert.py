"""A row of AgentInstruct as a row of native tool calls, and back, byte for byte.

    {"id", "messages", "tools", "layout"}

messages: as transformers' chat templates take them. An agent's turn is {"role": "assistant", "content": the thought,
"tool_calls": [{"id", "type": "function", "function": {"name", "arguments": a mapping, not a string}}]}, the reply to it
{"role": "tool", "name", "tool_call_id", "content"}. Each message keeps the `loss` of its turn (null, false, true).
tools: the JSON schemas of the split, as TRL's SFTTrainer takes them, the same list in every row.
layout: one short text a message (tools/turns.py); needed for the way back only.

The instruction stays as a user message by default, because without it the row could not be brought back, though it asks
for the text grammar ("Act: bash") that the calls replace. For training, `drop_opening` removes it, with the
acknowledgement and the demonstration: what they explain stands in the descriptions of the tools.
"""

from __future__ import annotations

from agenttuning.chat.turns import RowError, clean_text
from agenttuning.data.convert import Unreadable
from agenttuning.data.convert import convert as check
from agenttuning.data.tools.schemas import ENDING, TOOLS
from agenttuning.data.tools.turns import Turn, read, read_reply, write, write_reply

NOT_CALLS = {"mind2web": "an answer is a choice among the elements of a page, which no function takes"}
_KEYS = {"from", "value", "loss"}


def split_of(row: object) -> str:
    """The split that a row's id names, `os` for os_42, with or without tools. Raises RowError where there is none."""
    if isinstance(row, Unreadable):
        raise RowError(row.reason)
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise RowError("the row has no id")
    split = row["id"].rpartition("_")[0]
    if split in NOT_CALLS:
        raise RowError(NOT_CALLS[split])
    if split not in TOOLS:
        raise RowError("the id names no split that has tools")
    return split


def forward(row: object) -> dict:
    """The row with native tool calls. `back` of it is the row; one of which that is not so raises RowError(reason), as
    do malformed rows and actions that the split's grammar does not have.
    """
    split = split_of(row)
    check(row, "agentinstruct")
    if set(row) != {"id", "conversations"} or not all(set(turn) <= _KEYS for turn in row["conversations"]):
        raise RowError("the row has keys beyond id and conversations, or a turn beyond from, value and loss")
    messages, layout = [], []
    for number, turn in enumerate(row["conversations"]):
        try:
            message, seen = _message(split, turn, messages[-1] if messages else {}, number)
        except RowError as error:
            raise RowError(f"turn {number}: {error}") from None
        messages.append(message)
        layout.append(seen)
    made = {"id": row["id"], "messages": messages, "tools": TOOLS[split], "layout": layout}
    if back(made) != row:
        raise RowError("the text cannot be brought back exactly")
    return made


def _message(split: str, turn: dict, before: dict, number: int) -> tuple[dict, str]:
    flag = {"loss": turn["loss"]} if "loss" in turn else {}
    if turn["from"] == "gpt":
        read_turn = read(split, turn["value"])
        message = {"role": "assistant", "content": read_turn.content, **flag}
        if read_turn.name:
            for value in read_turn.arguments.values():  # an escape in a JSON list may decode to a lone surrogate
                clean_text("".join(value), "an argument")
            function = {"name": read_turn.name, "arguments": read_turn.arguments}
            message["tool_calls"] = [{"id": f"call{number:05d}", "type": "function", "function": function}]
        return message, read_turn.layout
    call = before["tool_calls"][0] if before.get("tool_calls") else None
    if call is None or call["function"]["name"] in ENDING:
        return {"role": "user", "content": turn["value"], **flag}, ""
    reply = read_reply(split, turn["value"])
    message = {"role": "tool", "name": call["function"]["name"], "tool_call_id": call["id"], "content": reply.content}
    return {**message, **flag}, reply.layout


def back(row: dict) -> dict:
    """The AgentInstruct row that `forward` made this one of. Raises RowError where none did."""
    split = split_of(row)
    messages, layout = row.get("messages"), row.get("layout")
    if not isinstance(messages, list) or not isinstance(layout, list) or len(messages) != len(layout):
        raise RowError("messages and layout are not two lists of the same length")
    try:
        turns = [_turn(split, message, seen) for message, seen in zip(messages, layout, strict=True)]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise RowError(f"the row is not one of this export ({type(error).__name__}: {error})") from error
    return {"conversations": turns, "id": row["id"]}


def _turn(split: str, message: dict, layout: str) -> dict:
    flag = {"loss": message["loss"]} if "loss" in message else {}
    role, content = message["role"], message["content"]
    if role == "assistant":
        calls = message.get("tool_calls")
        function = calls[0]["function"] if calls else {}
        text = write(split, Turn(content, function.get("name"), function.get("arguments"), layout))
        return {"from": "gpt", **flag, "value": text}
    if role not in ("user", "tool"):
        raise RowError(f"unknown role {role!r}")
    text = write_reply(split, Turn(content, layout=layout)) if role == "tool" else content
    return {"from": "human", **flag, "value": text}


def drop_opening(row: dict) -> dict:
    """An exported row from its last user message before the first trained turn on: the task, without instruction,
    acknowledgement and demonstration. Every assistant turn that is left is trained, so a trainer that takes all of them
    (TRL's assistant_only_loss) keeps to the flags. Raises RowError where that cannot be.
    """
    trained = next((n for n, message in enumerate(row["messages"]) if message.get("loss") is True), None)
    if trained is None:
        raise RowError("no turn is trained, so the opening has no end")
    first = max(n for n in range(trained) if row["messages"][n]["role"] == "user")
    if not all(message.get("loss") is True for message in row["messages"][first:] if message["role"] == "assistant"):
        raise RowError("an untrained turn follows the opening")
    return {**row, "messages": row["messages"][first:], "layout": row["layout"][first:]}
