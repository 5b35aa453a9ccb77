"""The scores of a run as its cards tell them: read from what was measured and compared, nothing computed anew.

    eval/SIDE/scores.json, eval/SIDE/held-in/PROTOCOL/scores.json, eval/SIDE/general/PROTOCOL/BACKEND/scores.json

SIDE is `tuned` or `base`, or a folder that the comparison counts as one of them (what a server played). Scores of other
weights than those that are published are refused, never shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.report.templating import public_text
from agenttuning.scoring import comparison, published, scores
from agenttuning.scoring.results import PLACES

if TYPE_CHECKING:
    from agenttuning.scoring.comparison import Comparison

SIDES = {"tuned": "model", "base": "started_from"}  # the key of train.json that holds the digest of each
DIGEST = 16  # letters of it in a score's `model`
UNITS = {"rating": 2}  # decimals of a metric that is no percentage


@dataclass(frozen=True)
class Score:
    """One task of one scores.json. file: where it lies, relative to the run's folder; entry: as scores.json has it."""

    side: str
    task: str
    protocol: str
    backend: str
    file: str
    entry: dict[str, Any]
    date: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.protocol, self.backend

    @property
    def place(self) -> str:
        """Where the file lies in the repository."""
        return published_place(self.file)

    @property
    def digits(self) -> int:
        return UNITS.get(self.entry["metric"], 1)

    @property
    def of_benchmark(self) -> bool:
        """Whether the score is of a benchmark's own items, all of them, under its own name."""
        return (
            self.task in _benchmarks()
            and self.entry.get("score") is not None
            and (self.entry["group"] != "general" or self.entry.get("asked", 0) >= _benchmarks()[self.task])
        )

    @property
    def unrounded(self) -> bool:
        """Whether it is of the run's own weights as they were stored, before the export rounded them: neither a server
        nor vLLM was in between, which hold weights in a precision of their own.
        """
        backend = self.entry.get("backend")
        precision = backend.get("precision") if isinstance(backend, dict) else None
        own = Path(self.file).parts[1] == self.side and self.backend != "vllm"
        return own and precision in (None, "float32")

    @property
    def beside_paper(self) -> bool:
        """Whether it may also be set beside the paper's."""
        return self.of_benchmark and self.entry.get("not_comparable") is None


def published_place(file: str) -> str:
    """Where a file of the run's folder lies in the repository: all below results/."""
    return file if file.startswith("results/") else f"results/{file.removeprefix('eval/')}"


@cache
def _benchmarks() -> dict[str, int]:
    """{task: its items}."""
    return {task: facts["n"]["value"] for task, facts in published.load().tasks.items()}


@dataclass(frozen=True)
class Results:
    """All of a run: scores of both sides, and the comparison with the published numbers where it was made."""

    scores: tuple[Score, ...] = ()
    compared: Comparison | None = None

    def of(self, side: str) -> list[Score]:
        return [score for score in self.scores if score.side == side]

    def base_of(self, score: Score) -> Score | None:
        """What the model it started from has under the very same rules."""
        return next((one for one in self.of("base") if one.key == score.key), None)

    def files(self, run_dir: Path) -> list[str]:
        """The files that the numbers come from, relative to the run's folder, as far as they lie in it."""
        named = [score.file for score in self.scores]
        if self.compared is not None:
            named += [comparison.FILE, *(row.scores for row in self.compared.rows if row.scores)]
        return sorted(name for name in set(named) if inside(run_dir, name))


def read(run_dir: Path, record: dict[str, Any] | None) -> Results:
    """The results of the run whose train.json is `record`; none for None (weights from the middle of a run). Raises
    UserError for scores that cannot be read, and for those of other weights.
    """
    if record is None:
        return Results()
    compared = without_paths(comparison.read(run_dir))
    _check_compared(run_dir, compared, record)
    found = [
        score
        for side, key in SIDES.items()
        for label in labels(compared, side)
        for score in _of_label(run_dir, side, label, record.get(key))
    ]
    made = Results(tuple(found), compared)
    _refuse_stale(run_dir, made)
    return made


