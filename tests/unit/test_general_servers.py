"""A server answers as the model in this process; what it loses is counted and asked again; what it cannot, it says."""

from __future__ import annotations

import json
import sys
import types

import pytest

from agenttuning.errors import UserError
from agenttuning.general import gsm8k, servers
from agenttuning.general.evaluate import evaluate_general
from agenttuning.general.mt_bench import Judge
from agenttuning.general.players import player
from agenttuning.policies import GaveUp, openai
from agenttuning.policies.openai import Patience
from agenttuning.recipe import load
from agenttuning.recipe.schema import REPOSITORY
from helpers.completions_server import Served, completions_server
from helpers.tiny_llama import save_tiny_llama

QUICK = Patience(retries=1, wait=0.01, longest=0.05, connect=1.0, read=60.0)
REPLY = 32  # tokens at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def loaded(folder):
    from transformers import AutoModelForCausalLM

    from agenttuning.chat import load_tokenizer

    return AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)


@pytest.fixture
def recipe(folder, tmp_path):
    return load(REPOSITORY / "recipes/agentlm-tiny/sft.yaml", [f"model_name_or_path={folder}"], tmp_path / "run")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(openai, "Patience", lambda: QUICK)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # a random model says whatever it says up to the last token it may, and each token takes time here
    write, few = gsm8k.write_task, {"do_sample": False, "max_gen_toks": REPLY, "until": ["Question:", "</s>"]}
    monkeypatch.setattr(gsm8k, "write_task", lambda *given: write(*given[:-1], {**given[-1], "generation_kwargs": few}))


def asked(recipe, tmp_path, url, name, **more):
    who = player(recipe, server=url, served_model="served", concurrency=8)
    return evaluate_general(recipe, who, most=6, out=tmp_path / name, **more)["tasks"]


def samples(folder, task):
    lines = (folder / "docs" / f"tiny-{task}.samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("protocol", ["paper", "corrected", "stock"])
def test_a_server_is_asked_and_scored_as_the_model_here(recipe, folder, loaded, tmp_path, protocol) -> None:
    tasks = ["mmlu", "gsm8k"]
    here = evaluate_general(
        recipe, player(recipe, str(folder)), protocol=protocol, tasks=tasks, most=6, out=tmp_path / "here"
    )["tasks"]
    with completions_server(Served(*loaded, room=2048)) as url:
        there = asked(recipe, tmp_path, url, "there", protocol=protocol, tasks=tasks)
    for name, entry in here.items():
        assert there[name]["rewards"] == entry["rewards"]
        assert there[name]["backend"]["name"] == "server"
    said = {place: {task: samples(tmp_path / place, task) for task in tasks} for place in ("here", "there")}
    assert said["there"]["gsm8k"] == said["here"]["gsm8k"]
    for mine, other in zip(said["here"]["mmlu"], said["there"]["mmlu"], strict=True):
        assert [one[0] for one in other["got"]] == pytest.approx([one[0] for one in mine["got"]], abs=1e-4)


def test_lost_answers_are_counted_never_scored_and_asked_again(recipe, loaded, tmp_path, capsys) -> None:
    served = Served(*loaded, room=2048)
    with completions_server(served) as url:
        served.fail = lambda path, number: 503 if number > 4 else None
        with pytest.raises(UserError, match="no score of tiny-gsm8k"):
            asked(recipe, tmp_path, url, "x", tasks=["gsm8k"], protocol="corrected")
        broken = json.loads((tmp_path / "x" / "scores.json").read_text(encoding="utf-8"))["tasks"]["tiny-gsm8k"]
        assert broken["score"] is None and broken["lost"] > 0 and broken["n"] + broken["lost"] == 6
        assert len(broken["rewards"]) == broken["n"] and "lost" in broken["statuses"]
        served.fail, before = lambda path, number: None, len(served.asked)
        mended = asked(recipe, tmp_path, url, "x", tasks=["gsm8k"], protocol="corrected")["tiny-gsm8k"]
    again = [body for _, body in served.asked[before:] if body["max_tokens"] > 1]
    assert mended["lost"] == 0 and mended["n"] == 6 and len(again) == broken["lost"]


def test_a_connection_that_breaks_once_is_asked_again_and_not_lost(recipe, loaded, tmp_path) -> None:
    served = Served(*loaded, room=2048)
    with completions_server(served) as url:
        served.fail = lambda path, number: "die" if number == 4 else None
        entry = asked(recipe, tmp_path, url, "x", tasks=["mmlu"])["tiny-mmlu"]
    assert entry["lost"] == 0 and entry["n"] == 6


def test_a_server_with_nothing_but_chat_answers_gsm8k_and_is_refused_mmlu(recipe, loaded, tmp_path) -> None:
    served = Served(*loaded, only_chat=True)
    with completions_server(served) as url:
        entry = asked(recipe, tmp_path, url, "x", tasks=["gsm8k"], protocol="corrected")["tiny-gsm8k"]
        messages = [body["messages"] for path, body in served.asked if "messages" in body][-1]
        assert entry["n"] == 6 and [turn["role"] for turn in messages][:3] == ["system", "user", "assistant"]
        with pytest.raises(UserError, match="leave mmlu out"):
            asked(recipe, tmp_path, url, "x", tasks=["mmlu"])
        with pytest.raises(UserError, match="no conversation"):
            asked(recipe, tmp_path, url, "x", tasks=["gsm8k"], protocol="stock")


def test_a_wrong_name_or_no_server_is_said_at_once(recipe, loaded, tmp_path) -> None:
    with completions_server(Served(*loaded)) as url:
        who = player(recipe, server=url, served_model="other")
        with pytest.raises(UserError, match="'other'"):
            evaluate_general(recipe, who, tasks=["gsm8k"], out=tmp_path / "x")
    with pytest.raises(UserError, match="no server listens"):
        asked(recipe, tmp_path, url, "x", tasks=["gsm8k"])


@pytest.mark.parametrize("bad", [{}, {"token_logprobs": []}, {"token_logprobs": [None] * 9, "top_logprobs": [{}] * 9}])
def test_an_echo_without_the_numbers_is_refused(bad) -> None:
    with pytest.raises(UserError, match="does not echo"):
        servers._echoed({"choices": [{"logprobs": bad}]}, 5, 1)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), "-1", None])
