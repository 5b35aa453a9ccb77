"""What becomes of each raw row of a source: converted, judged by the filters, encoded, verified, fitted to max_length.

Here stands what a row's own content decides, so that any process comes to the same records and rows. What depends on
other rows (an id that comes twice, a duplicate) is decided in data/pool.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow

from agenttuning.chat import Encoded, RowError, encode_each, verify
from agenttuning.data import defects, duplicates
from agenttuning.data.convert import convert
from agenttuning.data.language import Language
from agenttuning.data.overlong import fit, supervised
from agenttuning.data.sources import SourceCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.contamination import Check

BATCH = 64  # conversations per tokenizer call, so that a worker holds little
_text, _counts = pyarrow.string(), pyarrow.list_(pyarrow.int32())

# What can be drawn.
ROWS = pyarrow.schema([("input_ids", _counts), ("labels", _counts), ("source", _text), ("id", _text)])

# One for each raw row. converted: it was well-formed, so its id is known; quarantined, dropped: the reason, or null.
# rows: how many can be drawn, and of each its tokens (lengths) and supervised tokens; supervised_read: those of the
# whole conversation; bos: `<s>` among the rows' tokens; digest, signature: data/duplicates.py, and
# spans: data/contamination.py (begin, end, begin, end, ...), where they are asked for.
RECORDS = pyarrow.schema(
    [
        ("id", _text),
        ("split", _text),
        ("converted", pyarrow.bool_()),
        ("quarantined", _text),
        ("dropped", _text),
        ("defects", pyarrow.list_(_text)),
        ("rows", pyarrow.int32()),
        ("lengths", _counts),
        ("supervised", _counts),
        ("supervised_read", pyarrow.int64()),
        ("bos", pyarrow.int32()),
        ("overlong", pyarrow.bool_()),
        ("digest", pyarrow.binary()),
        ("signature", pyarrow.binary()),
        ("spans", pyarrow.list_(pyarrow.int64())),
    ]
)


@dataclass(frozen=True)
class Rules:
    """How conversations become rows; the recipe's own values."""

    loss: str
    max_length: int
    overlong: str
    system_prompt: str | None
    max_quarantined: float
    max_overlong_loss: float


@dataclass(frozen=True)
class Job:
    """What is done to each row of a source. `splits`: the splits to take, None for all; `folder` takes the pieces."""

    card: SourceCard
    tokenizer: PreTrainedTokenizerFast
    rules: Rules
    folder: Path
    splits: frozenset[str] | None = None
    drop_defects: bool = False
    duplicates: str = "keep"
    check: Check | None = None


def work(
    job: Job, foreign: Language | None, start: int, raws: list[tuple[str, object]]
) -> tuple[pyarrow.Table, pyarrow.Table]:
    """The rows that can be drawn and the records of raw rows `start`, `start` + 1, ... given as (split, raw row).

    Raises MaskError if a mask is wrong.
    """
    records, kept = [], []
    for number, (split, raw) in enumerate(raws, start):
        record, messages = _judge(job, foreign, number, split, raw)
        records.append(record)
        if messages is not None:
            kept.append((record, messages))
    drawable: dict[str, list] = {name: [] for name in ROWS.names}
    for begin in range(0, len(kept), BATCH):
        _encode(job, kept[begin : begin + BATCH], drawable)
    columns = {name: [record[name] for record in records] for name in RECORDS.names}
    return pyarrow.table(drawable, schema=ROWS), pyarrow.table(columns, schema=RECORDS)


def _judge(job: Job, foreign: Language | None, number: int, split: str, raw: object) -> tuple[dict, list[dict] | None]:
    """The record of a raw row, and its messages if it is to be encoded."""
    record = {"id": None, "split": split, "converted": False, "quarantined": None, "dropped": None, "defects": []}
    record |= {
        "digest": None,
        "signature": None,
        "spans": None,
        "rows": 0,
        "lengths": [],
        "supervised": [],
        "supervised_read": 0,
        "bos": 0,
        "overlong": False,
    }
    try:
        row = convert(raw, job.card.format, job.card.name, fallback_id=f"{job.card.name}_{split}_{number}")
    except RowError as error:
        given = raw.get("id") if isinstance(raw, dict) else None
        if isinstance(given, str):  # of a malformed row nothing is known to be text that UTF-8 can hold
            record["id"] = given.encode("utf-8", "backslashreplace").decode()
        return {**record, "quarantined": str(error).encode("utf-8", "backslashreplace").decode()}, None
    record["id"], record["converted"], messages = row["id"], True, row["messages"]
    if job.splits is not None and split not in job.splits:
        return {**record, "dropped": f"split {split} has no share"}, None
    if foreign is not None and (reason := foreign(row)):
        return {**record, "dropped": reason}, None
    record["defects"] = defects.find(messages)
    if record["defects"] and job.drop_defects:
        return {**record, "dropped": f"defect: {', '.join(record['defects'])}"}, None
    return record, messages


def _encode(job: Job, kept: list[tuple[dict, list[dict]]], drawable: dict[str, list]) -> None:
    """Encode conversations, note in their records what came of it, and add their rows to `drawable`."""
    encoded = encode_each([messages for _, messages in kept], job.tokenizer, job.rules.loss, job.rules.system_prompt)
    for (record, messages), whole in zip(kept, encoded, strict=True):
        if isinstance(whole, RowError):  # the model's own template drops or rewrites what was said
            record["quarantined"] = str(whole)
        elif whole.spans:
            verify(whole, messages, job.tokenizer)
            _fit(job, record, messages, whole, drawable)
            _compare_by(job, record, messages)
        else:
            record["quarantined"] = f"no supervised turn under loss {job.rules.loss!r}"


def _compare_by(job: Job, record: dict, messages: list[dict]) -> None:
    if job.duplicates != "keep":
        record["digest"] = duplicates.digest(messages)
    if job.duplicates == "near":
        record["signature"] = duplicates.signature(messages).tobytes()
    if job.check is not None:
        record["spans"] = [place for span in job.check.spans([messages])[0] for place in span]


def _fit(job: Job, record: dict, messages: list[dict], whole: Encoded, drawable: dict[str, list]) -> None:
    rules = job.rules
    parts = fit(whole, messages, job.tokenizer, rules.max_length, rules.overlong, rules.system_prompt)
    record["overlong"] = len(whole.input_ids) > rules.max_length
    record["supervised_read"], record["rows"] = supervised(whole), len(parts)
    for number, (part, turns) in enumerate(parts):
        if part is not whole and rules.overlong == "split_at_turn":
            verify(part, turns, job.tokenizer)
        record["lengths"].append(len(part.input_ids))
        record["supervised"].append(supervised(part))
        record["bos"] += part.input_ids.count(job.tokenizer.bos_token_id)
        drawable["input_ids"].append(part.input_ids)
        drawable["labels"].append(part.labels)
        drawable["source"].append(job.card.name)
        drawable["id"].append(record["id"] if len(parts) == 1 else f"{record['id']}#{number}")
