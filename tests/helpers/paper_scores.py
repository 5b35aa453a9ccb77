"""Scores files as the two evaluations write them, from known rewards: {task: rewards or (rewards, changes)}."""

from __future__ import annotations

from pathlib import Path

from agenttuning.scoring import intervals, published, scores

METRICS = {
    "alfworld": "success_rate", "os": "success_rate", "mind2web": "success_rate", "db": "category_accuracy",
    "webshop": "reward", "kg": "reward", "mmlu": "acc", "gsm8k": "exact_match", "humaneval": "pass_at_1",
    "mt_bench": "rating",
}  # fmt: skip
BACKENDS = {"alfworld": "textworld", "os": "docker", "db": "mysql", "kg": "endpoint", "webshop": "full",
            "mind2web": "agentbench"}  # fmt: skip


def won(k: int, n: int) -> list[float]:
    """n rewards, the first k of them 1."""
    return [1.0] * k + [0.0] * (n - k)


def graded(mean: float, n: int) -> list[float]:
    """n rewards around a mean in [0, 1], two values that stand as far from it as they can on the nearer side."""
    apart = min(mean, 1 - mean)
    return [mean + apart * (1 if number % 2 else -1) for number in range(n)]


def entry(task: str, rewards: list[float]) -> dict:
    """One entry of "tasks"."""
    metric = METRICS[task]
    unit = 1 if metric == "rating" else 100
    low, high = intervals.bootstrap(rewards) if metric == "rating" else intervals.mean_interval(rewards)
    general = task in ("mmlu", "gsm8k", "humaneval", "mt_bench")
    made = {
        "group": "general" if general else "held_in", "metric": metric, "n": len(rewards), "asked": len(rewards),
        "lost": 0, "statuses": {"answered": len(rewards)}, "void": None, "task": task, "benchmark": task,
        "rewards": {f"{task}_{number:05}": reward for number, reward in enumerate(rewards)},
        "score": unit * sum(rewards) / len(rewards), "interval": [unit * low, unit * high], "not_comparable": None,
    }  # fmt: skip
    if not general:
        made["backend"] = {"name": BACKENDS[task], "label": "the real thing"}
    return made


def write(
    run_dir: Path, side: str, place: str, protocol: str, tasks: dict[str, object], model: str | None = None
) -> Path:
    """Write <run_dir>/eval/SIDE/PLACE/scores.json; a general place names its backend: general/paper/vllm."""
    entries = {}
    for name, given in tasks.items():
        rewards, changes = given if isinstance(given, tuple) else (given, {})
        others = {key: value for key, value in changes.items() if key != "task"}
        entries[name] = entry(changes.get("task", name), rewards) | others
        if place.startswith("general"):
            entries[name]["backend"] = {"name": Path(place).name, "label": ""}
    found = {"schema": 1, "model": model or f"{side}@0123", "protocol": protocol, "tasks": entries, "groups": {}}
    return scores.write(found, run_dir / "eval" / side / place)


def as_published(size: str, side: str, tasks: list[str]) -> dict[str, list[float]]:
    """Rewards whose mean is the published score, as near as n items come to it."""
    paper, model = published.load(), f"llama-2-{size}-chat" if side == "base" else f"agentlm-{size}"
    found = {}
    for task in tasks:
        cell = paper.cell(task, model)
        if METRICS[task] == "rating":
            found[task] = [cell.value + (1.0 if number % 2 else -1.0) for number in range(cell.n)]
        elif METRICS[task] == "reward":
            found[task] = graded(cell.value / 100, cell.n)
        else:
            found[task] = won(round(cell.value / 100 * cell.n), cell.n)
    return found
