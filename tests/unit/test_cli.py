"""The command line is thin, light and polite."""

import os
import subprocess
import sys
import time

import pytest

from agenttuning import cli
from agenttuning.errors import Stopped, UserError
from agenttuning.recipe.schema import REPOSITORY

R13 = "recipes/agentlm-13b/sft.yaml"
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "numpy", "huggingface_hub", "lm_eval")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def run(*words, **environment):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **environment}
    command = [sys.executable, "-m", "agenttuning", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=REPOSITORY, timeout=60)


def test_help_lists_every_verb_in_one_line(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for verb in cli.VERBS:
        assert sum(line.startswith(f"  {verb} ") for line in lines) == 1
    assert max(map(len, lines)) <= 120
    assert cli.main([]) == 2


def test_a_run_told_to_stop_exits_as_shells_have_it(monkeypatch):
    def stop(_):
        raise Stopped(15)

    monkeypatch.setitem(cli.VERBS, "train", (stop, cli.VERBS["train"][1]))
    assert cli.main(["train", R13]) == 143


def test_partial_checkpoints_are_asked_for_by_name():
    assert not cli.parse("train", [R13]).allow_partial
    assert cli.parse("train", [R13, "--resume", "x", "--allow-partial"]).allow_partial


def test_a_wrong_verb_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "`train`" in capsys.readouterr().err


def test_nothing_heavy_is_imported_for_a_plan_or_a_refusal():
    code = (
        "import sys; from agenttuning import cli\n"
        f"a = cli.main(['plan', '{R13}']); b = cli.main(['train', '{R13}'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], a, b)"
    )
    env = {**os.environ, "PYTHONPATH": "src", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    env |= {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": "/nonexistent"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60).stdout
    assert out.splitlines()[-1] == "[] 0 2"


def test_a_refusal_takes_less_than_five_seconds_and_shows_no_traceback():
    start = time.monotonic()
    done = run("train", R13, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME="/nonexistent", CUDA_VISIBLE_DEVICES="")
    assert time.monotonic() - start < 5
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr and "missing" in done.stderr


def test_dry_prints_the_plan_and_stops(capsys):
    assert cli.main(["train", R13, "--dry"]) == 0
    dry = capsys.readouterr().out
    assert cli.main(["plan", R13]) == 0
    assert capsys.readouterr().out == dry and "gradient_accumulation_steps" in dry


def test_overrides_and_options_mix_in_any_order(monkeypatch):
    import types

    seen = []
    fake = types.SimpleNamespace(train=lambda recipe, **given: seen.append((recipe, given)))
    monkeypatch.setitem(sys.modules, "agenttuning.train", fake)
    monkeypatch.setattr("agenttuning.preflight.check", lambda *_, **__: None)
    words = ["train", R13, "seed=7", "--data", "agentinstruct=a.jsonl", "mixture.seed=8", "--run-dir", "x"]
    words += ["--resume", "never"]
    assert cli.main(words) == 0
    [(recipe, given)] = seen
    paths, resume = given["data_paths"], given["resume"]
    assert (recipe.values["seed"], recipe.mixture.seed, str(recipe.run_dir), resume) == (7, 8, "x", "never")
    assert {name: str(path) for name, path in paths.items()} == {"agentinstruct": "a.jsonl"}


def test_json(capsys):
    import json

    assert cli.main(["plan", R13, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "agentlm-13b/sft"


@pytest.mark.parametrize("words", [["plan", "none.yaml"], ["plan", R13, "x"], ["plan", R13, "--data", "agentinstruct"]])
def test_mistakes_exit_2(words, capsys):
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("agenttuning plan: ")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (UserError("x"), 2)])
def test_exit_statuses(monkeypatch, capsys, error, status):
    def fail(_):
        raise error

    monkeypatch.setitem(cli.VERBS, "plan", (fail, cli.VERBS["plan"][1]))
    assert cli.main(["plan", R13]) == status
    assert capsys.readouterr().err


def test_a_bug_is_not_dressed_up_as_a_users_mistake(monkeypatch):
    def fail(_):
        raise ValueError("bug")

    monkeypatch.setitem(cli.VERBS, "plan", (fail, cli.VERBS["plan"][1]))
    with pytest.raises(ValueError, match="bug"):
        cli.main(["plan", R13])


def test_a_closed_pipe_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": "src"}
    command = [sys.executable, "-m", "agenttuning", "plan", R13]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=env, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
