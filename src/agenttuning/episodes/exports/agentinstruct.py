"""AgentInstruct's rows: {id, conversations: [{from, loss, value}]}, <task>.jsonl.

An episode is one row, under its item's id. Of a task whose questions were asked alone (Mind2Web) every question with
its answer is one, under the item's id and `_0`, `_1`, ... They are not filtered by reward; collection does that.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from agenttuning.collect import conversation
from agenttuning.episodes.exports import Written, clean, file_name, played, unique
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.trajectory import FRESH, conversations


def write(folder: Path, index: Index, chosen: list[Entry], done: Written) -> None:
    """Write the rows into `folder`; see `exports.export`."""
    files, names, taken, ids = {}, {}, set(), set()
    with ExitStack() as stack:
        for entry, record in played(index, chosen, done):
            rows = conversations(record)
            if not rows:
                done.left_out["the model made no turn"] += 1
                continue
            if entry.task not in files:
                names[entry.task] = f"{unique(file_name(entry.task), taken)}.jsonl"
                file = (folder / names[entry.task]).open("w", encoding="ascii", newline="\n")
                files[entry.task] = stack.enter_context(file)
            if entry.task not in FRESH and len(rows[-1]) < len(record["messages"]):
                done.left_out["last observations that no reply followed (their rows are kept)"] += 1
            for number, messages in enumerate(rows):
                name = f"{entry.item}_{number}" if entry.task in FRESH else entry.item
                # a second sample, seed or model of the same item
                row = {"id": unique(clean(name), ids), "conversations": conversation(clean(messages))}
                files[entry.task].write(json.dumps(row) + "\n")
                done.counts[f"rows of {entry.task}"] += 1
    # not README.md: a folder of rows is read as data, with its own data card beside it
    (folder / "LEFT_OUT.txt").write_text(done.text() + "\n", encoding="utf-8")
