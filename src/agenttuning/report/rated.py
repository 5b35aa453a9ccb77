"""What a judge's ratings are made of: MT-Bench by category, with the spread of the judgings, as scores.json has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.scoring import scores

TURNS = {"first_turn": "first", "second_turn": "second"}
JUDGE = ("model", "host", "dates", "remark")


@dataclass(frozen=True)
class Rated:
    """One model's ratings (1 to 10) under one protocol; `facts`: judge, judgings, spread, unparsed verdicts."""

    label: str
    rules: str
    score: str
    facts: dict[str, str]
    categories: list[tuple[str, float | None, str]]  # name, rating, interval and n as text


def find(run_dir: Path) -> list[Rated]:
    """Every entry with the metric `rating`, of eval/*/general/*/*."""
    found = []
    for path in sorted(run_dir.glob(f"eval/*/general/*/*/{scores.FILE}")):
        for name, entry in scores.read(path)["tasks"].items():
            if isinstance(entry, dict) and entry.get("metric") == "rating":
                rules = f"{name}: {path.parents[1].name}, {path.parent.name}"
                found.append(_rated(path.parents[3].name, rules, entry))
    return found


def _rated(label: str, rules: str, entry: dict) -> Rated:
    judge = entry.get("judge")
    turns = [f"{words} {_told(entry[key])}" for key, words in TURNS.items() if entry.get(key) is not None]
    facts = {
        "by turn": ", ".join(turns),
        "judge": _told({key: judge[key] for key in JUDGE if judge.get(key)} if isinstance(judge, dict) else judge),
        "judgings": _told(entry.get("judgings")),
        "spread of the judgings": _told(entry.get("spread")),
        "verdicts that could not be read": _told(entry.get("unparsed")),
        "may not be set beside the paper's": _told(entry.get("not_comparable")),
    }
    categories = entry.get("by_category") if isinstance(entry.get("by_category"), dict) else {}
    score = f"void: {entry['void']}" if entry.get("void") else _number(entry.get("score"), entry)
    told = {name: text for name, text in facts.items() if text}
    return Rated(label, rules, score, told, [_category(*one) for one in categories.items()])


def _category(name: str, found: Any) -> tuple[str, float | None, str]:
    value, n = (found.get("score"), found.get("n")) if isinstance(found, dict) else (found, None)
    return name, _float(value), "" if n is None else f"n = {n}"


def _number(value: Any, entry: dict) -> str:
    ends = _ends(entry.get("interval"))
    told = ", ".join(filter(None, (ends, f"n = {entry.get('n')}")))
    return f"{value:.2f} ({told})" if _float(value) is not None else ""


def _ends(interval: Any) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}" if isinstance(interval, list) and len(interval) == 2 else ""


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _told(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {_told(one)}" for key, one in value.items() if one is not None)
    return ", ".join(map(_told, value)) if isinstance(value, list) else str(value)