def test_a_number_that_is_no_logarithm_of_a_probability_is_refused(value) -> None:
    good = {"token_logprobs": [None, -1.0, -2.0], "top_logprobs": [None, {"a": -1.0}, {"b": -0.5}]}
    assert servers._echoed({"choices": [{"logprobs": good}]}, 3, 2) == (-3.0, False)
    with pytest.raises(UserError, match="does not echo"):
        servers._echoed({"choices": [{"logprobs": good | {"token_logprobs": [None, -1.0, value]}}]}, 3, 2)


@pytest.mark.parametrize("text", [7, ["a"], {"a": 1}, True])
def test_an_answer_that_is_no_text_is_lost_and_no_wrong_one(text) -> None:
    with pytest.raises(GaveUp):
        servers._text({"choices": [{"text": text}]})
    assert servers._text({"choices": [{"message": {"content": None}}]}) == ""  # hidden reasoning took all tokens


def test_rubbish_between_good_answers_is_lost_and_nothing_else(recipe, loaded, tmp_path) -> None:
    """Status 200 with a likelihood that is none, once: the other questions have their answers, and this one is lost."""
    served = Served(*loaded, room=2048)
    whole = served.completion

    def completion(body):
        made = whole(body)
        if body.get("echo") and sum("echo" in one for _, one in served.asked) == 3:
            made["logprobs"]["token_logprobs"] = [float("nan")] * len(body["prompt"])
        return made

    served.completion = completion
    with completions_server(served) as url:
        with pytest.raises(UserError, match="no score of tiny-mmlu"):
            asked(recipe, tmp_path, url, "x", tasks=["mmlu"])
        broken = json.loads((tmp_path / "x" / "scores.json").read_text(encoding="utf-8"))["tasks"]["tiny-mmlu"]
        assert (broken["n"], broken["lost"]) == (5, 1)
        before = len(served.asked)
        assert asked(recipe, tmp_path, url, "x", tasks=["mmlu"])["tiny-mmlu"]["n"] == 6
    assert sum("echo" in body for _, body in served.asked[before:]) == 1


def test_a_server_that_forgets_the_model_in_the_middle_ends_the_run_and_what_it_answered_is_kept(
    recipe, loaded, tmp_path
) -> None:
    served = Served(*loaded, room=2048)
    with completions_server(served) as url:
        served.fail = lambda path, number: 404 if number > 9 else None
        with pytest.raises(UserError, match="every turn would be answered so"):
            asked(recipe, tmp_path, url, "x", tasks=["mmlu"])
        assert not (tmp_path / "x" / "scores.json").exists()
        served.fail, before = lambda path, number: None, len(served.asked)
        assert asked(recipe, tmp_path, url, "x", tasks=["mmlu"])["tiny-mmlu"]["n"] == 6
    assert 0 < sum("echo" in body for _, body in served.asked[before:]) < 24


