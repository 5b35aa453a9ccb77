"""Make's rules, without running them: names map to recipes, DRY and ARGS arrive."""

import os
import re
import shutil
import subprocess

import pytest

from agenttuning.recipe.schema import REPOSITORY

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
TEXT = (REPOSITORY / "Makefile").read_text()


# What an outer `make test` passes down would change the output of the inner one.
OUTER = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "DRY", "VENV", "READY", "PYTHON")


def make(*words):
    env = {name: value for name, value in os.environ.items() if name not in OUTER}
    return subprocess.run(["make", *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=30, env=env)


def dry(*words):
    done = make("-n", "READY=", "VENV=env", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_make_alone_prints_help_that_names_real_targets():
    done = make()
    assert done.returncode == 0
    named = re.findall(r"make ([a-z-]+)(?:13b)?(?= )", done.stdout)
    wanted = ("plan", "data", "show-data", "train", "eval-held-in", "eval-general", "compare", "report", "push")
    assert {"quickstart", *(f"{verb}-" for verb in wanted)} <= set(named)
    for name in named:
        pattern = rf"^{name}%?:" if name.endswith("-") else rf"^({name}|{name.removesuffix('tiny')}%):"
        assert re.search(pattern, TEXT, re.M), name
    for name in ("13b", "7b-lora", "ablation-agent-only", "modern-qwen3-30b-a3b"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "verb", ["data", "show-data", "push-data", "plan", "train", "eval", "compare", "report", "errors", "export", "push"]
)
def test_pattern_rules(verb):
    assert dry(f"{verb}-13b") == f"env/bin/python -m agenttuning {verb} recipes/agentlm-13b/sft.yaml"


VERBS = ["data", "show-data", "push-data", "push", "plan", "train", "eval", "compare", "report", "errors"]
VERBS += ["decontaminate"]
NAMES = {
    "7b-lora": "agentlm-7b/sft-lora.yaml",
    "70b-qlora": "agentlm-70b/sft-qlora.yaml",
    "tiny": "agentlm-tiny/sft.yaml",
    "modern-qwen3-8b": "modern/qwen3-8b/sft.yaml",
    "modern-llama-3.1-8b": "modern/llama-3.1-8b/sft.yaml",
    "ablation-agent-only": "ablations/agent-only.yaml",
}


@pytest.mark.parametrize("name", NAMES)
def test_one_name_for_a_recipe_in_every_verb(name):
    lines = dry(*(f"{verb}-{name}" for verb in VERBS)).splitlines()
    assert [line.strip() for line in lines] == [
        f"env/bin/python -m agenttuning {verb} recipes/{NAMES[name]}" for verb in VERBS
    ]


def test_every_recipe_that_preflight_names_is_one_of_make(monkeypatch):
    from agenttuning import preflight, recipe

    monkeypatch.chdir(REPOSITORY)
    folders = [*REPOSITORY.glob("recipes/*/sft*.yaml"), *REPOSITORY.glob("recipes/modern/*/sft.yaml")]
    paths = sorted({*folders, *REPOSITORY.glob("recipes/ablations/*.yaml")})
    commands = [preflight.plan_command(recipe.load(path)) for path in paths]
    assert len(paths) >= 20 and all(command.startswith("make plan-") for command in commands)
    lines = dry(*(command.removeprefix("make ") for command in commands)).splitlines()
    assert [line.split()[-1] for line in lines] == [path.relative_to(REPOSITORY).as_posix() for path in paths]


def test_dry_and_args_are_passed_on():
    line = dry("train-7b", "DRY=1", "ARGS=seed=3 --data agentinstruct=x.jsonl")
    assert line.endswith("train recipes/agentlm-7b/sft.yaml --dry seed=3 --data agentinstruct=x.jsonl")


def test_launchers_get_the_recipe_and_the_words():
    words = "ARGS=seed=3 --then eval-held-in --data 'db=my items'"
    line = "submit.sh train recipes/agentlm-70b/sft.yaml seed=3 --then eval-held-in --data 'db=my items'"
    assert dry("slurm-70b", words) == f"slurm/{line}"
    assert dry("jobs-70b", words) == f"jobs/{line}"
    for launcher in ("slurm", "jobs"):
        line = f"{launcher}/submit.sh compare recipes/agentlm-13b/sft.yaml"
        assert dry(f"{launcher}-13b", "STEP=compare") == line


def test_ablations_take_a_recipe_the_twins_three_seeds():
    verb = "env/bin/python -m agenttuning ablation recipes/agentlm-"
    assert dry("ablation-13b", "DRY=1") == f"{verb}13b/sft.yaml --dry"
    assert dry("ablation-tiny", "ARGS=--only mixed").split() == f"{verb}tiny --seeds 42,43,44 --only mixed".split()
    scan = dry("eta-scan-tiny", "ARGS=--etas 0,1").split()
    assert scan[2:] == ["agenttuning", "eta-scan", "recipes/agentlm-tiny/sft.yaml", "--etas", "0,1"]


def test_what_the_launchers_read_reaches_them_by_the_environment(tmp_path):
    """`make slurm-13b SBATCH=...`: a variable of make's command line is in the environment of what it runs."""
    words = ("SBATCH=--nodes=2", "EVAL_SBATCH=-p g", "VENV=v")
    done = make("--eval=seen: ; @echo $$SBATCH $$EVAL_SBATCH $$VENV", "seen", *words)
    assert done.stdout.strip() == "--nodes=2 -p g v"


def test_the_benchmark_takes_words():
    assert dry("bench-train", "ARGS=--model 13b") == "env/bin/python benchmarks/train_gpu.py --model 13b"


def test_a_name_without_a_recipe_is_an_error():
    for name in ("14b", "13b-dora", "modern-qwen9", "ablation-none"):
        assert make("-n", "READY=", f"train-{name}").returncode != 0, name


@pytest.mark.parametrize("target", ["base-tiny", "collect-miniature", "ablation-tiny", "quickstart"])
def test_tiny_targets(target):
    verb = target.removesuffix("-tiny").removesuffix("-miniature")
    assert dry(target).startswith(f"env/bin/python -m agenttuning {verb} recipes/agentlm-tiny")


def test_targets_of_the_held_in_tasks():
    assert dry("collect-tiny") == "env/bin/python -m agenttuning collect recipes/collect/tiny.yaml"
    assert dry("doctor") == "env/bin/python -m agenttuning doctor"
    assert dry("eval-held-in-13b") == "env/bin/python -m agenttuning eval-held-in recipes/agentlm-13b/sft.yaml"


def test_the_environment_is_made_once_from_pinned_versions(tmp_path):
    out = make("-n", f"VENV={tmp_path}/v", "plan-13b").stdout
    assert "-m venv" in out and "pip install" in out and "-c constraints.txt -e '.[train,eval,dev]'" in out
    assert out.index("pip install") < out.index("agenttuning plan")


def test_an_existing_file_does_not_silence_a_rule():
    marker = REPOSITORY / "plan-13b"
    assert not marker.exists()
    marker.touch()
    try:
        assert "agenttuning plan" in dry("plan-13b")
    finally:
        marker.unlink()


def test_waiting_threads_spin_only_for_a_moment_in_the_small_runs(tmp_path):
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/python"
    fake.write_text('#!/bin/sh\necho "$OMP_WAIT_POLICY $GOMP_SPINCOUNT $TOKENIZERS_PARALLELISM"\n')
    fake.chmod(0o755)
    for target in ("quickstart", "test"):
        assert "PASSIVE 3000 false" in make("READY=", f"VENV={tmp_path}", target).stdout


def test_make_holds_no_conditionals():
    assert not re.search(r"^\s*(ifeq|ifneq|ifdef|ifndef|else|endif)\b", TEXT, re.M)
