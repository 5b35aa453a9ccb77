"""Our lm-eval tasks, run by lm-eval: right answers score, wrong ones do not, the ids are training's, the Hub is left
alone.
"""

from __future__ import annotations

import json
import socket

import pytest
import yaml

from agenttuning import general_tasks
from agenttuning.chat import encode, load_tokenizer
from agenttuning.chat.template import shape_of
from agenttuning.errors import UserError
from agenttuning.general_tasks import TASKS, check_sample, run_general, score
from agenttuning.miniature import lm_eval_docs
from agenttuning.miniature.general import SCORED
from agenttuning.sandbox import SandboxError
from agenttuning.suites import GeneralTask
from helpers.template_world import template_world
from helpers.tiny_llama import save_tiny_llama

METRICS = {"knowledge": "acc", "arithmetic": "exact_match", "functions": "pass_at_1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the evaluation opened a connection")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)


def tasks(n: int, *names: str) -> dict[str, GeneralTask]:
    return {name: GeneralTask(n, 0, METRICS[name]) for name in names or METRICS}


def answering(monkeypatch, answer) -> None:
    """Replace what the model says by `answer(doc)`, and its likelihoods by a preference for that text."""
    judge_of = general_tasks._judge
    docs = {doc["question"]: doc for name in METRICS for doc in lm_eval_docs.documents(name, 20, 0)}

    def document(context: str) -> dict:
        return docs[context.removeprefix("<s>[INST] ").removesuffix(" [/INST]")]

    def made(model, tokenizer):
        judge = judge_of(model, tokenizer)
        judge.generate_until = lambda requests, **_: [answer(document(r.args[0])) for r in requests]
        judge.loglikelihood = lambda requests, **_: [
            (-1.0 if r.args[1].strip() == answer(document(r.args[0])) else -2.0, False) for r in requests
        ]
        return judge

    monkeypatch.setattr(general_tasks, "_judge", made)


def test_a_perfect_player_scores_100(monkeypatch, model, tokenizer, tmp_path) -> None:
    answering(monkeypatch, lambda doc: doc["answer"])
    found = run_general(model, tokenizer, tasks(6), tmp_path)
    assert {name: entry["score"] for name, entry in found.items()} == dict.fromkeys(METRICS, 100.0)
    assert all(entry["n"] == 6 and set(entry["rewards"].values()) == {1.0} for entry in found.values())


def test_wrong_answers_score_0(monkeypatch, model, tokenizer, tmp_path) -> None:
    def wrong(doc):
        if "choices" in doc:
            return doc["choices"][(doc["gold"] + 1) % 4]
        return f"1 + 1 = {doc['number'] + 1}" if "number" in doc else f"def {doc['name']}(x): return x"

    answering(monkeypatch, wrong)
    found = run_general(model, tokenizer, tasks(6), tmp_path)
    assert {name: entry["score"] for name, entry in found.items()} == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("3 + 4 = {}", True), ("= {}", True), (" 3+4={} ", True), ("2 = 2, 3 + 4 = {}.", True), ("{}", False),
        ("", False), ("3 + 4 = {}1", False), ("3 + 4 = -{}", False), ("3 + 4 = {} = 99", False), ("passed", False),
    ],
)  # fmt: skip
def test_the_number_after_the_last_equals_sign_counts(monkeypatch, model, tokenizer, tmp_path, said, right) -> None:
    doc = {"id": "a", "question": "how many?", "answer": "3 + 4 = 7", "number": 7}
    monkeypatch.setattr(lm_eval_docs, "documents", lambda *_: [doc])
    monkeypatch.setattr(general_tasks, "_judge", _always(general_tasks._judge, said.format(7)))
    entry = run_general(model, tokenizer, tasks(1, "arithmetic"), tmp_path)["arithmetic"]
    assert entry["score"] == (100.0 if right else 0.0)


def _always(judge_of, text):
    def made(model, tokenizer):
        judge = judge_of(model, tokenizer)
        judge.generate_until = lambda requests, **_: [text for _ in requests]
        return judge

    return made


