"""The ablation of the mixture (Table 5 of the paper) in small: agent-only, general-only, mixed; same base, seeds."""

from __future__ import annotations

import json
from pathlib import Path

from agenttuning.miniature.quickstart import MINIATURE, Clock, base, parameters
from agenttuning.scoring import intervals
from agenttuning.scoring.compare import table

# The recipes lie beside the folder `path`, in ablations/; mixed is the main recipe itself.
ARMS = {"agent-only": "tiny-agent-only.yaml", "general-only": "tiny-general-only.yaml", "mixed": None}
SEEDS = (42, 43, 44)  # draws of the mixture, and the order of its rows
GROUPS = ("held_in", "held_out", "general")
FILE = "ablation.json"


def ablation(
    path: str | Path,
    agent_items: int | None = None,
    general_items: int | None = None,
    seeds: tuple[int, ...] = SEEDS,
) -> dict:
    """Train and judge every arm with every seed, print the table, write ablation.json, return what it holds.

    Base and trajectories are made first where they are missing. A second call goes on where the first one ended. Raises
    UserError as its parts do.
    """
    from agenttuning.collect import collect
    from agenttuning.evaluate import evaluate
    from agenttuning.recipe import load
    from agenttuning.train import train

    folder, clock = Path(path), Clock()
    main = load(folder / "sft.yaml")
    runs = main.run_dir.parent / "ablation"
    with clock.stage("base model and stage 1", "as in the quickstart"):
        started_from = base(folder)
        collect(folder / "collect.yaml")
        before = evaluate(main, started_from, agent_items=agent_items, general_items=general_items)
    found: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm, name in ARMS.items():
            file = folder.parent / "ablations" / name if name else folder / "sft.yaml"
            recipe = load(file, [f"seed={seed}", f"mixture.seed={seed}"], runs / arm / f"seed-{seed}")
            with clock.stage(f"{arm}, seed {seed}", "train and evaluate"):
                tuned = train(recipe)
                scores = evaluate(recipe, tuned, agent_items=agent_items, general_items=general_items)
            found[arm].append({group: scores["groups"][group]["score"] for group in GROUPS})
    result = {
        "seeds": list(seeds),
        "base": {group: before["groups"][group]["score"] for group in GROUPS},
        "arms": found,
        "seconds": clock.total(),
    }
    runs.mkdir(parents=True, exist_ok=True)
    (runs / FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text(result)}\n\n{MINIATURE.format(parameters(started_from) / 1e6)}")
    print(f"{clock.total() / 60:.0f} min in all; written: {runs / FILE}", flush=True)
    return result


def text(result: dict) -> str:
    """The table: the mean of each arm over its seeds, and its difference from mixed, seed by seed."""
    head = ["trained on", *(group.replace("_", "-") for group in GROUPS)]
    rows = [head, ["nothing (base)", *(f"{result['base'][group]:.1f}" for group in GROUPS)]]
    for arm, scores in result["arms"].items():
        rows.append([arm, *(_mean([score[group] for score in scores]) for group in GROUPS)])
    mixed = result["arms"]["mixed"]
    for arm, scores in result["arms"].items():
        if arm != "mixed":
            pairs = list(zip(scores, mixed, strict=True))
            rows.append([f"{arm} - mixed", *(_mean([a[g] - b[g] for a, b in pairs], "+") for g in GROUPS)])
    seeds = ", ".join(map(str, result["seeds"]))
    return "\n".join(
        [f"Mean scores x 100 over the tasks of a group, 95 % t intervals over seeds {seeds}; items are the same", ""]
        + table(rows)
    )


def _mean(values: list[float], sign: str = "") -> str:
    mean = f"{sum(values) / len(values):{sign}.1f}"
    if len(values) < 2:
        return f"{mean} [one seed]"
    low, high = intervals.over_seeds(values)
    if not sign:  # a score, which cannot lie outside
        low, high = max(0.0, low), min(100.0, high)
    return f"{mean} [{low:{sign}.1f}, {high:{sign}.1f}]"
