"""A finished run with everything that a push tells of: a trained tiny Llama, its data, scores, a comparison, a check of
contamination, episodes. The names are those of agentlm-13b; the scores are written down, with hostile texts in them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from agenttuning.scoring import comparison
from helpers.episode_records import HOSTILE, record, said, stored
from helpers.tiny_run import tiny_recipe, tiny_world

MODEL, DATA, TRACES, TITLE = "someone/agentlm-13b", "someone/agent-data", "someone/agent-traces", "AgentLM <again> | x"
PUBLISH = (
    f"publish.hub_model_id={MODEL}", f"publish.hub_dataset_id={DATA}", f"publish.hub_traces_id={TRACES}",
    f"publish.collection='{TITLE}'", "publish.base_model=meta-llama/Llama-2-13b-chat-hf",
)  # fmt: skip
# Stand-ins: the texts of real licences are their owners'.
BASE_FILES = {
    "README.md": "---\nlicense: llama2\n---\n# base\n",
    "LICENSE.txt": "LLAMA 2 COMMUNITY LICENSE AGREEMENT (stand-in of the tests)\n",
    "USE_POLICY.md": "# Llama 2 Acceptable Use Policy (stand-in of the tests)\n",
}
CARD = "---\npretty_name: '{name}, [pretty](http://x) | <b>'\nlanguage: [en]\nlicense: mit\n---\n\nFor a test.\n"
PATH = Path("recipes/agentlm-13b/sft.yaml")


def pushable_world(folder: Path) -> Path:
    """Write repository and run into `folder`, trained; returns the recipe's path."""
    from agenttuning.train import train

    made = tiny_world(folder)
    (folder / PATH).parent.mkdir()
    shutil.move(made, folder / PATH)
    for name, text in BASE_FILES.items():
        (folder / "base" / name).write_text(text)
    for name in ("agents", "chats"):
        with (folder / "data_cards" / name / "source.yaml").open("a") as card:
            card.write("loss_flags: as told\nlicence: MIT\nstand_in_for: other people's | <i>data</i>\n")
        (folder / "data_cards" / name / "README.md").write_text(CARD.format(name=name))
    train(tiny_recipe(folder / PATH, folder / "run"))
    results(folder / "run")
    return folder / PATH


def recipe_of(folder: Path, *overrides: str, run_dir: Path | None = None):
    return tiny_recipe(folder / PATH, run_dir or folder / "run", *PUBLISH, *overrides)


def entry(score: float | None, n: int, metric: str = "exact_match", **more) -> dict:
    """One task of a scores.json, as eval-general writes it."""
    ends = None if score is None else [max(0.0, score - 2), score + 2]
    return {
        "group": "general", "metric": metric, "n": n, "asked": n, "lost": 0, "statuses": {"right": n}, "void": None,
        "rewards": {f"i{k}": 1.0 for k in range(3)}, "score": score, "interval": ends, "not_comparable": None,
        "backend": {"name": "transformers", "label": "in this process"},
        "data": {"source": "openai/gsm8k on the Hub", "revision": "e" * 40, "sha256": "f" * 64, "n": n},
    } | more  # fmt: skip


def results(run_dir: Path) -> None:
    """Write scores of both sides, the comparison, the contamination and the episodes."""
    trained = json.loads((run_dir / "train.json").read_text())
    names = {"tuned": f"tuned@{trained['model'][:16]}", "base": f"base@{trained['started_from'][:16]}"}
    for side, model in names.items():
        better = 10 if side == "tuned" else 0
        paper = {"gsm8k": entry(22.25 + better, 1319), "mmlu": entry(43.0 + better, 14042, "acc", data={})}
        paper["mt_bench"] = entry(5.25, 80, "rating", data={}, not_comparable="the judge is not the paper's")
        write_scores(run_dir, side, "general/paper/transformers", "paper@1", model, paper)
        stock = {"gsm8k": entry(30.0 + better, 1319, not_comparable="lm-eval's own prompt | <b>")}
        write_scores(run_dir, side, "general/stock/transformers", "stock@0.4.13", model, stock)
        held_in = {
            "os": entry(10.0 + better, 144, "success_rate", group="held_in", lost=2),
            f"db.{HOSTILE.replace(chr(0xD800), '?')}": entry(90.0, 5, "success_rate", not_comparable="practice items"),
            "webshop": entry(None, 0, "reward", void="200 of 200 episodes lost"),
        }
        write_scores(run_dir, side, "held-in/paper-text", "paper-text@2", model, held_in)
    comparison.write(compared(names["tuned"]), run_dir)
    suite = {"examples": 1319, "clean": 1300, "between": 10, "dirty": 3, "too_short": 6, "contaminated_tokens": 40,
             "tokens": 100_000, "found": [{"span": "the text of a test item"}]}  # fmt: skip
    report = {"rule": "ten equal tokens", "suites": {"gsm8k": suite}, "not_compared": {"os": "no items here"}}
    (run_dir / "contamination.json").write_text(json.dumps(report))
    own = {"model": names["tuned"]}
    stored(
        run_dir / "eval/tuned/held-in/paper-text/os",
        record("os", "o1", *said("bash ls", "finish"), **own),
        record("os", "o2", *said("bash " + HOSTILE), status="task_limit", reward=0.0, **own),
        record("os", "o3", status="environment_error", reward=None, error="OSError: gone", **own),
    )
    lite = record("db", "d1", *said("SELECT 1"), backend="sqlite", **own)
    stored(run_dir / "eval/tuned/held-in/paper-text/db.sqlite", lite)
    stored(run_dir / "eval/base/held-in/paper-text/os", record("os", "of-the-base", *said("x"), model=names["base"]))