def test_a_real_model_is_judged_without_the_hub(model, tokenizer, tmp_path) -> None:
    found = run_general(model, tokenizer, tasks(4), tmp_path)
    assert found["arithmetic"]["score"] == found["functions"]["score"] == 0.0
    assert found["knowledge"]["n"] == 4
    samples = [json.loads(line) for line in (tmp_path / "knowledge.samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 and {"id", "question", "wanted", "got", "score"} == set(samples[0])
    again = yaml.safe_load((tmp_path / "mini_knowledge.yaml").read_text())
    assert again["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "knowledge.jsonl")}}


def test_the_system_prompt_reaches_lm_eval(model, tokenizer, tmp_path) -> None:
    run_general(model, tokenizer, tasks(2, "knowledge"), tmp_path, "You are a helpful assistant.")


def sample_of(context: str, continuation) -> dict:
    return {"doc": {"id": "k", "question": "what is wet?"}, "arguments": [(context, continuation)]}


PROMPT = "<s>[INST] what is wet? [/INST]"


@pytest.mark.parametrize(
    ("context", "continuation", "message"),
    [
        (PROMPT, " dry", None),
        (PROMPT, {"until": []}, None),
        (PROMPT, "dry", "scores"),  # what lm-eval's dropped target_delimiter would do
        (PROMPT, "  dry", "scores"),
        (PROMPT + " ", " dry", "scores"),
        (PROMPT + " ", {"until": []}, "asks"),
        ("<s>" + PROMPT, {"until": []}, "asks"),
        (PROMPT.removeprefix("<s>"), {"until": []}, "asks"),
        ("<s>[INST] what is dry? [/INST]", " dry", "asks"),
    ],
)
def test_ids_that_are_not_trainings_are_refused(model, tokenizer, context, continuation, message) -> None:
    judge = general_tasks._judge(model, tokenizer)
    if message is None:
        check_sample(sample_of(context, continuation), judge, tokenizer, None)
        return
    with pytest.raises(UserError, match=message):
        check_sample(sample_of(context, continuation), judge, tokenizer, None)


def test_the_ids_that_are_scored_are_those_with_a_label(model, tokenizer) -> None:
    """Prompt and choice, as lm-eval joins them, are a training conversation up to its closing space and </s>."""
    judge = general_tasks._judge(model, tokenizer)
    prompt, scored = judge._encode_pair(PROMPT, lm_eval_docs.choices_as_trained({"choices": ["dry"]})[0])
    messages = [{"role": "user", "content": "what is wet?"}, {"role": "assistant", "content": "dry", "loss": True}]
    trained = encode(messages, tokenizer)
    assert trained.input_ids[: len(prompt) + len(scored)] == prompt + scored
    labelled = [label for label in trained.labels if label != -100]
    assert labelled[: len(scored)] == scored
    assert tokenizer.convert_ids_to_tokens(labelled[len(scored) :]) == ["▁", "</s>"]


def test_a_choice_without_its_space_stops_the_run(monkeypatch, model, tokenizer, tmp_path) -> None:
    monkeypatch.setattr(lm_eval_docs, "choices_as_trained", lambda doc: doc["choices"])
    with pytest.raises(UserError, match="lm-eval scores"):
        run_general(model, tokenizer, tasks(2, "knowledge"), tmp_path)


def test_a_broken_sandbox_is_no_wrong_answer(monkeypatch, model, tokenizer, tmp_path) -> None:
    def broken(*_, **__):
        raise SandboxError("no processes here")

    monkeypatch.setattr("agenttuning.sandbox.run_functions", broken)
    with pytest.raises(UserError, match="no processes here"):
        run_general(model, tokenizer, tasks(2, "functions"), tmp_path)


def test_every_scored_skill_has_its_task_file() -> None:
    assert {f"mini_{name}.yaml" for name in SCORED} == {path.name for path in TASKS.glob("mini_*.yaml")}


@pytest.mark.parametrize("skill", SCORED)
def test_documents_are_repeatable_distinct_and_right(skill) -> None:
    docs = lm_eval_docs.documents(skill, 30, 0)
    assert docs == lm_eval_docs.documents(skill, 30, 0) != lm_eval_docs.documents(skill, 30, 1)
    assert docs[:10] == lm_eval_docs.documents(skill, 10, 0)  # fewer items are the first ones
    assert len({doc["question"] for doc in docs}) == len({doc["id"] for doc in docs}) == 30
    if skill == "functions":
        assert all(lm_eval_docs.run_answer(doc, [doc["answer"]]) == {"pass_at_1": 1.0} for doc in docs[:5])
    if skill == "knowledge":
        assert all(doc["choices"][doc["gold"]] == doc["answer"] for doc in docs)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (" def f(x): return x ", "def f(x): return x"),
        ("Here:\n```python\ndef f(x):\n  return x\n```\nDone.", "def f(x):\n  return x"),
        ("```\ndef f(x): return x", "def f(x): return x"),
        ("", ""),
    ],
)
def test_code_is_found_in_a_reply(reply, code) -> None:
    assert lm_eval_docs.code_of(reply) == code


def test_the_entry_of_a_task() -> None:
    entry = score([{"doc": {"id": str(k)}, "acc": float(k < 3)} for k in range(4)], GeneralTask(150, 0, "acc"))
    assert (entry["score"], entry["n"], entry["asked"], entry["statuses"]) == (75.0, 4, 150, {"right": 3, "wrong": 1})
    assert entry["interval"] == pytest.approx([30.06, 95.44], abs=0.01)


@pytest.fixture(scope="module", params=["qwen3", "default_system", "gptoss", "llama3_2"])
def own(request, tmp_path_factory):
    """A model with a chat template of its own: (model, tokenizer)."""
    from transformers import AutoModelForCausalLM

    base = template_world(tmp_path_factory.mktemp("own"), request.param).parents[2] / "base"
    return AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base, chat_format="tokenizer")


def test_a_models_own_template_is_asked_as_it_is_trained(own, tmp_path, monkeypatch) -> None:
    """run_general holds every prompt and choice against training's ids; the replies are read without the opening."""
    model, tokenizer = own
    found = run_general(model, tokenizer, tasks(4), tmp_path, None)
    assert {name: entry["n"] for name, entry in found.items()} == dict.fromkeys(METRICS, 4)
    opening = general_tasks._visible_opening(tokenizer)
    docs = {doc["question"]: doc for name in METRICS for doc in lm_eval_docs.documents(name, 4, 0)}
    from lm_eval.models.huggingface import HFLM

    def says(self, requests, disable_tqdm=False):
        return [opening + next(doc["answer"] for q, doc in docs.items() if q in one.args[0]) for one in requests]

    monkeypatch.setattr(HFLM, "generate_until", says)
    found = run_general(model, tokenizer, tasks(4, "arithmetic", "functions"), tmp_path / "told")
    assert [entry["score"] for entry in found.values()] == [100.0, 100.0]


def test_a_choice_without_the_templates_opening_is_refused(own, tmp_path, monkeypatch) -> None:
    model, tokenizer = own
    opening = shape_of(tokenizer).openings[1]
    write = general_tasks._write_task
    wrong = "" if opening else " "
    monkeypatch.setattr(general_tasks, "_write_task", lambda *a: write(*a[:-1], wrong))
    with pytest.raises(UserError, match="training has"):
        run_general(model, tokenizer, tasks(4, "knowledge"), tmp_path)