def without_paths(compared: Comparison | None) -> Comparison | None:
    """The comparison, whose commands for what was not run name no path of this machine."""
    if compared is None:
        return None
    return replace(compared, rows=tuple(replace(row, why=public_text(row.why)) for row in compared.rows))


def labels(compared: Comparison | None, side: str) -> list[str]:
    """The folders of eval/ that hold a side: its own, and those that the comparison took its rows from."""
    rows = [row for row in compared.rows if row.side == side and row.scores] if compared else []
    parts = [Path(row.scores).parts for row in rows]
    found = (names[1] for names in parts if len(names) > 2 and names[0] == "eval" and names[1] != "..")
    return list(dict.fromkeys([side, *found]))


def _of_label(run_dir: Path, side: str, label: str, digest: str | None) -> list[Score]:
    found = []
    for place in PLACES.values():
        for path in sorted((run_dir / "eval" / label).glob(place)):
            content, file = scores.read(path), path.relative_to(run_dir).as_posix()
            if label == side:  # a server's own name says nothing of its weights
                check_weights(content.get("model"), side, digest, path)
            notes = content.get("notes") or {}
            for task, entry in content["tasks"].items():
                backend = entry.get("backend") or {}
                name = backend.get("name", "embedded") if isinstance(backend, dict) else str(backend)
                found.append(Score(side, task, content["protocol"], name, file, entry, notes.get("date")))
    return found


def check_weights(model: str | None, side: str, digest: str | None, path: Path) -> None:
    """Raise UserError unless `model` (label@letters of a digest) names the weights of `digest`."""
    said = (model or "").rpartition("@")[2]
    if digest is not None and said != digest[:DIGEST]:
        raise UserError(
            f"{path} holds scores of {model or 'a model without a name'}, and the weights here are "
            f"{side}@{digest[:DIGEST]}; the card would show another model's numbers; evaluate again, or delete the file"
        )


def _check_compared(run_dir: Path, compared: Comparison | None, record: dict[str, Any]) -> None:
    for row in compared.rows if compared else ():
        if row.side in SIDES and row.model and "@" in row.model and record.get(SIDES[row.side]):
            check_weights(row.model, row.side, record[SIDES[row.side]], run_dir / comparison.FILE)


def _refuse_stale(run_dir: Path, results: Results) -> None:
    """Raise UserError for a comparison that was made before the scores were as they are now."""
    known = {(score.side, score.task) for score in results.scores if score.of_benchmark}
    by_file: dict[tuple[str, str], list[float]] = {}
    for score in results.scores:
        task = score.entry.get("task", score.task)
        by_file.setdefault((score.file, task), []).append(score.entry.get("score") or 0.0)
    for row in results.compared.rows if results.compared else ():
        now = by_file.get((row.scores, row.task))
        other = now is not None and row.ours is not None and all(abs(row.ours - one) > 1e-6 for one in now)
        if other or (row.verdict == "not run" and (row.side, row.task) in known):
            said = "not run" if row.ours is None else f"{row.ours:.2f}"
            raise UserError(
                f"{run_dir / comparison.FILE} says of {row.title} ({row.side}): {said}, and the scores say otherwise "
                "now; the card would contradict itself; run `agenttuning compare` again"
            )


def inside(run_dir: Path, name: str) -> bool:
    """Whether a path is a file of the run's folder, and not beside it."""
    path = run_dir / name
    return path.is_file() and path.resolve().is_relative_to(run_dir.resolve())


def contamination(run_dir: Path) -> dict[str, Any] | None:
    """What `decontaminate` counted: {rule, suites: {name: counts}, not_compared}; None where it was not run. The texts
    that it found stay here: they are other people's test items.
    """
    path = run_dir / "contamination.json"
    if not path.is_file():
        return None
    from agenttuning.data.contamination import KINDS

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        suites = {
            name: {key: suite[key] for key in ("examples", *KINDS, "contaminated_tokens", "tokens")}
            for name, suite in report["suites"].items()
        }
        return {"rule": report["rule"], "kinds": KINDS, "suites": suites, "not_compared": report["not_compared"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); the card would not say what of the tests was trained on; "
            "run decontaminate again, or delete the file"
        ) from error
