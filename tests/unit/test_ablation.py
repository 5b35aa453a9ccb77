"""The ablation's table from known scores, and the recipes of its arms."""

from __future__ import annotations

from agenttuning import recipe
from agenttuning.miniature.ablation import ARMS, text
from agenttuning.recipe.schema import REPOSITORY

BASE = {"held_in": 0.0, "held_out": 0.0, "general": 100.0}


def scores(held_in, general):
    return {"held_in": held_in, "held_out": 0.0, "general": general}


def test_table_pairs_each_seed_with_the_mixed_run_of_the_same_seed():
    arms = {
        "agent-only": [scores(90.0, 10.0), scores(92.0, 12.0)],
        "general-only": [scores(0.0, 100.0), scores(0.0, 100.0)],
        "mixed": [scores(80.0, 99.0), scores(84.0, 97.0)],
    }
    lines = {line.split("  ")[0]: line for line in text({"seeds": [1, 2], "base": BASE, "arms": arms}).splitlines()}
    assert "91.0 [78.3, 100.0]" in lines["agent-only"]  # 91 -+ t(0.975, 1) = 12.706 x 1, and no more than 100
    assert "-87.0 [-112.4, -61.6]" in lines["agent-only - mixed"]  # -89 and -85
    assert "+9.0 [-3.7, +21.7]" in lines["agent-only - mixed"]
    assert "100.0" in lines["nothing (base)"] and "seeds 1, 2" in "\n".join(lines)
    assert "[one seed]" in text({"seeds": [1], "base": BASE, "arms": {arm: found[:1] for arm, found in arms.items()}})


def test_the_arms_differ_from_the_main_recipe_in_their_sources_alone():
    main = recipe.load(REPOSITORY / "recipes/agentlm-tiny/sft.yaml")
    for arm, name in ARMS.items():
        if name is None:
            continue
        other = recipe.load(REPOSITORY / "recipes/ablations" / name)
        assert other.values == main.values and other.loss == main.loss and other.launch == main.launch
        assert len(other.mixture.sources) == 1 and set(other.mixture.sources) < set(main.mixture.sources)
        assert ("agent" in next(iter(other.mixture.sources))) == (arm == "agent-only")
