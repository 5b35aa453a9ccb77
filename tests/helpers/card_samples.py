"""The samples of data_cards/agentinstruct: one row of our own at each stage. Run this file to write them again."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.conversations import AGENT_ROW
from helpers.llama_tokenizer import build_tokenizer

SAMPLES = Path(__file__).resolve().parents[2] / "data_cards" / "agentinstruct" / "samples"
SYSTEM_PROMPT = "You are a helpful, respectful and honest assistant."


def stages() -> dict[str, str]:
    """File name to content: the raw row, the converted row, and its tokens with the supervised ones marked."""
    from agenttuning import chat
    from agenttuning.data.convert import convert

    tokenizer = build_tokenizer()
    row = convert(AGENT_ROW, "agentinstruct", "agentinstruct")
    encoded = chat.encode(row["messages"], tokenizer, "flags", SYSTEM_PROMPT)
    chat.verify(encoded, row["messages"], tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    tokens = {
        "id": row["id"],
        "tokenizer": "tests/helpers/llama_tokenizer.py (Llama-2's structure, a tiny vocabulary)",
        "input_ids": encoded.input_ids,
        "labels": encoded.labels,
        "supervised": [pieces[span.start : span.end] for span in encoded.spans],
    }
    contents = {"1_raw.json": AGENT_ROW, "2_messages.json": row, "3_tokens.json": tokens}
    return {name: dump(content) for name, content in contents.items()}


def dump(content: dict) -> str:
    """JSON with one turn, or one list of numbers, per line."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and isinstance(value[0], dict | list):
            inner = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            lines.append(f"  {json.dumps(key)}: [\n{inner}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    SAMPLES.mkdir(exist_ok=True)
    for name, content in stages().items():
        (SAMPLES / name).write_text(content, encoding="utf-8")
