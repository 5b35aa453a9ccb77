"""The recipes as a family, and the figures that their READMEs tell: nothing on a page may drift from `plan`."""

import time

import pytest

from agenttuning import plan, preflight, recipe
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from helpers.readme_table import NOWHERE, SINGLE, plan_table, score_table, single_plan

RECIPES = REPOSITORY / "recipes"
MAIN = sorted(path.parent for path in RECIPES.rglob("sft.yaml") if path.parent.name != "agentlm-tiny")
VARIANTS = sorted(RECIPES.glob("agentlm-*b/sft-*lora.yaml"))
ABLATIONS = sorted(path for path in RECIPES.glob("ablations/*.yaml") if not path.stem.startswith("tiny"))
SIZES = ("7b", "13b", "70b")


def short(path):
    return path.relative_to(RECIPES).as_posix()


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_every_size_has_its_adapters_and_there_are_four_modern_bases():
    assert {short(path) for path in VARIANTS} == {
        f"agentlm-{size}/sft-{kind}.yaml" for size in SIZES for kind in ("lora", "qlora")
    }
    modern = [folder for folder in MAIN if folder.parent.name == "modern"]
    assert len(modern) == 4 and len(ABLATIONS) >= 4
    assert all(recipe.load(folder).mixture.chat_format == "tokenizer" for folder in modern)


@pytest.mark.parametrize("path", [*VARIANTS, *ABLATIONS], ids=short)
def test_a_variant_names_its_main_recipes_weights(path):
    """A recipe extends one file only, so these two lines are copies; they must not come apart."""
    main = path.with_name("sft.yaml") if path in VARIANTS else RECIPES / "agentlm-7b/sft.yaml"
    keys = ("model_name_or_path", "model_revision", "max_steps", "max_length")
    one, whole = recipe.load(path), recipe.load(main)
    assert [one.values[key] for key in keys] == [whole.values[key] for key in keys]
    assert one.launch.global_batch == whole.launch.global_batch and one.mixture.seed == whole.mixture.seed
    if path in VARIANTS:
        assert one.mixture == whole.mixture and one.loss == whole.loss
        assert one.values["learning_rate"] == pytest.approx(10 * whole.values["learning_rate"])
        differ = {key for key in one.values if one.values[key] != whole.values.get(key)}
        allowed = {
            "use_peft",
            "dtype",
            "learning_rate",
            "activation_checkpointing",
            "load_in_4bit",
            "use_bnb_nested_quant",
        }
        assert all(key in allowed or key.startswith(("lora_", "bnb_")) for key in differ), differ


def test_only_frozen_weights_may_be_bfloat16():
    every = [*(folder / "sft.yaml" for folder in MAIN), *VARIANTS, *ABLATIONS]
    for path in every:
        one = recipe.load(path)
        frozen = bool(one.values.get("use_peft"))
        assert (one.values["dtype"] == "bfloat16") == frozen, path


@pytest.mark.parametrize("path", [*(folder / "sft.yaml" for folder in MAIN), *VARIANTS, *ABLATIONS], ids=short)
def test_without_a_gpu_each_says_what_is_missing_at_once(path):
    start = time.monotonic()
    one = recipe.load(path)
    with pytest.raises(UserError) as caught:
        preflight.check(one, {}, NOWHERE)
    assert time.monotonic() - start < 5
    command = preflight.plan_command(one)
    assert f"`{command}`" in str(caught.value) and command.startswith("make plan-")
    assert plan.make(one, machine=NOWHERE).fits is True, "the machine that a recipe states must hold it"


@pytest.mark.parametrize("folder", MAIN, ids=short)
def test_a_page_tells_the_plans_figures(folder):
    page = (folder / "README.md").read_text()
    assert plan_table(folder) in page, "PYTHONPATH=src:tests python -m helpers.readme_table writes it again"
    assert "not yet measured" in page and "nothing measured" in page
    if folder.name.startswith("agentlm"):
        assert score_table(folder.name.removeprefix("agentlm-")) in page
        assert "near 0.1" in page and "adapter" in page


def test_single_figures_in_the_pages_are_the_plans():
    told = 0
    for folder in MAIN:
        for name, words, gib in SINGLE.findall((folder / "README.md").read_text()):
            made = single_plan(name, words)
            assert f"{made.memory_gib['total']:.1f}" == gib and made.fits is not False
            told += 1
    assert told >= 2


def test_the_front_page_tells_the_plans_figures():
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    small, middle, large, adapter = (
        plan.make(recipe.load(f"recipes/agentlm-{path}"), machine=NOWHERE)
        for path in ("7b", "13b", "70b", "13b/sft-lora.yaml")
    )
    assert f"{middle.gpu_hours:.0f} GPU-hours ({middle.wall_hours:.1f} hours on 8 H200, ${middle.usd:.0f}" in text
    assert f"7B: {small.gpu_hours:.1f} GPU-hours, ${small.usd:.0f}" in text
    assert f"70B: {large.gpu_hours:.0f} on 16 H200, ${large.usd:.0f}" in text
    assert f"LoRA for 13B: {adapter.gpu_hours:.1f}, ${adapter.usd:.0f}" in text
    ablations = (RECIPES / "ablations/README.md").read_text()
    assert f"{small.gpu_hours:.1f} GPU-hours, ${small.usd:.0f} by `plan`" in ablations


def test_hours_for_the_whole_run_are_those_worked_out_by_hand():
    """GPU-hours for 524 M tokens at 40 % of 989 TFLOP/s, causal FLOPs: 15.8, 30.2 and 158."""
    for size, hours in (("7b", 15.8), ("13b", 30.2), ("70b", 157.7)):
        assert plan.make(recipe.load(f"recipes/agentlm-{size}"), machine=NOWHERE).gpu_hours == pytest.approx(
            hours, abs=0.06
        )
    for mfu, hours in ((0.3, 40.3), (0.5, 24.2), (0.65, 18.6)):
        made = plan.make(recipe.load("recipes/agentlm-13b", [f"launch.mfu={mfu}"]), machine=NOWHERE)
        assert made.gpu_hours == pytest.approx(hours, abs=0.06)
    a100 = ["launch.gpu_peak_tflops=312", "launch.mfu=0.5"]
    assert plan.make(recipe.load("recipes/agentlm-70b", a100), machine=NOWHERE).gpu_hours == pytest.approx(400, abs=0.6)
