"""MT-Bench's questions as the pages of items show them: the model's two answers, and what the judge said of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.report.episodes_page import short

FOLDER, ANSWERS, VERDICTS = "mt_bench", "answers.jsonl", "verdicts.jsonl"  # as general/mt_bench writes them


def read(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The questions in the order of their answers, and how many lines could not be read. Of several records of a turn,
    or of a judging, the newest counts: the one before was made under other rules, or failed.
    """
    answers, torn = _newest(folder / ANSWERS, ("question", "turn"))
    verdicts, also = _newest(folder / VERDICTS, ("question", "turn", "judging"))
    by_question: dict[str, list[dict]] = {}
    for record in answers.values():
        by_question.setdefault(str(record["question"]), []).append(record)
    judged: dict[tuple, list[dict]] = {}
    for record in verdicts.values():
        judged.setdefault((str(record["question"]), record["turn"]), []).append(record)
    return [_talk(name, records, judged) for name, records in by_question.items()], torn + also


def _newest(path: Path, key: tuple[str, ...]) -> tuple[dict[tuple, dict], int]:
    found: dict[tuple, dict] = {}
    unreadable = 0
    for line in _lines(path):
        try:
            record = json.loads(line)
            found[tuple(str(record[name]) for name in key)] = record
        except (ValueError, KeyError, TypeError, RecursionError):
            unreadable += 1
    return found, unreadable


def _lines(path: Path) -> Iterator[bytes]:
    if path.is_file():
        with path.open("rb") as file:
            yield from file


def _talk(name: str, records: list[dict], judged: dict[tuple, list[dict]]) -> dict[str, Any]:
    turns, ratings, lost = [], [], False
    for record in records:
        failed = bool(record.get("error"))
        lost = lost or (failed and not record.get("answer"))
        text = record.get("error") if failed else record.get("answer")
        said = f"turn {record['turn']}{', no answer' * failed}"
        turns.append({"who": "model", "said": said, "bad": failed, "text": short(str(text))})
        for verdict in judged.get((name, record["turn"]), []):
            rating = verdict.get("rating")
            rated = isinstance(rating, int | float)
            ratings += [float(rating)] if rated else []
            said = f"judging {verdict['judging']} of turn {record['turn']}: {rating if rated else 'no rating'}"
            text = verdict.get("reply") if verdict.get("reply") is not None else verdict.get("error")
            turns.append({"who": "judge", "said": short(said, 120), "bad": not rated, "text": short(str(text))})
    first = next((turn["text"] for turn in turns if turn["who"] == "model"), "")
    return {
        "item": short(f"question {name}", 120),
        "begins": " ".join(first[:90].split()),
        "status": f"{len(ratings)} ratings",
        "state": "lost" if lost else "rated",
        "reward": sum(ratings) / len(ratings) if ratings else None,
        "turns_taken": len(records),
        "kinds": [],
        "facts": {},
        "turns": turns,
    }