def write_scores(run_dir: Path, side: str, place: str, protocol: str, model: str, tasks: dict) -> Path:
    path = run_dir / "eval" / side / place / "scores.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"label": side, "date": "2026-01-02T03:04:05+00:00", "model_path": str(run_dir / "model")}
    content = {"schema": 1, "model": model, "protocol": protocol, "tasks": tasks, "groups": {}, "notes": notes}
    path.write_text(json.dumps(content))
    return path


def compared(model: str) -> comparison.Comparison:
    """Two rows that ran, one that did not."""
    facts = {"group": "general", "published_model": "agentlm-13b", "side": "tuned", "verified": True}
    ran = {"n": 1319, "backend": "transformers", "protocol": "paper@1", "model": model, "detectable": 3.6,
           "scores": "eval/tuned/general/paper/transformers/scores.json"}  # fmt: skip
    rows = (
        comparison.Row("gsm8k", "GSM8K", metric="exact_match", published=32.4, published_n=1319, verdict="consistent",
                       published_interval=(29.9, 35.0), ours=32.25, interval=(30.25, 34.25), difference=-0.15,
                       difference_interval=(-3.6, 3.3), **facts, **ran),
        comparison.Row("mmlu", "MMLU", metric="acc", published=53.6, published_n=14042, verdict="not comparable",
                       published_interval=None, why="a reason | with <b>bars</b>", ours=53.0, interval=(51.0, 55.0),
                       **facts, **ran),
        comparison.Row("humaneval", "HumanEval", metric="pass_at_1", published=14.8, published_n=164,
                       published_interval=None, verdict="not run", why="make eval-general-13b, 0.1 hours, $1", **facts),
    )  # fmt: skip
    overall = comparison.Overall("general", "tuned", 0.69, ("gsm8k", "mmlu"), 4, 0.8, (0.7, 0.9), 0.79)
    pair = comparison.Pair("tuned - base", "gsm8k", "paper@1", "tuned", "base", 1319, 10.0, (8.0, 12.0), 1e-9)
    return comparison.Comparison("agentlm-13b/sft", "13b", "2026-01-02", "0" * 40, rows, (overall,), (pair,))


HF_TOKEN = "hf_" + "cAnArY0123456789cAnArY0123456789cA"
API_KEY = "a-key-of-no-known-format-0123456789"


@functools.cache
def pushed(folder: Path) -> tuple[Path, str, Path]:
    """A world and the dry run of everything in it, with canaries in the environment and no socket to be had, made once
    for all modules: (world, what was printed, the folder that holds what was staged). folder: the session's.
    """
    world = folder / "pushed"
    world.mkdir()
    pushable_world(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", HF_TOKEN)
        patch.setenv("JUDGE_API_KEY", API_KEY)
        refuse_sockets(patch)
        return world, dry_run(world), world / "run/hub"


def dry_run(world: Path) -> str:
    """What `agenttuning push --dry-run` prints."""
    from agenttuning import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(["push", str(world / PATH), "--run-dir", str(world / "run"), *PUBLISH, "--dry-run"])
    assert status == 0, out.getvalue()
    return out.getvalue()


def copied(world: Path, folder: Path) -> Path:
    """A copy of the run, for a test that changes it."""
    shutil.copytree(world / "run", folder / "run", ignore=shutil.ignore_patterns("checkpoints", "hub"))
    return folder / "run"


def refuse_sockets(patch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    patch.setattr(socket, "create_connection", refuse)


def refused(world: Path, run_dir: Path, *overrides: str, **options) -> str:
    """The refusal of a dry run, by which nothing was staged."""
    from agenttuning.errors import UserError
    from agenttuning.hub.push import push

    shutil.rmtree(run_dir / "hub", ignore_errors=True)
    with pytest.raises(UserError) as caught:
        push(recipe_of(world, *overrides, run_dir=run_dir), dry=True, **options)
    left = list((run_dir / "hub").rglob("*")) if (run_dir / "hub").exists() else []
    assert not left, left
    return str(caught.value)


def card(folder: Path) -> tuple[dict, str]:
    """Header and body of a folder's README.md."""
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body
