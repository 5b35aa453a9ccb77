"""What the card of a pushed model says beyond the export's own: mixture, training log, scores, contamination."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.hub import licences
from agenttuning.hub.card import describe
from agenttuning.hub.results import Score, contamination
from agenttuning.scoring import published
from agenttuning.scoring.scores import metric_words

if TYPE_CHECKING:
    from agenttuning.hub.results import Results
    from agenttuning.recipe import Recipe
    from agenttuning.scoring.comparison import Row

SIZE = re.compile(r"agentlm-(7b|13b|70b)/")
ORDER = ("tuned", "released", "base")
TAG_HERE = "@@the-tag-of-this-state@@"  # in the text whose digest gives the tag


@dataclass(frozen=True)
class Line:
    """A row of the table of scores: texts that are ready for a cell."""

    task: str
    metric: str
    protocol: str
    backend: str
    tuned: str
    base: str
    why: str | None


def told(recipe: Recipe, record: dict[str, Any] | None, results: Results) -> dict[str, Any]:
    """The values that export/templates/model_card.md.jinja adds for a push. record: train.json, or None for weights
    from the middle of a run. Raises UserError for a mixture that is not the one trained on, and unreadable records.
    """
    size, tuned = SIZE.match(recipe.name), results.of("tuned")
    unrounded = sum(score.unrounded for score in tuned)
    return {
        "tag": TAG_HERE,
        "mixture": _mixture(recipe, record),
        "origins": _origins(recipe),
        "log": _log(record),
        "lines": [_line(score, results.base_of(score)) for score in tuned],
        "voided": [score for score in tuned if score.entry.get("void")],
        "unrounded": None if not unrounded else "all" if unrounded == len(tuned) else "some",
        "indexed": any(score.of_benchmark for score in tuned),
        "compared": _compared(results),
        "contamination": contamination(recipe.run_dir),
        "size": size[1] if size else None,
    }


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """A number for a cell, without a sign that rounding left of nothing (-0.0); a dash for none."""
    return "\u2013" if value is None else f"{value:{sign}z.{digits}f}".replace("-", "\u2212")


def interval(ends: Any, digits: int = 1, sign: str = "") -> str:
    """A 95 % interval for a cell."""
    return f" ({number(ends[0], digits, sign)} to {number(ends[1], digits, sign)})" if ends else ""


def _measured(score: Score | None) -> str:
    if score is None:
        return "\u2013"
    entry = score.entry
    if entry.get("score") is None:
        return "no score"
    asked = entry.get("asked")
    of = f" of {asked:,}" if asked not in (None, entry["n"]) else ""
    lost = f", {entry['lost']:,} lost" if entry.get("lost") else ""
    shown = number(entry["score"], score.digits) + interval(entry.get("interval"), score.digits)
    return f"{shown}, n {entry['n']:,}{of}{lost}"


def _line(score: Score, base: Score | None) -> Line:
    metric = metric_words(score.entry["metric"])
    if judge := score.entry.get("judge"):
        metric += f" by {judge.get('model')}"
    why = score.entry.get("not_comparable")
    return Line(score.task, metric, score.protocol, score.backend, _measured(score), _measured(base), why)


def _mixture(recipe: Recipe, record: dict[str, Any] | None) -> dict[str, Any] | None:
    path = recipe.run_dir / "data" / "mixture.json"
    if not path.is_file():
        return None
    try:
        mixture = json.loads(path.read_text(encoding="utf-8"))
        key = mixture["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); the card would lack the mixture; build the data again "
            "(agenttuning data)"
        ) from error
    if record is not None and record.get("data_key") not in (None, key):
        raise UserError(
            f"{path} is of the data {key[:16]}, and the model was trained on {record['data_key'][:16]}; the card would "
            "tell of another mixture; build the data again with the words it was trained with, or delete the folder"
        )
    return mixture


def _origins(recipe: Recipe) -> list[dict[str, Any]]:
    """Each source with its title, licence and place, for the table of the mixture."""
    found = []
    for name, one in describe(recipe).items():
        licence = one.stated or one.card.licence
        found.append(
            {
                "name": name,
                "title": one.header.get("pretty_name", name),
                "hub_id": one.card.hub_id,
                "revision": one.card.revision,
                "made_by": one.card.made_by,
                "licence": licence,
                "open": licences.hub_id(licence) is not None,
                "stand_in_for": one.card.stand_in_for,
            }
        )
    return found


def _log(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """First and last logged losses, time and speed."""
    if not record or not record.get("log"):
        return None
    first, last = record["log"][0], record["log"][-1]
    return {
        "first": first,
        "last": last,
        "sources": sorted(last.get("loss_by_source") or {}),
        "time": _time(record["seconds"]),
        "gpu_hours": None if record["device"] == "cpu" else record["seconds"] * record["processes"] / 3600,
    }


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _compared(results: Results) -> dict[str, Any] | None:
    """The comparison in the shape of the card's tables."""
    made = results.compared
    if made is None:
        return None
    not_run: dict[str, list[str]] = {}
    for row in made.rows:
        if row.ours is None and row.side == "tuned":
            not_run.setdefault(row.why, []).append(row.title)
    return {
        "made": made,
        "rows": [_row(row) for row in _in_order(made.rows) if row.ours is not None and not row.beside],
        "beside": any(row.beside and row.side == "tuned" for row in made.rows),
        "not_run": [(", ".join(titles), why) for why, titles in not_run.items()],
        "overalls": [
            {
                "group": published.GROUPS[one.group],
                "side": one.side,
                "published": number(one.published, 2),
                "same": number(one.published_same, 2),
                "ours": number(one.ours, 2) + interval(one.interval, 2),
                "tasks": f"{len(one.tasks)} of {one.of}",
                "names": ", ".join(one.tasks),
            }
            for one in _in_order(made.overalls)
            if one.ours is not None
        ],
        "pairs": [
            {
                "what": one.what,
                "task": one.task,
                "protocol": one.protocol,
                "n": f"{one.n:,}",
                "difference": number(one.difference, published.decimals(one.task), "+")
                + interval(one.interval, published.decimals(one.task), "+"),
                "p": "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
            }
            for one in made.pairs
            if one.what.startswith("tuned")
        ],
    }


def _in_order(parts: tuple[Any, ...]) -> list[Any]:
    """Rows or overall scores, this model's own first."""
    return sorted(parts, key=lambda one: ORDER.index(one.side))


def _row(row: Row) -> dict[str, Any]:
    digits = published.decimals(row.task)
    return {
        "title": row.title,
        "side": row.side,
        "model": row.published_model,
        "published": (
            f"{number(row.published, digits)}{interval(row.published_interval, digits)}, n {row.published_n:,}"
        ),
        "verified": row.verified,
        "ours": f"{number(row.ours, digits)}{interval(row.interval, digits)}, n {row.n:,}",
        "difference": number(row.difference, digits, "+") + interval(row.difference_interval, digits, "+"),
        "detectable": number(row.detectable, digits),
        "protocol": row.protocol,
        "backend": row.backend,
        "verdict": row.verdict,
        "why": row.why,
    }
