"""The rows of a step that went wrong, and the conversations in them, for the message and for run_dir/diverged.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from agenttuning.data.whose import conversations
from agenttuning.training import checkpoints

RECORD = "diverged.json"
SHOWN = 3  # rows named in the message, and conversations of each; the record holds all

Row = tuple[int, list[float]]  # number in the data set, loss of each token but the first


class Wrong(NamedTuple):
    """What was seen and what it would have done; what to do about it."""

    what: str
    advice: str


def by_row(rows: list[list[int]], losses: torch.Tensor) -> list[Row]:
    """The rows of a micro-batch, given as [number, tokens], with their losses, which lie one below the other or end to
    end.
    """
    if len(losses) == len(rows):
        return [(number, losses[place, : length - 1].tolist()) for place, (number, length) in enumerate(rows)]
    starts = numpy.cumsum([0, *(length for _, length in rows)])
    return [(row[0], losses[0, at : at + row[1] - 1].tolist()) for row, at in zip(rows, starts, strict=False)]


def report(run_dir: Path, step: int, wrong: Wrong, rows: list[Row], dataset: Any, newest: int) -> str:
    """Write run_dir/diverged.json and return the message. newest: the last step whose checkpoint may be called good."""
    found = describe(rows, dataset, run_dir / "data")
    good = [path for path in checkpoints.in_order(run_dir) if int(path.name.rpartition("-")[2]) <= newest]
    good = [path for path in good if checkpoints.read_manifest(path) is not None]
    record = {"step": step, "what": wrong.what, "last_good": str(good[0]) if good else None, "rows": found}
    path = checkpoints.write_synced(run_dir / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    broken = [row for row in found if row["loss"] is not None and not math.isfinite(row["loss"])]
    listed = _listed("row", map(_named, (broken or found)[:SHOWN]), len(broken or found))
    return (
        f"{wrong.what}, so the run was stopped before it. "
        f"{'The loss is no number in' if broken else 'Its rows, highest loss first:'} {listed} ({path} lists all). "
        f"{wrong.advice}. {f'The last good checkpoint is {good[0]}' if good else 'No good checkpoint was saved'}"
    )


def describe(rows: list[Row], dataset: Any, prepared: Path) -> list[dict[str, Any]]:
    """The rows of a step, worst first: number in the data set, mean loss per supervised token (None without any), and
    the conversations in the row, in order, each with its ids ("source: id") and its own mean loss.
    """
    found, wanted = [], []
    for number, losses in rows:
        row = dataset[number]
        ends = numpy.cumsum(row["seq_lengths"]) if "seq_lengths" in row else numpy.array([len(row["labels"])])
        parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        by_token, labels = numpy.array([0.0, *losses]), numpy.asarray(row["labels"])
        wanted += [row["input_ids"][part] for part in parts]
        inside = [{"ids": [], "loss": _mean(by_token[part], labels[part])} for part in parts]
        found.append({"row": number, "loss": _mean(by_token, labels), "conversations": inside})
    ids = iter(conversations(prepared, wanted))
    for row in found:
        for part in row["conversations"]:
            part["ids"] = next(ids)
    return sorted(found, key=_badness, reverse=True)


def _mean(losses: numpy.ndarray, labels: numpy.ndarray) -> float | None:
    supervised = labels != -100
    return float(losses[supervised].mean()) if supervised.any() else None


def _badness(part: dict[str, Any]) -> float:
    loss = part["loss"]
    return -math.inf if loss is None else loss if math.isfinite(loss) else math.inf


def _named(row: dict[str, Any]) -> str:
    loss = "without supervised tokens" if row["loss"] is None else f"loss {row['loss']:.4f}"
    parts = sorted(row["conversations"], key=_badness, reverse=True)
    broken = [part for part in parts if part["loss"] is not None and not math.isfinite(part["loss"])] or parts
    ids = [" or ".join(part["ids"]) or "not found in the data" for part in broken[:SHOWN]]
    return f"{row['row']} ({loss}: {_listed('conversation', ids, len(broken))})"


def _listed(what: str, names: Any, number: int) -> str:
    more = f" and {number - SHOWN} more" if number > SHOWN else ""
    return f"{what}{'s' * (number != 1)} {'; '.join(names)}{more}"
