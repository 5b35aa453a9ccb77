"""The paper's error-analysis figure with our bars beside its own: the numbers, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.episodes import index as indexed
from agenttuning.episodes.index import Entry
from agenttuning.episodes.store import FILE
from agenttuning.errors import UserError
from agenttuning.scoring import errors, intervals, published

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
    """The episodes of one of our models under one protocol: results, how many were lost, how many are of others."""

    name: str
    model: str
    protocol: str
    entries: list[Entry]
    lost: int
    others: int


def read(label: str, folder: Path) -> Ours:
    """The newest model and protocol of a store; `label` says whose bars they are. Raises UserError for no result."""
    entries = indexed.read(folder).entries
    scored = [entry for entry in entries if not entry.lost]
    if not scored:
        raise UserError(f"{folder} holds no result of a model ({len(entries)} lost to infrastructure); play it first")
    newest = max(scored, key=lambda entry: entry.line)
    same = [entry for entry in entries if (entry.model, entry.protocol) == (newest.model, newest.protocol)]
    results = [entry for entry in same if not entry.lost]
    return Ours(label, newest.model, newest.protocol, results, len(same) - len(results), len(entries) - len(same))


def find(run_dir: Path, labels: tuple[str, ...] = ("base", "tuned")) -> list[Ours]:
    """What evaluations left in a run's folder, eval/base and eval/tuned."""
    folders = {label: run_dir / "eval" / label for label in labels}
    return [read(label, folder) for label, folder in folders.items() if (folder / FILE).is_file()]


def panels(ours: list[Ours], benchmark: Callable[[Ours, Entry], bool]) -> list[Panel]:
    """The figure's panels, and behind them those that the paper does not have.

    `benchmark` says whether an episode was played on the benchmark's own environment and items. What was not is never
    set beside the paper's bars: it has a panel of its own.
    """
    paper = published.error_analysis()
    played = {entry.task for one in ours for entry in one.entries}
    in_figure = {task for _, tasks, _ in PANELS.values() for task in tasks}
    found, practice = [], []
    for name, (title, tasks, kinds) in PANELS.items():
        if played and not played & set(tasks):
            continue
        rules = {kind: errors.RULES[kind] for kind in kinds.values()}
        beside = Panel(title, rules, [Series(MODELS[model], ours=False) for model in paper.models])
        beside.bars = {own: [Bar(share) for share in paper.shares[name][theirs]] for theirs, own in kinds.items()}
        alone = _empty(f"In place of {title}: practice, not the benchmark", rules)
        for one in ours:
            entries = [entry for entry in one.entries if entry.task in tasks]
            _add(beside, one, [entry for entry in entries if benchmark(one, entry)], tasks)
            _add(alone, one, [entry for entry in entries if not benchmark(one, entry)], tasks)
        found.append(beside)
        practice += [alone] if alone.series else []
    for task in sorted(played - in_figure):
        panel = _empty(f"{task} (not in the paper's figure)", {kind: errors.RULES[kind] for kind in errors.KINDS})
        for one in ours:
            _add(panel, one, [entry for entry in one.entries if entry.task == task], (task,))
        practice.append(panel)
    return found + practice


def _empty(title: str, rules: dict[str, str]) -> Panel:
    return Panel(title, rules, bars={kind: [] for kind in rules})


def _add(panel: Panel, one: Ours, entries: list[Entry], tasks: tuple[str, ...]) -> None:
    n = len(entries)
    if not n:
        return
    panel.series.append(Series(f"ours, {one.name}", True, n, _note(entries, tasks, one)))
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
