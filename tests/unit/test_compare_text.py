"""What the comparison says on a terminal, and the commands, hours and cost of what was not run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agenttuning import cli, model_size, recipe, stages
from agenttuning.environments import held_in
from agenttuning.plan import evaluation
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import compare, published
from helpers.paper_scores import as_published, graded, won, write

PAPER_TEXT, PAPER = ("held-in/paper-text", "paper-text@1"), ("general/paper/transformers", "paper@1")


def load(size: str, run_dir: Path | None = None, stem: str = "sft"):
    return recipe.load(REPOSITORY / f"recipes/agentlm-{size}/{stem}.yaml", (), run_dir)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def mixed(tmp_path: Path) -> str:
    void = {"void": "292 of 300 episodes lost", "score": None, "interval": None, "lost": 292}
    odd = {"task": "db", "not_comparable": "backend sqlite: \x1b[31mred\u202e" + " a long reason" * 12}
    write(tmp_path, "tuned", *PAPER_TEXT, {
        "alfworld": won(30, 50), "os": (won(20, 141), {"lost": 3}), "db": (won(5, 8), void),
        "kg": graded(0.25, 150), "dbbench-standard.sqlite": (won(90, 300), odd),
    })  # fmt: skip
    write(
        tmp_path, "tuned", *PAPER, {"mmlu": won(7000, 14042), "mt_bench": ([5.0, 8.0] * 40, {"judge": {"model": "j"}})}
    )
    write(tmp_path, "base", *PAPER, {"mmlu": won(7620, 14042)})
    write(tmp_path, "served-x", *PAPER_TEXT, {"alfworld": won(1, 50)})
    write(tmp_path, "released", *PAPER_TEXT, {"alfworld": won(38, 50)}, model="released@1")
    write(tmp_path, "released", "held-in/paper-code", "paper-code@1", {"strange": (won(1, 50), {"task": "os"})},
          model="other@2")  # fmt: skip
    return compare.compare(load("13b", tmp_path))


def test_no_line_is_wider_than_a_terminal_and_nothing_obeys_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = mixed(Path("run"))
    for shown in (text, compare.compare(load("70b", Path("other")))):
        assert [line for line in shown.splitlines() if len(line) > 120] == []
    assert "\x1b" not in text and "\u202e" not in text and r"\x1b[31mred\u202e" in text


def test_verdicts_come_first_and_released_before_ours(tmp_path) -> None:
    text = mixed(tmp_path)
    lines = text.splitlines()
    assert " ".join(lines[2].split()) == "verdicts on 16 tasks consistent differs not comparable not run"
    counts = {line.split()[0]: list(map(int, line.split()[1:])) for line in lines[4:7]}
    assert counts == {"released": [1, 0, 0, 15], "tuned": [4, 1, 1, 10], "base": [1, 0, 0, 15]}
    assert text.index("\nRELEASED") < text.index("\nTUNED") < text.index("\nBASE")
    assert "A miss here is the harness or the protocol, not the training" in " ".join(text.split())
    [alfworld] = [line for line in lines[lines.index("") :] if "60.0 [46.2, 72.4]" in line]
    wanted = "ALFWorld 76.0 [62.6, 85.7] 60.0 [46.2, 72.4] 50 -16.0 [-32.9, +2.3] 26.8 paper-text@1 consistent"
    assert " ".join(alfworld.split()) == wanted
    [mt_bench] = [line for line in lines if line.startswith("MT-Bench") and "6.50" in line]
    assert "-0.07 [" in mt_bench
    assert "141/144" in text and "void: 292 of 300 episodes lost" in text and "judged by j" in text
    assert re.search(r"overall general: over 2 of 4 tasks only \(MMLU, MT-Bench\)", text)
    assert "overall held-out: published 0.78; no task of its 6 has a verdict" in text


def test_what_else_to_know_is_said(tmp_path) -> None:
    said = " ".join(mixed(tmp_path).split())
    assert "released has scores of 2 models (other@2, released@1); were they the same weights?" in said
    assert "eval/served-x is of no side and was left out; --results tuned=FOLDER" in said
    assert "Mind2Web's steps come in tasks and are not independent" in said


def test_until_the_released_weights_are_scored_a_sentence_says_what_that_means(tmp_path) -> None:
    write(tmp_path, "tuned", *PAPER_TEXT, as_published("13b", "tuned", ["alfworld"]))
    assert "a miss of `tuned` may be the harness as well as the training" in " ".join(
        compare.compare(load("13b", tmp_path)).split()
    )


@pytest.mark.parametrize("size", ["7b", "13b", "70b"])
@pytest.mark.parametrize("side", ["base", "tuned", "released"])
def test_the_command_of_every_task_is_one_that_the_program_takes(size, side) -> None:
    one = load(size)
    tasks = [*evaluation.HELD_IN, *evaluation.GENERAL]
    for task in tasks:
        [job] = evaluation.jobs(one, side, [task])
        make, target, arguments = shlex.split(job.command)
        verb = target.removesuffix(f"-{size}")
        assert make == "make" and verb == ("eval-released" if side == "released" else f"eval-{kind(task)}")
        words = shlex.split(arguments.removeprefix("ARGS="))
        told = vars(cli.parse(verb, [f"recipes/agentlm-{size}/sft.yaml", *words]))
        assert told["task"] == [task] and job.tasks == (task,)
        assert told["model"] == (one.values["model_name_or_path"] if side == "base" and size != "70b" else None)
        assert (told["server"] is None) == (size != "70b"), "70B does not fit on one GPU"
        assert 0 < job.hours < 24 and job.usd == pytest.approx(job.hours * job.gpus * 5.0)
        assert job.gpus == (2 if size == "70b" else 1)
        assert job.command in evaluation.not_run(one, side, task) and "reckoned, not measured" in evaluation.not_run(
            one, side, task
        )
        if task in evaluation.HELD_IN:
            options_exist(task, told)


def kind(task: str) -> str:
    return "held-in" if task in evaluation.HELD_IN else "general"


def options_exist(task: str, told: dict) -> None:
    module = held_in(task)
    backends = dict(cli._pairs("--backend", told["backend"])).get(task)
    assert backends is None or backends in [backend.name for backend in module.BACKENDS if backend.comparable]
    stages.check_options(module, cli._options(told["env"]).get(task, {}))
    assert [word.partition("=")[0] for word in told["data"]] == [task]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_a_command_over_several_lines_is_one_for_shell_and_make(tmp_path) -> None:
    text = compare.compare(load("13b", tmp_path))
    [start] = re.findall(r"^  make eval-held-in-13b (?:.*\\\n)*.*meta-llama.*(?:\n      .*)*", text, re.M)
    done = subprocess.run(
        ["bash", "-c", start.replace("make ", "make -n --no-print-directory READY= VENV=env ", 1)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\\\n", " "))
    told = cli.parse(words[3], words[4:])
    assert told.model == "meta-llama/Llama-2-13b-chat-hf" and len(told.data) == 6 and told.run_dir == str(tmp_path)


def test_what_has_no_harness_has_no_command(tmp_path) -> None:
    paper, one = published.load(), load("13b")
    for task in paper.group("held_out"):
        assert evaluation.jobs(one, "tuned", [task]) == []
        assert "no harness" in evaluation.not_run(one, "tuned", task)
        assert "make" not in evaluation.not_run(one, "tuned", task)
    assert "retired" in evaluation.not_run(one, "tuned", "rewoo")
    assert set(evaluation.HELD_IN) == set(paper.group("held_in")) and set(evaluation.GENERAL) == set(
        paper.group("general")
    )
    works = {**evaluation.HELD_IN, **evaluation.GENERAL}
    assert all(works[task].items == paper.tasks[task]["n"]["value"] for task in works)


def test_hours_by_hand() -> None:
    # MMLU on 13B: 14,042 x 650 tokens x 2 x 13.016e9 FLOP / (989e12 x 0.4) = 600.5 s; nothing is written
    one = load("13b")
    [job] = evaluation.jobs(one, "tuned", ["mmlu"])
    assert job.hours * 3600 == pytest.approx(600.5, rel=0.01)
    # ALFWorld: 1,750 calls x 2,048 tokens = 235.8 s, and 55 batches x 120 tokens x 34 ms = 224.4 s
    [job] = evaluation.jobs(one, "tuned", ["alfworld"])
    assert job.hours * 3600 == pytest.approx(235.8 + 224.4, rel=0.01)
    assert model_size.parameters(model_size.LLAMA_2["13b"]) == pytest.approx(13.016e9, rel=1e-3)
    bare = recipe.load(REPOSITORY / "recipes/agentlm-13b/sft.yaml", ["launch.mfu=null"])
    [job] = evaluation.jobs(bare, "tuned", ["mmlu"])
    assert job.hours is None and job.usd is None and "not known" in job.cost


def test_lora_runs_have_their_own_commands() -> None:
    [job] = evaluation.jobs(load("13b", stem="sft-lora"), "tuned", ["db"])
    assert job.command.startswith("make eval-held-in-13b-lora ARGS='--task db ")
