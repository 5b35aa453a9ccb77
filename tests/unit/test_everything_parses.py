"""Every recipe, accelerate config and data card in the repository is alive, wherever it lies."""

import re

import pytest

from agenttuning import plan, recipe
from agenttuning.data.sources import load_card
from agenttuning.machine import Machine
from agenttuning.recipe.accelerate_config import validate
from agenttuning.recipe.schema import REPOSITORY, flatten
from agenttuning.recipe.yaml_io import read_mapping

# base.yaml is half a recipe; collect.yaml is read by agenttuning.collect, *corpus and general.yaml by the miniature
RECIPES = [
    path
    for path in sorted((REPOSITORY / "recipes").rglob("*.yaml"))
    if path.stem not in ("base", "collect", "corpus", "drill-corpus", "general") and path.parent.name != "collect"
]
OTHER = [path for path in sorted((REPOSITORY / "recipes").rglob("*.yaml")) if path not in RECIPES]
CONFIGS = sorted((REPOSITORY / "accelerate_configs").rglob("*.yaml"))
CARDS = sorted((REPOSITORY / "data_cards").rglob("source.yaml"))
CPU = Machine(gpus=(), cpus=2, memory_gib=24.0, world_size=None)


def short(path):
    return path.relative_to(REPOSITORY).as_posix()


def test_the_lists_are_not_empty():
    assert {f"recipes/agentlm-{size}/sft.yaml" for size in ("7b", "13b", "70b")} <= set(map(short, RECIPES))
    assert "recipes/ablations/unfiltered.yaml" in map(short, RECIPES)
    assert len(CONFIGS) >= 7
    assert {"agentinstruct", "agentinstruct-unfiltered", "sharegpt-gpt4", "sharegpt-gpt35"} <= {
        path.parent.name for path in CARDS
    }


@pytest.mark.parametrize("path", RECIPES, ids=short)
def test_a_recipe_resolves_and_plans(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    one = recipe.load(path)
    config = validate(one.accelerate_config)
    if one.launch.gpus and config["distributed_type"] != "NO":
        assert one.launch.gpus == config["num_processes"]
    made = plan.make(one, machine=CPU)
    assert made.accumulation >= 1 and plan.page(made)


@pytest.mark.parametrize("path", OTHER, ids=short)
def test_other_yaml_is_a_mapping(path):
    assert read_mapping(path)


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_an_accelerate_config_is_valid(path):
    config = validate(path)
    assert config["num_processes"] % config["num_machines"] == 0


@pytest.mark.parametrize("path", CARDS, ids=short)
def test_a_data_card_is_valid_and_explained(path):
    assert load_card(path.parent.name).format


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name == "sft.yaml"], ids=short)
def test_a_run_folder_has_its_readme(path):
    assert (path.parent / "README.md").is_file()


def test_the_miniature_states_its_own_policy_for_long_conversations():
    """base.yaml's must not reach it: its published results are of `drop`."""
    paper = [recipe.load(path) for path in RECIPES if re.fullmatch(r"agentlm-\d+b", path.parent.name)]
    assert {one.mixture.overlong for one in paper} == {"split_at_turn"}
    tiny = [path for path in RECIPES if path.parent.name == "agentlm-tiny"]
    assert len(tiny) == 3 and all(read_mapping(path)["mixture"]["overlong"] == "drop" for path in tiny)


def test_the_page_of_open_questions_names_real_keys_and_files():
    """A choice is only as good as the key that holds it: each must be stated in base.yaml, not defaulted."""
    page = (REPOSITORY / "docs/what-the-paper-did-not-say.md").read_text().partition("\n## ")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ") and "question" not in line]
    held = [row.rstrip("| ").rsplit("|", 1)[1] for row in rows]
    base = flatten(read_mapping(REPOSITORY / "recipes/base.yaml"))
    files = {word for cell in held for word in re.findall(r"`([^`]+/[^`]+)`", cell)}
    assert len(rows) >= 15 and files
    assert all((REPOSITORY / name).exists() for name in files)
    for cell in held:
        for word in re.findall(r"`([a-z_.*: ]+)`", cell.split("data_cards/")[0].replace("recipes/base.yaml", "")):
            key = word.split(":")[0]
            pattern = re.escape(key).replace(r"\*", "[^.]+")
            assert any(re.match(f"{pattern}($|[.])", known) for known in base) or "data_cards" in cell, word


def test_no_two_test_files_share_a_name():
    """pytest imports them by their names alone: of two it collects none."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
