"""Judging tiny models end to end: every task has n, score, interval and statuses; what was done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning import evaluate as module
from agenttuning import recipe, suites
from agenttuning.episodes.store import read
from agenttuning.errors import UserError
from agenttuning.evaluate import evaluate
from agenttuning.model_files import find_model, model_digest
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.scoring import scores
from agenttuning.scoring.compare import compare
from helpers.template_world import template_world
from helpers.tiny_llama import save_tiny_llama

TINY = REPOSITORY / "recipes/agentlm-tiny/sft.yaml"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_llama(folder / name, mute=name == "mute") for name in ("random", "mute")}


@pytest.fixture
def run(tmp_path, models):
    """A recipe that starts from the mute model and whose own model is the random one."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "model").symlink_to(models["random"])
    return recipe.load(TINY, [f"model_name_or_path={models['mute']}"], run_dir)


def judge(run, **settings) -> dict:
    return evaluate(run, **{"agent_items": 4, "general_items": 4, **settings})


def test_a_model_is_judged_end_to_end(run, models, capsys) -> None:
    found = judge(run)
    assert list(found["tasks"]) == ["household", "database", "shop", "files", "knowledge", "arithmetic", "functions"]
    for name, entry in found["tasks"].items():
        assert entry["n"] == sum(entry["statuses"].values()) == len(entry["rewards"]) == 4, name
        assert 0 <= entry["interval"][0] <= entry["score"] <= entry["interval"][1] <= 100
        assert entry["asked"] >= 100
    assert found["groups"]["held_in"]["tasks"] == ["household", "database", "shop"]
    assert found["groups"]["held_out"]["tasks"] == ["files"]
    assert found["groups"]["general"]["tasks"] == ["knowledge", "arithmetic", "functions"]
    notes = found["notes"]
    assert notes["label"] == "tuned" and notes["suite"] == "miniature@1" and notes["protocol"] == "miniature@1"
    assert notes["model_sha256"] == model_digest(models["random"]) and notes["recipe_hash"] == run.hash
    assert {"date", "commit", "seeds", "versions", "sandbox"} <= set(notes) and "lm-eval" in notes["versions"]
    folder = run.run_dir / "eval" / "tuned"
    assert scores.read(folder / scores.FILE) == json.loads(json.dumps(found))
    assert len(read(folder / "episodes.jsonl")) == 16
    assert "held-in mean" in capsys.readouterr().out


def test_a_model_that_says_nothing_scores_0_with_a_status(run, models) -> None:
    found = judge(run, model=models["mute"])
    assert (run.run_dir / "eval" / "base" / scores.FILE).exists()
    for name in ("household", "database", "shop", "files"):
        entry = found["tasks"][name]
        assert (entry["score"], entry["statuses"]) == (0.0, {"invalid_format": 4})
        assert entry["errors"]["format"] == 1.0
    assert found["tasks"]["arithmetic"]["score"] == found["tasks"]["functions"]["score"] == 0.0
    assert found["groups"]["held_in"]["score"] == found["groups"]["held_out"]["score"] == 0.0


def test_compare_finds_both_sides(run, models, capsys) -> None:
    judge(run, tasks=["shop", "arithmetic"])
    judge(run, tasks=["shop", "arithmetic"], model=models["mute"])
    text = compare(run)
    assert "shop (reward)" in text and "arithmetic (exact match)" in text and "+0.0" in text


def test_a_second_call_plays_nothing_again(run, monkeypatch, capsys) -> None:
    first = judge(run)

    def refuse(*_, **__):
        raise AssertionError("asked again")

    monkeypatch.setattr("agenttuning.policies.transformers_policy.TransformersPolicy.__call__", refuse)
    monkeypatch.setattr("agenttuning.general_tasks.run_general", refuse)
    second = judge(run)
    assert second["tasks"] == first["tasks"] and second["groups"] == first["groups"]
    assert "already judged" in capsys.readouterr().out


