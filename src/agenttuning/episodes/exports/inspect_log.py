"""Logs of inspect-ai, written with its own API: one for each task (and backend, protocol, seed and model, where there
are several). `inspect view --log-dir OUT` shows them.

A sample is an episode: `input` is what stood before the model's first turn, `messages` everything, the score `reward`
the reward; status, steps, metrics and error kinds are its metadata. What the infrastructure ended has an error and no
score, so that no mean of theirs counts it as a wrong answer.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.episodes import status
from agenttuning.episodes.exports import Written, clean, file_name, unique
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.trajectory import FRESH, first_turn, own_turn
from agenttuning.errors import UserError
from agenttuning.scoring import intervals

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalResults, EvalSample

GROUP = ("task", "backend", "protocol", "seed", "model")


def write(folder: Path, index: Index, chosen: list[Entry], done: Written) -> None:
    """Write <task>.eval into `folder`; see `exports.export`."""
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise UserError(
            f"inspect-ai is not installed ({error}); no log was written; `pip install 'agenttuning[inspect]'`, or in a "
            "checkout `pip install -e '.[inspect]'`"
        ) from None
    groups: dict[tuple, list[Entry]] = {}
    for entry in chosen:
        groups.setdefault((entry.path, *(getattr(entry, name) for name in GROUP)), []).append(entry)
    taken: set[str] = set()
    for (path, *values), entries in groups.items():
        key = dict(zip(GROUP, clean(values), strict=True))
        name = unique(file_name(entries[0].reported_as), taken)
        samples = [_sample(entry, record) for entry, record in index.records(entries)]
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0).isoformat()
        log = _log(clean(entries[0].reported_as), key, entries, samples, written)
        write_eval_log(log, str(folder / f"{name}.eval"))
        done.counts[f"samples in {name}.eval"] += len(samples)


def _log(name: str, key: dict, entries: list[Entry], samples: list[EvalSample], written: str) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats

    digest = hashlib.sha256(repr([name, *sorted(key.items())]).encode()).hexdigest()
    ids = list(dict.fromkeys(sample.id for sample in samples))
    spec = EvalSpec(
        eval_id=digest[:22],
        run_id=digest[22:44],
        task_id=digest[44:],
        created=written,
        task=name,
        dataset=EvalDataset(name=name, samples=len(ids), sample_ids=ids),
        model=key["model"],
        config=EvalConfig(epochs=max(sample.epoch for sample in samples)),
        metadata={**key, "harness": "agenttuning", "created": "the time of the last change of the store's file"},
    )
    stats = EvalStats(started_at=written, completed_at=written)
    return EvalLog(status="success", eval=spec, stats=stats, results=_results(entries), samples=samples)


def _results(entries: list[Entry]) -> EvalResults:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    scored = [entry for entry in entries if not entry.lost]
    scores = []
    if scored:
        won, n = sum(entry.won for entry in scored), len(scored)
        low, high = intervals.wilson(won, n)
        values = {
            "mean": sum(entry.reward for entry in scored) / n,
            "success_rate": won / n,
            "success_low": low,
            "success_high": high,
        }
        metrics = {name: EvalMetric(name=name, value=value) for name, value in values.items()}
        lost = len(entries) - n
        scores = [EvalScore(name="reward", scorer="reward", scored_samples=n, unscored_samples=lost, metrics=metrics)]
    return EvalResults(total_samples=len(entries), completed_samples=len(scored), scores=scores)


def _sample(entry: Entry, record: dict) -> EvalSample:
    from inspect_ai.log import EvalError, EvalSample, EvalSampleLimit
    from inspect_ai.scorer import Score

    record = clean(record)
    messages = [_message(message, record["model"]) for message in record["messages"]]
    opening = messages[: first_turn(record)]
    if record.get("last") is not None:
        messages.append(_message({"role": "user", "content": record["last"], "loss": False}, record["model"]))
    metadata = {name: record.get(name) for name in ("status", "turns", "prompt", "steps", "last", "error", "metrics")}
    metadata |= {"sample": entry.sample, "kinds": list(entry.kinds)}
    if entry.task in FRESH:
        metadata["note"] = "each question was asked alone, behind the messages before the first one"
    scores = error = limit = None
    if entry.lost:
        text = f"{entry.status}: {record.get('error') or 'no word of why'}"
        error = EvalError(message=text, traceback="", traceback_ansi="")
    else:
        actions = [step["action"] for step in record["steps"] if step["action"] is not None]
        answer = actions[-1] if actions else None
        scores = {"reward": Score(value=entry.reward, answer=answer, explanation=entry.status)}
        if entry.status == status.TASK_LIMIT:
            limit = EvalSampleLimit(type="turn", limit=entry.turns)
    return EvalSample(
        id=record["item"], epoch=entry.sample + 1, input=opening or "", target="", messages=messages, scores=scores,
        metadata=metadata, error=error, limit=limit, turn_count=entry.turns, uuid=_uuid(record),
    )  # fmt: skip


def _uuid(record: dict) -> str:
    key = [record[name] for name in (*GROUP, "item", "sample")]
    return hashlib.sha256(repr(key).encode()).hexdigest()[:22]


def _message(message: dict, model: str):
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser

    if message["role"] != "assistant":
        return ChatMessageUser(content=message["content"], source="input")
    if own_turn(message):
        return ChatMessageAssistant(content=message["content"], model=model, source="generate")
    return ChatMessageAssistant(content=message["content"], source="input")
