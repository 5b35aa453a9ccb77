"""A run of an ablation's variants whose parts fail or are told to end: the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import threading

import psutil
import pytest

from agenttuning import cli
from agenttuning.ablation.variants import kinds, variants
from agenttuning.recipe.schema import REPOSITORY
from helpers.ablation_runs import judged, main_recipe

STEP = """#!/bin/bash
# In place of the interpreter of a step: notes the verb and its run, fails or waits as the test says, and trains.
verb=$3
while [ "$1" != --run-dir ]; do shift; done
run=$2
echo "$verb $(basename "$run")" >> "$NOTED"
[ "$verb $(basename "$run")" != "$FAILS" ] || exit 1
if [ "$verb $(basename "$run")" = "$WAITS" ]; then
    trap 'exit 143' TERM
    touch "$NOTED.waits"
    for i in $(seq 200); do sleep 0.1; done
fi
[ "$verb" != eval-general ] || cp -r "$RECORDS/$(basename "$run").judged/." "$run"
[ "$verb" != train ] || { mkdir -p "$run/model" && echo "{}" > "$run/model/config.json" && cp "$RECORDS/$(basename "$run")" "$run/train.json"; }
"""  # noqa: E501


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


class Ablation:
    """`agenttuning ablation` of 13B; its steps are processes of STEP, `compare` is the real one, in this process."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.noted = folder, folder / "noted"
        monkeypatch.setattr("sys.executable", str(folder / "python"))
        for name, value in {"NOTED": self.noted, "FAILS": "", "WAITS": "", "RECORDS": folder / "records"}.items():
            monkeypatch.setenv(name, str(value))
        self.setenv = monkeypatch.setenv
        (folder / "python").write_text(STEP)
        (folder / "python").chmod(0o755)
        (folder / "AgentTuning").mkdir()
        main = main_recipe("13b", run_dir=folder / "sft")
        (folder / "records").mkdir()
        for one in variants(main, kinds(main, {})["mixture"], None):
            record = {"recipe_hash": one.recipe.hash, "started_from": one.recipe.values["model_revision"]}
            (folder / "records" / one.recipe.run_dir.name).write_text(json.dumps(record))
            judged(folder / "records" / f"{one.recipe.run_dir.name}.judged", 60)

        self.words = ["ablation", "recipes/agentlm-13b", "--run-dir", str(folder / "sft")]

    def __call__(self):
        judged = f"--eval-general=--task mmlu --prompts {self.folder}/AgentTuning"
        return cli.main([*self.words, judged])

    def ran(self):
        lines = self.noted.read_text().splitlines() if self.noted.exists() else []
        self.noted.unlink(missing_ok=True)
        return lines


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    return Ablation(tmp_path, monkeypatch)


def both(name):
    return [f"train {name}", f"eval-general {name}"]


def test_what_fails_in_one_variant_does_not_stop_the_others_and_is_told_at_the_end(ablation, capsys):
    ablation.setenv("FAILS", "train eta-1.0")
    assert ablation() == 2
    assert ablation.ran() == ["train eta-1.0", *both("eta-0.0"), *both("sft")]
    captured = capsys.readouterr()
    assert "1 of 3 runs are not complete" in captured.err
    assert "agent-only, seed 42: agenttuning train recipes" in captured.err
    content = json.loads((ablation.folder / "sft/results/ablation-mixture.json").read_text())
    assert [sorted(row["groups"]) for row in content["rows"]] == [[], ["general", "held_in"], ["general", "held_in"]]
    ablation.setenv("FAILS", "")
    assert ablation() == 0  # the same command: what is finished is not trained again
    assert ablation.ran() == [*both("eta-1.0"), "eval-general eta-0.0", "eval-general sft"]
    assert "left to train: 1 runs" in capsys.readouterr().out
    assert cli.main([*ablation.words, "--compare-only"]) == 0
    assert not ablation.ran() and "agent-only - mixed" in capsys.readouterr().out


def test_an_evaluation_that_fails_leaves_the_comparison_of_the_rest(ablation, capsys):
    ablation.setenv("FAILS", "eval-general eta-0.0")
    assert ablation() == 2
    assert ablation.ran() == [*both("eta-1.0"), *both("eta-0.0"), *both("sft")]
    assert "general-only, seed 42: agenttuning eval-general" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_it_after_the_step_saved_and_the_same_command_goes_on(ablation, number, status):
    ablation.setenv("WAITS", "train eta-0.0")

    def tell():
        while not ablation.noted.with_name("noted.waits").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), number)
        if number == signal.SIGINT:  # from a terminal it reaches the step as well
            (step,) = [child for child in psutil.Process().children() if "agenttuning" in child.cmdline()]
            step.terminate()

    teller = threading.Thread(target=tell)
    teller.start()
    assert ablation() == status
    teller.join()
    assert ablation.ran() == [*both("eta-1.0"), "train eta-0.0"]
    ablation.setenv("WAITS", "")
    assert ablation() == 0
    assert ablation.ran() == ["eval-general eta-1.0", *both("eta-0.0"), *both("sft")]
