"""The paper's error-analysis figure with our bars beside its own: the numbers, for the page and for the terminal."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.environments import HELD_IN
from agenttuning.episodes import index as indexed
from agenttuning.episodes.index import Entry
from agenttuning.episodes.store import FILE
from agenttuning.errors import UserError
from agenttuning.scoring import errors, intervals, published, scores

log = logging.getLogger(__name__)
# Panels of the figure: title, our tasks, and its bars as our kinds.
PANELS = {
    "alfworld_webshop": (
        "ALFWorld and WebShop",
        ("alfworld", "webshop"),
        {
            "invalid_action": "invalid_action",
            "short_term_repetition": "short_term_repetition",
            "long_term_repetition": "long_term_repetition",
            "refuse_to_answer": "refusal",
        },
    ),
    "kg": (
        "Knowledge graph (KG)",
        ("kg",),
        {
            "invalid_action": "invalid_action",
            "function_call_error": "function_call_error",
            "function_repetition": "function_repetition",
            "refuse_to_answer": "refusal",
        },
    ),
}
FIRST = ("base", "tuned")  # labels
MODELS = {"llama2": "Llama-2-chat", "agentlm": "AgentLM", "gpt-3.5": "GPT-3.5", "gpt-4": "GPT-4"}


@dataclass(frozen=True)
class Bar:
    """A share of trajectories in [0, 1]; ours with its count and 95 % interval (Wilson), the paper's without."""

    share: float
    count: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One model in a panel; ours have `n` trajectories, and `note` says of what."""

    name: str
    ours: bool
    n: int | None = None
    note: str = ""


@dataclass
class Panel:
    """`bars[kind]` has a bar for each of `series`. `rules`: what we count, by kind."""

    title: str
    rules: dict[str, str]
    series: list[Series] = field(default_factory=list)
    bars: dict[str, list[Bar]] = field(default_factory=dict)

    @property
    def top(self) -> float:
        """The end of the axis, in (0, 1]: the largest share or end of an interval, rounded up to a tenth."""
        ends = [max(bar.share, bar.high or 0.0) for bars in self.bars.values() for bar in bars]
        return max(1, -(-max(ends, default=0.0) * 100 // 10)) / 10


@dataclass(frozen=True)
class Ours:
    """The results of one of our models under one protocol: those of the benchmark, and all others. `lost` to
    infrastructure and of `others` (models, protocols) are the numbers of episodes that are in no bar.
    """

    name: str
    model: str
    protocol: str
    benchmark: list[Entry]
    practice: list[Entry]
    lost: int
    others: int

    def of(self, tasks: Collection[str]) -> tuple[list[Entry], list[Entry]]:
        """Those of the benchmark and the others, of some tasks."""
        mine = [entry for entry in self.benchmark if entry.task in tasks]
        return mine, [entry for entry in self.practice if entry.task in tasks]


def read(label: str, folder: Path) -> Ours:
    """The newest model and protocol of a folder's stores; `label` says whose bars they are. Raises UserError for no
    result.
    """
    entries = indexed.read(folder).entries
    if all(entry.lost for entry in entries):
        raise UserError(f"{folder} holds no result of a model ({len(entries)} lost to infrastructure); play it first")
    return _newest(label, entries)


def _newest(label: str, entries: list[Entry]) -> Ours:
    scored = [entry for entry in entries if not entry.lost]
    written = {path: path.stat().st_mtime for path in {entry.path for entry in scored}}
    newest = max(scored, key=lambda entry: (written[entry.path], entry.line))
    same = [entry for entry in entries if (entry.model, entry.protocol) == (newest.model, newest.protocol)]
    results = [entry for entry in same if not entry.lost]
    real = {(path, task) for path, task in {(entry.path, entry.task) for entry in results}
            if _benchmark(path, task, newest)}  # fmt: skip
    benchmark = [entry for entry in results if (entry.path, entry.task) in real]
    practice = [entry for entry in results if (entry.path, entry.task) not in real]
    lost, others = len(same) - len(results), len(entries) - len(same)
    return Ours(label, newest.model, newest.protocol, benchmark, practice, lost, others)


def _benchmark(path: Path, task: str, newest: Entry) -> bool:
    """True where `eval-held-in` gave this store the task's name, and its scores of this model say that they may be set
    beside the paper's: the benchmark's items, all of them, in an environment that counts.
    """
    file = path.parent.parent / scores.FILE
    if task not in HELD_IN or path.parent.name != task or not file.is_file():
        return False
    found = scores.read(file)
    entry = found["tasks"].get(task) or {}
    same = (found.get("model"), found.get("protocol")) == (newest.model, newest.protocol)
    return same and "not_comparable" in entry and entry["not_comparable"] is None


def find(run_dir: Path) -> list[Ours]:
    """What evaluations left in a run's folder: eval/LABEL (`eval`) and eval/LABEL/held-in/PROTOCOL (`eval-held-in`).
    One that holds no result (its server was down) is left out with a warning.
    """
    found: list[Ours] = []
    labels = sorted((path for path in run_dir.glob("eval/*")), key=lambda path: (path.name not in FIRST, path.name))
    for place in labels:
        if (place / FILE).is_file():
            found += _readable(place.name, place)
        for protocol in sorted(place.glob("held-in/*")):
            if any(protocol.glob(f"*/{FILE}")):
                found += _readable(f"{place.name}, {protocol.name}", protocol)
    return found


def _readable(label: str, folder: Path) -> list[Ours]:
    entries = indexed.read(folder).entries
    if all(entry.lost for entry in entries):
        log.warning("left out: %s holds no result of a model, %d lost to infrastructure", folder, len(entries))
        return []
    return [_newest(label, entries)]


def panels(ours: list[Ours]) -> list[Panel]:
    """The figure's panels, and behind them those that the paper does not have.

    What was not played on the benchmark's own items and environment is never set beside the paper's bars: it has a
    panel of its own.
    """
    paper = published.error_analysis()
    played = {entry.task for one in ours for entry in [*one.benchmark, *one.practice]}
    in_figure = {task for _, tasks, _ in PANELS.values() for task in tasks}
    found, practice = [], []
    for name, (title, tasks, kinds) in PANELS.items():
        if played and not played & set(tasks):
            continue
        rules = {kind: errors.RULES[kind] for kind in kinds.values()}
        beside = Panel(title, rules, [Series(MODELS[model], ours=False) for model in paper.models])
        beside.bars = {own: [Bar(share) for share in paper.shares[name][theirs]] for theirs, own in kinds.items()}
        alone = _empty(f"In place of {title}: other items or another environment, not the benchmark", rules)
        for one in ours:
            benchmark_episodes, practice_episodes = one.of(tasks)
            _add(beside, one, benchmark_episodes, tasks)
            for suffix, group in _by_items(practice_episodes):
                _add(alone, one, group, tasks, suffix)
        found.append(beside)
        practice += [alone] if alone.series else []
    rest = [(one, entry) for one in ours for entry in sum(one.of(played - in_figure), [])]
    for name in sorted({entry.reported_as for _, entry in rest}):
        panel = _empty(f"{name} (not in the paper's figure)", {kind: errors.RULES[kind] for kind in errors.KINDS})
        for one in ours:
            group = [entry for whose, entry in rest if whose is one and entry.reported_as == name]
            _add(panel, one, group, tuple({entry.task for entry in group}))
        practice.append(panel)
    return found + practice


def _empty(title: str, rules: dict[str, str]) -> Panel:
    return Panel(title, rules, bars={kind: [] for kind in rules})


def _by_items(entries: list[Entry]) -> list[tuple[str, list[Entry]]]:
    """Practice items and items of the benchmark apart: one bar over both would be of neither."""
    parts: dict[bool, list[Entry]] = {True: [], False: []}
    for entry in entries:
        parts[entry.path.parent.name.startswith("practice-")].append(entry)
    if not all(parts.values()):
        return [("", entries)]
    return [(", practice items", parts[True]), (", the benchmark's items", parts[False])]


def _add(panel: Panel, one: Ours, entries: list[Entry], tasks: tuple[str, ...], suffix: str = "") -> None:
    n = len(entries)
    if not n:
        return
    panel.series.append(Series(f"ours, {one.name}{suffix}", True, n, _note(entries, tasks, one)))
    for kind, bars in panel.bars.items():
        count = sum(kind in entry.kinds for entry in entries)
        bars.append(Bar(count / n, count, *intervals.wilson(count, n)))


def _note(group: list[Entry], tasks: tuple[str, ...], one: Ours) -> str:
    counts = {task: sum(entry.task == task for entry in group) for task in tasks}
    backends = sorted({entry.backend for entry in group})
    parts = [", ".join(f"{n} of {task}" for task, n in counts.items()), f"backend {', '.join(backends)}", one.protocol]
    if len({(entry.task, entry.item, entry.seed) for entry in group}) < len(group):
        parts.append("several episodes an item: the interval is too narrow")
    return "; ".join(parts)
