"""Recipes of an ablation, and what the evaluations of its runs leave."""

from __future__ import annotations

from agenttuning import recipe
from helpers.paper_scores import won, write


def main_recipe(size, *overrides, **more):
    return recipe.load(f"recipes/agentlm-{size}/sft.yaml", list(overrides), **more)


def judged(run_dir, k):
    """What the evaluations of a run leave: k of 144 items of os won, and 9 k of GSM8K's 1,319 right."""
    write(run_dir, "tuned", "held-in/paper-text", "paper-text@1", {"os": won(k, 144)})
    write(run_dir, "tuned", "general/paper/transformers", "paper@1", {"gsm8k": won(9 * k, 1319)})
