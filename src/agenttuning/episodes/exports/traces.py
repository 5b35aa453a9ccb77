"""The Hub's session traces, one JSONL file an episode: a header, then a message a line.

    {"type": "session", "harness": "agenttuning", "id": ..., "name": ..., a record's key, "status", "turns", "episode"}
    {"type": "message", "message": {"role": "user" | "assistant", "content": ..., "model": ...}}

The format is the Hub's "Session Trace Simple Format" (huggingface.co/docs/hub/session-traces-format, read 2026-11-30),
which allows further keys in the header; actions stay in the text, as the model wrote them. A key has the same type in
every file, or `load_dataset` could not read several: what may be null or differs by task (reward, metrics, steps,
error, error_kinds, note) is JSON in the text `episode`, and `model` is empty where the turn is not the model's own.
Files are ASCII, the rest is in JSON escapes: some readers of lines break them at U+2028, too. README.md is the card of
a data set. What looks like a secret is not written: data sets are made to be published.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from agenttuning.episodes.exports import Written, clean, file_name, unique
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.store import KEY
from agenttuning.episodes.trajectory import FRESH, own_turn
from agenttuning.hub.secrets import kinds_in
from agenttuning.report.templating import cell

HARNESS = "agenttuning"


def write(folder: Path, index: Index, chosen: list[Entry], done: Written) -> None:
    """Write <task>/<item>-<digest>.jsonl into `folder`; see `exports.export`. Episodes that the infrastructure ended
    are written, too: their header says so.
    """
    tasks: dict[str, str] = {}
    taken: set[str] = set()
    for entry, record in index.records(chosen):
        if not record["messages"]:
            done.left_out[f"no message ({entry.status})"] += 1
            continue
        text = session(entry, record)
        if found := kinds_in(text.encode()):
            done.left_out[f"holds what looks like a secret ({found[0]})"] += 1
            continue
        if entry.task not in tasks:
            tasks[entry.task] = unique(file_name(entry.task), taken)
            (folder / tasks[entry.task]).mkdir()
        path = folder / tasks[entry.task] / f"{file_name(entry.item)}-{_digest(record)}.jsonl"
        path.write_text(text, encoding="ascii", newline="\n")
        done.counts[f"sessions of {entry.task}"] += 1
    (folder / "README.md").write_text(clean(_card(done)), encoding="utf-8")


def session(entry: Entry, record: dict) -> str:
    """One episode as the text of a session's file."""
    header = {
        "type": "session",
        "harness": HARNESS,
        "id": _digest(record),
        "name": f"{entry.task} {entry.item}: {entry.status}",
        **{name: record[name] for name in KEY},
        "status": entry.status,
        "turns": entry.turns,
    }
    episode = {name: record.get(name) for name in ("reward", "metrics", "steps", "error")}
    episode["error_kinds"] = list(entry.kinds)
    if entry.task in FRESH:
        episode["note"] = "each question was asked alone, behind the messages before the first one"
    header["episode"] = json.dumps(clean(episode))
    lines = [header, *(_message(message, record["model"]) for message in record["messages"])]
    if record.get("last") is not None:
        lines.append(_message({"role": "user", "content": record["last"]}, None))
    return "".join(json.dumps(clean(line)) + "\n" for line in lines)


def _message(message: dict, model: str | None) -> dict:
    own = model if model is not None and own_turn(message) else ""
    return {"type": "message", "message": {"role": message["role"], "content": message["content"], "model": own}}


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps([record[name] for name in KEY]).encode()).hexdigest()[:16]


def _card(done: Written) -> str:
    counted = [f"| {cell(name)} | {number:,} |" for name, number in done.counts.items()]
    left = [f"| left out: {cell(reason)} | {number:,} |" for reason, number in sorted((+done.left_out).items())]
    return "\n".join(
        [
            "---",
            "tags: [agents, agent-traces]",
            "---",
            "",
            "# Agent traces",
            "",
            "One session a file, in the Hub's session trace format. A header holds the episode's key and status, and",
            "as JSON text reward, steps and error kinds. The texts are a model's and an environment's, as they were.",
            "",
            "| what | number |",
            "|---|---|",
            *counted,
            *left,
            "",
        ]
    )
