"""The loopback server: the same episodes as in this process, and it refuses what it would not honour."""

from __future__ import annotations

import socket
from dataclasses import replace

import httpx
import pytest

from agenttuning import protocols
from agenttuning.environments import TASKS, room
from agenttuning.episodes import episode, status
from agenttuning.episodes.runner import play
from agenttuning.policies import ContextLimit
from agenttuning.policies.openai import OpenAIPolicy, Patience
from agenttuning.policies.serve import serve
from agenttuning.protocols import Limits
from agenttuning.protocols.messages import Format, Reading, own
from helpers import toy_task

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


class Echo:
    max_new_tokens, temperature, truncate_prompt_tokens = 16, 0.0, None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, turns):
        self.batches.append(len(turns))
        texts = [turn.messages[-1]["content"] for turn in turns]
        if "poison" in texts:
            raise ValueError("cannot be encoded")
        return [ContextLimit(99, 90) if text == "long" else f"said {text}" for text in texts]


def post(url: str, body, **more) -> httpx.Response:
    return httpx.post(f"{url}/chat/completions", json=body, trust_env=False, **more)


def test_answers_and_refusals() -> None:
    with serve(Echo(), "tiny") as url:
        assert httpx.get(f"{url}/models", trust_env=False).json()["data"][0]["id"] == "tiny"
        reply = post(url, {**BODY, "max_tokens": 16, "temperature": 0, "seed": 3})
        assert reply.json()["choices"][0]["message"]["content"] == "said x"
        assert httpx.get(f"{url}/other", trust_env=False).status_code == 404
        assert post(url, {**BODY, "model": "other"}).status_code == 404
        for body in ({}, [], {**BODY, "messages": 3}, {**BODY, "messages": [{}]}):
            assert post(url, body).status_code in (400, 404)
        for name, value in (("max_tokens", 17), ("temperature", 0.7), ("truncate_prompt_tokens", 9)):
            refused = post(url, {**BODY, name: value})
            assert refused.status_code == 400 and "would not honour" in refused.text
        broken = post(url, {**BODY, "messages": [{"role": "user", "content": "poison"}]})
        assert broken.status_code == 500 and "cannot be encoded" in broken.text
        for length in ("99999999999", "-1", "²", "x"):
            with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as raw:
                raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin1"))
                assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    with pytest.raises(httpx.ConnectError):
        post(url, BODY)


def test_a_poisonous_question_and_a_long_one_do_not_hurt_the_others() -> None:
    class Task(toy_task.Environment):
        def reset(self) -> str:
            super().reset()
            return self.item["text"]

    items = [{"id": f"i{n}", "target": 9, "text": text} for n, text in enumerate(["a", "poison", "b", "long", "c"])]
    with serve(Echo(), "tiny") as url:
        policy = OpenAIPolicy(url, "tiny", max_new_tokens=16, patience=Patience(retries=1, wait=0.01))
        records = play(
            room(type("M", (), {"NAME": "toy", "Environment": Task})), items, policy, toy_task.PROTOCOL, own(toy_task),
            model="m", seed=0, progress=False, retries=0,
        )  # fmt: skip
    wanted = [status.INVALID_FORMAT, status.AGENT_ERROR, status.INVALID_FORMAT, status.CONTEXT_LIMIT]
    assert [record["status"] for record in records] == [*wanted, status.INVALID_FORMAT]
    assert records[4]["messages"][-1]["content"] == "said c"


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    pytest.importorskip("torch")
    from agenttuning.policies.transformers_policy import load
    from helpers.tiny_llama import save_tiny_llama

    policy = load(save_tiny_llama(tmp_path_factory.mktemp("tiny")), device="cpu", max_new_tokens=12)
    for weight in policy.model.parameters():
        if weight.dim() > 1:
            weight.data *= 12  # the usual 0.02 makes a random model say the same to everybody
    return policy


@pytest.mark.parametrize("truncate", [None, 20])
def test_a_real_model_served_gives_the_episodes_of_one_in_this_process(in_process, truncate, monkeypatch) -> None:
    """Every reply counts as an action, so that a random model plays many turns: worlds refuse it and say so."""
    anything = Format(
        lambda reply, chars, admissible: Reading("", reply[:chars] or "nothing"), lambda t, action: action
    )
    monkeypatch.setattr(episode, "format_of", lambda name: anything)
    protocol = replace(protocols.load(), limits=Limits(repetition=None, invalid_in_a_row=None, action_chars=500))
    in_process.truncate_prompt_tokens = truncate
    records = {}
    with serve(in_process, "tiny", width=8) as url:
        served = OpenAIPolicy(url, "tiny", max_new_tokens=12, truncate_prompt_tokens=truncate)
        for policy in (in_process, served):
            for task in (TASKS["household"], TASKS["shop"]):
                found = play(
                    room(task), task.items("test", 8, 0), policy, protocol, own(task),
                    model="m", seed=0, progress=False,
                )  # fmt: skip
                records.setdefault(policy, []).extend(found)
    assert records[served] == records[in_process]
    assert {record["status"] for record in records[served]} == {status.TASK_LIMIT}
    assert served.counts["replies"] == sum(record["turns"] for record in records[served]) == 8 * (14 + 8)
    replies = {message["content"] for record in records[served] for message in record["messages"] if message["loss"]}
    assert len(replies) >= 10