def test_an_interrupted_evaluation_goes_on(run, monkeypatch) -> None:
    from agenttuning.policies.transformers_policy import TransformersPolicy

    asked, call = [], TransformersPolicy.__call__

    def counting(self, turns):
        asked.extend(turn.item for turn in turns)
        if any("shop" in turn.item for turn in turns) and len(asked) < 100:
            asked.extend([None] * 100)
            raise KeyboardInterrupt
        return call(self, turns)

    monkeypatch.setattr(TransformersPolicy, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        judge(run)
    asked.clear()
    asked.extend([None] * 100)
    judge(run)
    assert {item.split("_")[0] for item in asked if item} == {"shop", "files"}


def test_more_items_play_only_what_is_new(run) -> None:
    judge(run, agent_items=2, tasks=["shop"])
    assert judge(run, agent_items=3, tasks=["shop"])["tasks"]["shop"]["n"] == 3
    assert len(read(run.run_dir / "eval" / "tuned" / "episodes.jsonl")) == 3


def test_other_weights_are_judged_anew(run, models) -> None:
    judge(run, tasks=["shop", "arithmetic"])
    (run.run_dir / "model").unlink()
    (run.run_dir / "model").symlink_to(models["mute"])
    found = judge(run, tasks=["shop", "arithmetic"])
    assert found["tasks"]["shop"]["statuses"] == {"invalid_format": 4}
    records = read(run.run_dir / "eval" / "tuned" / "episodes.jsonl")
    assert len(records) == 8 and len({record["model"] for record in records}) == 2
    samples = (run.run_dir / "eval/tuned/docs/arithmetic.samples.jsonl").read_text()
    assert [json.loads(line)["got"] for line in samples.splitlines()] == [[[""]]] * 4


def test_episodes_of_other_rules_are_put_aside(run, monkeypatch, capsys) -> None:
    judge(run, tasks=["shop"])
    monkeypatch.setattr(module, "_rules_digest", lambda *_: "other rules")
    judge(run, tasks=["shop"])
    folder = run.run_dir / "eval" / "tuned"
    assert len(read(folder / "episodes.jsonl")) == len(read(folder / "episodes.before-1.jsonl")) == 4
    assert "have changed" in capsys.readouterr().out


def test_changed_documents_are_judged_anew(run, monkeypatch) -> None:
    from agenttuning.miniature import lm_eval_docs

    judge(run, tasks=["arithmetic"])
    documents = lm_eval_docs.documents
    monkeypatch.setattr(lm_eval_docs, "documents", lambda *a: [{**d, "question": "new?"} for d in documents(*a)])
    judge(run, tasks=["arithmetic"])
    samples = (run.run_dir / "eval/tuned/docs/arithmetic.samples.jsonl").read_text()
    assert samples.count('"new?"') == 4


def test_general_tasks_alone(run) -> None:
    found = judge(run, tasks=["knowledge"])
    assert list(found["tasks"]) == ["knowledge"]
    assert found["groups"]["held_in"]["score"] is None and found["groups"]["general"]["score"] is not None


def test_out_is_where_it_is_written(run, tmp_path) -> None:
    judge(run, tasks=["shop"], out=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / scores.FILE).exists() and not (run.run_dir / "eval").exists()


def test_labels(run, models, tmp_path) -> None:
    own, base = run.run_dir / "model", Path(run.values["model_name_or_path"])
    assert find_model(run, None) == (own, "tuned")
    assert find_model(run, str(own))[1] == find_model(run, own.parent / "." / "model")[1] == "tuned"
    assert find_model(run, base)[1] == "base"
    for name, label in {
        "checkpoint-300": "checkpoint-300",
        "other run/model": "other-run",
        "base": "other-base",
        "tuned/model": "other-tuned",
        "...": "other",
    }.items():
        (tmp_path / "x" / name).mkdir(parents=True)
        assert find_model(run, tmp_path / "x" / name)[1] == label


def test_a_hub_model_is_fetched_at_the_recipes_revision(monkeypatch, tmp_path) -> None:
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    run = recipe.load(TINY, ["model_name_or_path=owner/start", "model_revision=abc"], tmp_path / "run")
    assert find_model(run, "owner/start") == (tmp_path, "base")
    assert find_model(run, "owner/other") == (tmp_path, "other")
    assert asked == [("owner/start", "abc"), ("owner/other", None)]


@pytest.mark.parametrize("model", [None, "no/such/folder", "./nothing", "/nowhere", "nothing"])
def test_no_model_is_said(tmp_path, model) -> None:
    run = recipe.load(TINY, (), tmp_path / "run")
    with pytest.raises(UserError, match="no model folder"):
        evaluate(run, model=model)


def test_a_folder_without_weights_is_no_model(run, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .*safetensors"):
        evaluate(run, model=tmp_path / "empty")


@pytest.mark.parametrize("settings", [{"tasks": ["alfworld"]}, {"tasks": []}, {"agent_items": 0}])
def test_what_cannot_be_judged_is_refused(run, settings) -> None:
    with pytest.raises(UserError):
        judge(run, **settings)


@pytest.mark.parametrize("size", ["7b", "13b", "70b"])
def test_the_papers_sizes_have_no_suite_and_are_told_their_verbs(size) -> None:
    with pytest.raises(UserError, match="eval-held-in .*eval-general .*agentlm-tiny"):
        evaluate(recipe.load(REPOSITORY / f"recipes/agentlm-{size}/sft.yaml"))


def test_the_suite_is_read_strictly(tmp_path) -> None:
    text = (suites.FOLDER / "miniature.yaml").read_text()
    (tmp_path / "suites").mkdir()
    (tmp_path / "protocols").symlink_to(REPOSITORY / "evaluation/protocols")
    path = tmp_path / "suites" / "one.yaml"

    def load(change=lambda text: text):
        path.write_text(change(text))
        return suites.load(path)

    assert load().label == "miniature@1"
    for old, new in {
        "judges:": "judge:",
        "metric: acc": "metric: accuracy",
        "{n: 150, seed: 0, metric: acc}": "{n: 0, seed: 0, metric: acc}",
        "{n: 150, seed: 0, metric: acc} ": "{n: 150, seeds: 0, metric: acc}",
        "knowledge:": "shop:",
        "version: 1": "version: one",
        "protocol: miniature": "protocol: paper",
    }.items():
        assert old in text
        with pytest.raises(UserError):
            load(lambda text, old=old, new=new: text.replace(old, new))


def test_a_models_own_chat_format_is_judged_by(tmp_path, capsys) -> None:
    """The recipe says how the base is asked; asked otherwise, earlier episodes and scores are no results."""
    base = template_world(tmp_path / "w", "qwen3").parents[2] / "base"
    settings = [f"model_name_or_path={base}", "mixture.chat_format=tokenizer"]

    def ask(*more):
        one = recipe.load(TINY, [*settings, *more], tmp_path / "run")
        return judge(one, model=base, tasks=["shop", "knowledge"], agent_items=2)

    first = ask("mixture.system_prompt=null")
    assert ask("mixture.system_prompt=null")["tasks"] == first["tasks"]
    assert "already judged" in capsys.readouterr().out
    ask("mixture.system_prompt=Be brief.")
    folder = tmp_path / "run/eval/base"
    assert len(read(folder / "episodes.jsonl")) == len(read(folder / "episodes.before-1.jsonl")) == 2
    assert "already judged" not in capsys.readouterr().out
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# the same text from another template #}")
    ask("mixture.system_prompt=Be brief.")
    assert (folder / "episodes.before-2.jsonl").exists()
