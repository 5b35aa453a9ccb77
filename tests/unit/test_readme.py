"""Every command that a README shows is one that runs: a rule of the Makefile, a verb, a recipe that loads."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess

import pytest
from test_makefile import OUTER

from agenttuning import chain, cli
from agenttuning.recipe import load
from agenttuning.recipe.schema import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("recipes/**/README.md"))]
PAGES += [REPOSITORY / folder / "README.md" for folder in ("accelerate_configs", "jobs", "slurm")]
PAGES += [REPOSITORY / "docs" / name for name in ("checkpoints.md", "comparison.md", "export.md", "held-in.md")]
PAGES += [REPOSITORY / "docs" / "publishing.md"]
SHELL = ("git clone", "cd ")


def commands(text: str) -> list[str]:
    """Lines of fenced blocks without a language or with bash, without comments; and `make ...` in running text."""
    fenced = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.M | re.S)
    whole = [block.replace("\\\n", " ") for block in fenced]
    lines = [line.partition("#")[0].strip() for block in whole for line in block.splitlines()]
    return [line for line in lines if line] + re.findall(r"`((?:make|agenttuning) [^`]+)`", text)


FOUND = [(page.relative_to(REPOSITORY).as_posix(), line) for page in PAGES for line in commands(page.read_text())]


def test_the_pages_show_the_main_commands():
    shown = {line for _, line in FOUND}
    assert {"make quickstart", "make test", "make plan-13b", "make ablation-tiny"} <= shown
    assert any(line.startswith("make train-13b") for line in shown)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("page", "line"), FOUND)
def test_command(page, line):
    if line.startswith(SHELL):
        return
    line = re.sub(r"^([A-Z_]+=\S+ )+", "", line)  # variables for this command alone
    if line.startswith("make"):
        env = {name: value for name, value in os.environ.items() if name not in OUTER}
        done = subprocess.run(
            [*shlex.split(line), "-n", "READY=", "VENV=env"],
            capture_output=True, text=True, cwd=REPOSITORY, timeout=30, env=env,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}: {line}: {done.stderr}"
        printed = re.sub(r"\\\n", " ", done.stdout)
        runs = re.findall(r"-m agenttuning (.*)", printed)
        for words in re.findall(r"(?:slurm|jobs)/submit.sh (.*)", printed):
            ours = itertools.takewhile(lambda word: word != "--", shlex.split(words))
            runs += [shlex.join([step.verb, *step.words]) for step in chain.steps(list(ours))]
        if not runs and re.search(r"test|lint|clean|^make$|system-packages", line):
            return
    else:
        assert line.startswith("agenttuning "), f"{page}: {line} is no command that this test knows"
        runs = [line.removeprefix("agenttuning ")]
    assert runs, f"{page}: {line} runs nothing"
    for run in runs:
        verb, *words = shlex.split(run)
        if verb in ("--help", "VERB"):
            continue
        assert verb in cli.VERBS, f"{page}: {line}"
        arguments = vars(cli.parse(verb, words))
        if (named := arguments.get("recipe") or arguments.get("path")) is None:  # doctor; export-tools makes its folder
            assert verb in ("doctor", "export-tools")
            continue
        target = REPOSITORY / named
        assert target.exists(), f"{page}: {line}: no {named}"
        if "recipe" in arguments:
            load(target, [word for word in arguments["overrides"] if "=" in word])