def test_the_room_of_a_server_decides_what_is_asked(recipe, loaded, tmp_path) -> None:
    """Prompts are cut to the room less the token that must be asked for, and told; the answers are no other room's."""
    served = Served(*loaded, room=100)
    with completions_server(served) as url:
        small = asked(recipe, tmp_path, url, "x", tasks=["mmlu"])["tiny-mmlu"]
        echoed = [len(body["prompt"]) for _, body in served.asked if "echo" in body]
        assert small["cut"] == 6 and set(echoed) == {99}
        served.room = 2048
        large = asked(recipe, tmp_path, url, "x", tasks=["mmlu"])["tiny-mmlu"]
        assert large["cut"] == 0 and sum("echo" in body for _, body in served.asked) == 2 * len(echoed)
        served.room = REPLY
        with pytest.raises(UserError, match="the model has room for 32 with its prompt"):
            asked(recipe, tmp_path, url, "x", tasks=["gsm8k"], protocol="corrected")


def test_vllm_is_asked_with_our_ids(recipe, folder, loaded, tmp_path, monkeypatch) -> None:
    """vLLM is not installed where tests run: its few names are put in place, with the tiny model behind them."""
    fake(monkeypatch, Served(*loaded))
    who = player(recipe, str(folder), backend="vllm")
    got = evaluate_general(recipe, who, tasks=["mmlu", "gsm8k"], most=6, out=tmp_path / "vllm")["tasks"]
    here = player(recipe, str(folder))
    wanted = evaluate_general(recipe, here, tasks=["mmlu", "gsm8k"], most=6, out=tmp_path / "here")["tasks"]
    assert {name: entry["rewards"] for name, entry in got.items()} == {
        name: entry["rewards"] for name, entry in wanted.items()
    }
    assert got["tiny-mmlu"]["backend"]["name"] == "vllm"


def test_without_vllm_it_says_how_to_have_it(recipe, folder, tmp_path) -> None:
    with pytest.raises(UserError, match="environment of its own"):
        evaluate_general(recipe, player(recipe, str(folder), backend="vllm"), tasks=["gsm8k"], out=tmp_path / "x")


def fake(monkeypatch, served: Served) -> None:
    class LLM:
        def __init__(self, **settings) -> None:
            self.llm_engine = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=2048))

        def generate(self, prompts, sampling_params, **_):
            asked = zip(prompts, sampling_params, strict=True)
            return [self.one(prompt["prompt_token_ids"], how) for prompt, how in asked]

        def one(self, ids, how):
            if getattr(how, "prompt_logprobs", None):
                said = served.completion({"prompt": ids, "echo": True})["logprobs"]
                pairs = zip(ids, said["token_logprobs"], said["top_logprobs"], strict=False)
                found = [None if value is None else {one: value, -1: top["best"]} for one, value, top in pairs]
                return types.SimpleNamespace(prompt_logprobs=found)
            text = served.generated(ids, {"max_tokens": how.max_tokens})
            return types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text)])

    def module(name: str, **names) -> None:
        made = types.ModuleType(name)
        made.__spec__ = types.SimpleNamespace(name=name)
        made.__path__ = []
        for key, value in names.items():
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)

    module("vllm", LLM=LLM, SamplingParams=types.SimpleNamespace, TokensPrompt=dict)
    for name in ("vllm.lora", "vllm.renderers"):
        module(name)
    module("vllm.lora.request", LoRARequest=None)
    module("vllm.renderers.hf", resolve_chat_template=lambda **_: None)
    module("vllm.tokenizers", get_tokenizer=lambda *_, **__: served.tokenizer)
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", None)
    del sys.modules["lm_eval.models.vllm_causallms"]  # imported with these names now, and not known any more afterwards
    real = __import__("importlib.metadata", fromlist=["version"]).version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.32.0" if name == "vllm" else real(name))


def test_a_judge_that_cannot_be_asked_is_said_before_anything_is_answered(
    recipe, folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = Judge("http://127.0.0.1:9/v1", "gpt-4", "NO_SUCH_KEY")
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        evaluate_general(
            recipe, player(recipe, str(folder)), tasks=["gsm8k", "mt_bench"], judge=judge, out=tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
