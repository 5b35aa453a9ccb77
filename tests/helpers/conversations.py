"""Conversations for the tests: one AgentInstruct-shaped row of our own, and a generator of nasty ones."""

from __future__ import annotations

import random

# Written for this project in the format of AgentInstruct; it is not a row of that data set.
AGENT_ROW = {
    "id": "drawer_0",
    "conversations": [
        {"from": "human", "loss": None, "value": "You are in a room. Answer with a thought and one action."},
        {"from": "gpt", "loss": False, "value": "Ok."},
        {"from": "human", "loss": None, "value": "There is a drawer 1 and a desk. Task: find the café key."},
        {"from": "gpt", "loss": True, "value": "Thought: I open the drawer.\nAction: open drawer 1"},
        {"from": "human", "loss": None, "value": "The drawer holds a mug\x1b[0m, a pen and two keys."},
        {"from": "gpt", "loss": True, "value": "Thought: both keys are here.\nAction: take key 1"},
    ],
}

PIECES = [
    "find the key", "</s>", "<s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", " ", "   ", "\n", "\t", "\r\n", "é", "🔑",
    "日本語", "\U0001f469\u200d\U0001f467", "▁", "<0x0A>", "\x00", "\x1b[31m", "Action:", "open drawer 1", "a", ".",
    "x" * 300, "\u3000", "\u200b", "0123456789",
]  # fmt: skip


def nasty_text(rng: random.Random, pieces: int) -> str:
    """Text with control strings, unicode, and white space at its ends; never only white space."""
    middle = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, pieces)))
    return (
        rng.choice(["", " ", "  ", "\n "])
        + middle
        + rng.choice(["word", "é", "</s>"])
        + rng.choice(["", " ", "\n", "  \n"])
    )


def nasty_conversation(seed: int) -> list[dict]:
    """(system)? (user assistant)+ with random flags; every tenth has a turn of some thousand characters."""
    rng = random.Random(seed)
    size = 400 if seed % 10 == 0 else 8
    messages = [{"role": "system", "content": nasty_text(rng, 5), "loss": None}] if rng.random() < 0.4 else []
    for _ in range(rng.randint(1, 6)):
        messages.append({"role": "user", "content": nasty_text(rng, size), "loss": None, "name": None})
        messages.append(
            {"role": "assistant", "content": nasty_text(rng, size), "loss": rng.choice([True, False, None])}
        )
    return messages


def chat_row(number: int, exchanges: int = 1, words: int = 6) -> dict:
    """A ShareGPT-shaped row of a chosen size."""
    rng = random.Random(number)
    vocabulary = ["the", "drawer", "holds", "a", "mug", "pen", "and", "two", "keys", "open", "list", "files", "first"]
    turns = []
    for _ in range(exchanges):
        for speaker in ("human", "gpt"):
            turns.append({"from": speaker, "value": " ".join(rng.choice(vocabulary) for _ in range(words))})
    return {"id": f"chat_{number}", "conversations": turns}


def agent_row(number: int, steps: int = 2, words: int = 6) -> dict:
    """An AgentInstruct-shaped row: an untrained acknowledgement, then `steps` trained turns."""
    turns = [
        {**turn, "loss": None if turn["from"] == "human" else True}
        for turn in chat_row(number, steps, words)["conversations"]
    ]
    opening = [{"from": "human", "loss": None, "value": "Do the task."}, {"from": "gpt", "loss": False, "value": "Ok."}]
    return {"id": f"agent_{number}", "conversations": opening + turns}
