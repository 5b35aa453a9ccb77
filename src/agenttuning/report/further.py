"""Scores of a run that its main table does not have: the paper's tasks, the general benchmarks, other labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agenttuning.scoring import scores
from agenttuning.scoring.results import GENERAL, HELD_IN, PLACES


@dataclass(frozen=True)
class Score:
    """One entry of a scores.json as text."""

    task: str
    label: str
    rules: str
    n: str
    score: str
    span: str  # the ends of its interval, or ""
    why_not: str  # why it is not the benchmark's, or ""


def find(run_dir: Path) -> list[Score]:
    """Of `eval-held-in` and `eval-general`, in the order of the files' names."""
    found = []
    for place in (PLACES[HELD_IN], PLACES[GENERAL]):
        for path in sorted(run_dir.glob(f"eval/*/{place}")):
            content = scores.read(path)
            label = path.relative_to(run_dir).parts[1]
            found += [_score(name, label, content, entry) for name, entry in content["tasks"].items()]
    return found


def _score(name: str, label: str, content: dict, entry: dict) -> Score:
    digits = 2 if entry.get("metric") == "rating" else 1
    if entry.get("void") or entry.get("score") is None:
        told, span = f"void: {entry.get('void')}", ""
    else:
        ends = entry.get("interval")
        told, span = f"{entry['score']:.{digits}f}", f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}" if ends else ""
    backend = (entry.get("backend") or {}).get("name")
    rules = ", ".join(map(str, filter(None, (content.get("protocol"), backend))))
    return Score(name, label, rules, f"{entry['n']:,}", told, span, str(entry.get("not_comparable") or ""))
