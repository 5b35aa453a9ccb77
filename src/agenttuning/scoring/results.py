"""All scores of a run, found on disk: what was played, for which side, by which protocol and in which backend.

Looked through is <run directory>/eval/SIDE/ for scores.json, held-in/PROTOCOL/scores.json and
general/PROTOCOL/BACKEND/scores.json. Results that lie elsewhere are named by the user. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.scoring import scores
from agenttuning.scoring.comparison import SIDES

SUITE, HELD_IN, GENERAL = "suite", "held-in", "general"
PLACES = {SUITE: scores.FILE, HELD_IN: f"held-in/*/{scores.FILE}", GENERAL: f"general/*/*/{scores.FILE}"}


@dataclass(frozen=True)
class Result:
    """One entry of a scores.json. name: its key there; task: the task it is about; kind: which of PLACES it lies in;
    protocol: `name@version`; backend: the environment's (held-in) or what the model ran in (general), None where the
    file names none; path: of the file, relative to the run's folder where it lies in it.
    """

    side: str
    kind: str
    name: str
    task: str
    protocol: str
    backend: str | None
    model: str
    entry: dict
    path: str

    @property
    def rules(self) -> str:
        """The protocol's name, without its version."""
        return self.protocol.partition("@")[0]

    @property
    def void(self) -> str | None:
        """Why there is no score, where there is none."""
        return self.entry.get("void") or (None if self.entry.get("score") is not None else "its file holds no score")


def unit(entry: dict) -> float:
    """What a reward of 1 is in the unit of an entry's score: ratings are kept as they are, all else x 100."""
    return 1.0 if entry.get("metric") == "rating" else 100.0


def counted(entry: dict) -> dict[str, float]:
    """By item, what an entry's score is the mean of. A success is a reward of 1 where the metric is a rate of them; the
    turns of a question (`81/1`, `81/2`), which are rated apart, are one item.
    """
    kept = entry.get("rewards") or {}
    if entry.get("metric") in ("success_rate", "category_accuracy"):
        return {item: float(reward >= 1.0) for item, reward in kept.items()}
    if entry.get("metric") != "rating":
        return kept
    turns: dict[str, list[float]] = {}
    for item, rating in kept.items():
        turns.setdefault(item.rpartition("/")[0] or item, []).append(rating)
    return {item: sum(ratings) / len(ratings) for item, ratings in turns.items()}


def what_was_asked(entry: dict) -> list:
    """What decides, beside an item's id, what was asked: the items, prompts and judge as far as the file names them.
    Results that differ in it are not of the same items.
    """
    data, judge, backend = (entry.get(key) or {} for key in ("data", "judge", "backend"))
    return [
        entry.get("items_sha256"),
        data.get("sha256") or data.get("files"),
        entry.get("prompts"),
        backend.get("asked_by"),
        judge.get("model"),
        judge.get("prompts"),
    ]


def paired(first: dict, second: dict) -> tuple[list[float], list[float]] | None:
    """What two entries count, item by item in one order, over the items of both; None where there are none, where one
    is void, and where the same ids stand for other items, prompts or judges.
    """
    before, after = counted(first), counted(second)
    items = sorted(before.keys() & after.keys())
    if not items or first.get("void") or second.get("void") or what_was_asked(first) != what_was_asked(second):
        return None
    return [before[item] for item in items], [after[item] for item in items]


def gather(run_dir: Path, elsewhere: Iterable[str] = ()) -> list[Result]:
    """Every result of the three sides, in the order of the files' names.

    elsewhere: folders besides, each a run's folder, its eval/ folder, or SIDE=FOLDER for a folder of one side's
    results. Raises UserError for a folder without results, a file that cannot be read, and for two files that claim
    the same result.
    """
    folders = [(side, run_dir / "eval" / side) for side in SIDES]
    for word in elsewhere:
        found = _named(word)
        if not any(any(folder.glob(place)) for _, folder in found for place in PLACES.values()):
            raise UserError(
                f"--results {word}: there is no {scores.FILE} of {', '.join(SIDES)} in it; it would add nothing; name "
                "a run's folder, its eval folder, or SIDE=FOLDER as tuned=runs/agentlm-13b/sft/eval/served-agentlm-13b"
            )
        folders += found
    results: dict[tuple, Result] = {}
    for side, folder in folders:
        for kind, place in PLACES.items():
            for path in sorted(folder.glob(place)):
                for one in _read(side, kind, path, run_dir):
                    key = (side, kind, one.name, one.protocol, one.backend)
                    if results.setdefault(key, one).path != one.path:
                        raise UserError(
                            f"{results[key].path} and {one.path} both hold {side}'s {one.name} by {one.protocol}; "
                            "which one is meant is open; leave one folder out of --results"
                        )
    return list(results.values())


def other_labels(run_dir: Path) -> list[str]:
    """Folders of eval/ with scores that are of no side, e.g. served-agentlm-13b."""
    folders = sorted(folder for folder in (run_dir / "eval").glob("*") if folder.name not in SIDES)
    return [folder.name for folder in folders if any(any(folder.glob(place)) for place in PLACES.values())]


def _named(word: str) -> list[tuple[str, Path]]:
    side, equals, path = word.partition("=")
    if equals and side in SIDES:
        return [(side, Path(path))]
    folder = Path(word)
    if folder.name in SIDES:
        return [(folder.name, folder)]
    return [(side, folder / inner / side) for inner in ("eval", ".") for side in SIDES]


def _read(side: str, kind: str, path: Path, run_dir: Path) -> list[Result]:
    content = scores.read(path)
    shown = str(path.relative_to(run_dir)) if path.is_relative_to(run_dir) else str(path)
    found = []
    for name, entry in content["tasks"].items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}: the score of {name} is no mapping; it would be misread; evaluate again")
        backend = (entry.get("backend") or {}).get("name") or (path.parent.name if kind == GENERAL else None)
        protocol, model = str(content.get("protocol")), str(content.get("model"))
        found.append(Result(side, kind, name, entry.get("task") or name, protocol, backend, model, entry, shown))
    return found
