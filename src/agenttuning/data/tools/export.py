"""A folder of AgentInstruct rows as native tool calls: data/<split>.jsonl, README.md, and refused.jsonl.

`datasets.load_dataset(FOLDER, "os")` reads a split. The README's YAML declares messages and tools as `Json`: in structs
Arrow gives every call all the arguments of the split, None where it has none, and a chat template would print them. The
same input gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.chat.turns import RowError
from agenttuning.data.folders import new_folder
from agenttuning.data.lock import LOCK, pin
from agenttuning.data.sources import CARDS, SourceCard, fingerprint, load_card, read
from agenttuning.data.tools.convert import NOT_CALLS, drop_opening, forward
from agenttuning.data.tools.schemas import TOOLS
from agenttuning.errors import UserError

SOURCE = "agentinstruct"
_FEATURES = (("id", "dtype: string"), ("messages", "list: json"), ("tools", "list: json"), ("layout", "list: string"))


@dataclass
class Counts:
    """What was read, exported and refused. `layout` is in bytes; `refused` counts (split, reason)."""

    read: Counter = field(default_factory=Counter)
    exported: Counter = field(default_factory=Counter)
    layout: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)


def export(out: str | Path, path: str | Path | None = None, without_opening: bool = False) -> Counts:
    """Write the rows of the data card agentinstruct, or those at `path`, to the new folder `out`; print the counts.

    `without_opening` drops the instruction, acknowledgement and demonstration of every row, which ends reversibility.
    Raises UserError for an `out` that holds something, for no exportable row, and what reading raises.
    """
    out, card, counts = Path(out), pin(load_card(SOURCE), path, lock=CARDS / LOCK), Counts()
    with new_folder(out) as partial:
        (partial / "data").mkdir()
        _write(card, path, partial, counts, without_opening)
        if not counts.exported:
            raise UserError(
                f"none of {counts.read.total()} rows can be exported ({_reasons(counts) or 'there are none'}); the "
                "folder would hold no data; give rows in AgentInstruct's format, e.g. --data rows.jsonl"
            )
        (partial / "README.md").write_text(_readme(card, path, counts, without_opening), encoding="utf-8")
    print(table(counts))
    if counts.refused:
        print(f"refused: {_reasons(counts)}")
    print(f"{out}: load_dataset({str(out)!r}, {min(counts.exported)!r})", flush=True)
    return counts


def _write(card: SourceCard, path: str | Path | None, folder: Path, counts: Counts, without_opening: bool) -> None:
    seen: set[str] = set()
    with ExitStack() as files:
        refused = files.enter_context((folder / "refused.jsonl").open("w", encoding="ascii"))
        data: dict = {}
        for place, raw in read(card, path):
            row_id = raw.get("id") if isinstance(raw, dict) and isinstance(raw.get("id"), str) else None
            named = (row_id or "").rpartition("_")[0]
            split = named if named in TOOLS or named in NOT_CALLS else place
            counts.read[split] += 1
            try:
                row = forward(raw)
                if row_id in seen:
                    raise RowError("the id appeared before")
                row = drop_opening(row) if without_opening else row
            except RowError as error:
                counts.refused[split, _kind(str(error))] += 1
                refused.write(json.dumps({"split": split, "id": row_id, "reason": str(error)}) + "\n")
                continue
            seen.add(row_id)
            if split not in data:
                file = (folder / "data" / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n")
                data[split] = files.enter_context(file)
            data[split].write(json.dumps(row, ensure_ascii=False) + "\n")
            counts.exported[split] += 1
            counts.layout[split] += len("".join(row["layout"]).encode())


def _kind(reason: str) -> str:
    """ "turn 3: no action" and "turn 12: no action" are one kind; what a row itself says is not repeated."""
    place, colon, rest = reason.partition(": ")
    kept = rest if colon and place.startswith("turn ") else reason
    return "".join("N" if char.isdigit() else char for char in kept)


def _reasons(counts: Counts) -> str:
    ordered = sorted(counts.refused.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{number} x {split}: {reason}" for (split, reason), number in ordered)


def table(counts: Counts) -> str:
    """Rows read, exported and refused by split, and the mean bytes of layout in an exported row, as plain text."""
    lines = ["split      read  exported  refused  layout B/row"]
    for split in sorted(counts.read):
        read, exported = counts.read[split], counts.exported[split]
        mean = f"{counts.layout[split] / exported:.1f}" if exported else "-"
        lines.append(f"{split[:9]:<9}{read:>6,}{exported:>10,}{read - exported:>9,}{mean:>14}")
    read, exported = counts.read.total(), counts.exported.total()
    mean = f"{counts.layout.total() / exported:.1f}" if exported else "-"
    return "\n".join([*lines, f"{'all':<9}{read:>6,}{exported:>10,}{read - exported:>9,}{mean:>14}"])


def _readme(card: SourceCard, path: str | Path | None, counts: Counts, without_opening: bool) -> str:
    splits = sorted(counts.exported)
    configs = [
        f"- config_name: {split}\n  data_files:\n  - split: train\n    path: data/{split}.jsonl" for split in splits
    ]
    features = "\n".join(f"  - name: {name}\n    {kind}" for name, kind in _FEATURES)
    infos = [f"- config_name: {split}\n  features:\n{features}" for split in splits]
    opening = "the tasks alone, without what precedes them; not reversible" if without_opening else "whole rows"
    return "\n".join(
        [
            "---", "configs:", *configs, "dataset_info:", *infos, "---", "",
            "# AgentInstruct as native tool calls", "",
            f"Made by `agenttuning export-tools`: {opening}.", "",
            "```", table(counts), "```", "",
            f"Refused, listed in refused.jsonl: {_reasons(counts) or 'none'}.", "",
            "`messages` and `tools` go into `apply_chat_template(messages, tools=tools)` as they are, and into TRL's",
            "SFTTrainer. `arguments` is a mapping. `loss` is AgentInstruct's flag of the turn: true is trained, false",
            "and null are not; TRL does not read it. `layout` is the white space that the way back to the text needs",
            "(`agenttuning.data.tools.back`). Read with `datasets` 4.7 or newer, which has the type Json.", "",
            f"Source: `{json.dumps(fingerprint(card, path), sort_keys=True)}`", "",
        ]
    )  # fmt: skip
