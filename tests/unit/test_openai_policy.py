"""What the client sends, and how it reads what comes back: any bytes, and every server's way to say "too long"."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.errors import UserError
from agenttuning.policies import ContextLimit, GaveUp, Turn
from agenttuning.policies.answers import Again, Completion, overflow_of, read_completion, retry_after, said
from agenttuning.policies.openai import OpenAIPolicy, Patience
from agenttuning.protocols.messages import assistant, user
from helpers.faulty_server import FULL, FaultyServer, reply_to

TALK = [user("Count."), assistant("Ok.", loss=False), user("Count to 3.")]


def turn(number: int = 0, item: str = "a") -> Turn:
    return Turn(TALK, item, number)


def policy(url: str = "http://127.0.0.1:1/v1", **settings) -> OpenAIPolicy:
    return OpenAIPolicy(url, "tiny", **{"max_new_tokens": 16, **settings})


def ask(asked: OpenAIPolicy, *turns: Turn):
    async def all_of_them():
        async with asked:
            return [await asked.ask(one) for one in turns]

    return asyncio.run(all_of_them())


def test_what_is_sent() -> None:
    plain = policy().payload(turn())
    seed = plain.pop("seed")
    assert plain == {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": "Ok."},
            {"role": "user", "content": "Count to 3."},
        ],
        "max_tokens": 16,
        "temperature": 0.0,
        "stream": False,
    }
    assert 0 <= seed < 2**31
    more = policy(truncate_prompt_tokens=3968, temperature=0.7, system_prompt="Be brief.", seed=1).payload(turn())
    assert (more["truncate_prompt_tokens"], more["truncation_side"], more["temperature"]) == (3968, "left", 0.7)
    assert more["messages"][0] == {"role": "system", "content": "Be brief."}
    assert more["top_p"] == 1.0, "the server's default may be the model's own"


def test_the_seed_is_that_of_seed_item_and_turn() -> None:
    def seed(policy_seed: int, *place) -> int:
        return policy(seed=policy_seed).payload(turn(*place))["seed"]

    assert seed(0, 1, "a") == seed(0, 1, "a")
    assert len({seed(0, 1, "a"), seed(1, 1, "a"), seed(0, 2, "a"), seed(0, 1, "b")}) == 4


def test_a_question_and_its_answer() -> None:
    with FaultyServer() as server:
        asked = policy(server.url + "/")
        assert ask(asked, turn(), turn(1)) == [reply_to(server.asked[0]["messages"])] * 2
        assert server.asked == [asked.payload(turn()), asked.payload(turn(1))]
        assert "Authorization" not in server.headers[0]
    assert asked.counts == {"replies": 2, "prompt_tokens": 14, "tokens": 6}


def test_the_blank_of_llamas_first_token_is_no_part_of_a_reply() -> None:
    """vLLM shows it; TGI and a model in this process do not, and the KG task looks at how the first line begins."""
    with FaultyServer(lambda number, messages: "blank") as server:
        assert ask(policy(server.url), turn()) == [" Action: add 1 "]


def test_a_lone_surrogate_can_be_asked() -> None:
    with FaultyServer() as server:
        ask(policy(server.url), Turn([user("\ud800")], "a", 0))


def test_a_server_of_this_machine_is_not_asked_through_a_proxy(monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FaultyServer() as server:
        assert ask(policy(server.url), turn())
        with FaultyServer() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url[:-3])
            ask(policy("http://somewhere.invalid/v1"), turn())
            assert len(proxy.asked) == 1 and len(server.asked) == 1


def test_a_redirect_is_not_followed(monkeypatch) -> None:
    with FaultyServer(lambda number, messages: "moved") as server:
        monkeypatch.setitem(__import__("helpers.faulty_server").faulty_server.REFUSALS, "moved", MOVED)
        with pytest.raises(GaveUp, match="answered 307"):
            ask(policy(server.url), turn())
        assert len(server.asked) == 1


MOVED = (307, {}, {"Location": "http://127.0.0.1:9/v1"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://[/v1",
        "http://me:secret@host/v1",
        "http://host/v1?key=a",
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(url) -> None:
    with pytest.raises(UserError) as error:
        policy(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("code", [200, 400])
@pytest.mark.parametrize("before", range(270, 300, 10))
def test_not_even_half_a_key_is_told(monkeypatch, code, before) -> None:
    """Where a long answer that repeats the key is shortened, the cut may go through it."""
    monkeypatch.setenv("TOY_KEY", "sk-canary-0123456789")
    body = {"error": {"message": "x" * before + "sk-canary-0123456789"}}
    faulty = __import__("helpers.faulty_server").faulty_server
    monkeypatch.setitem(faulty.BODIES, "told", json.dumps(body).encode())
    monkeypatch.setitem(faulty.REFUSALS, "told so", (code, body, {}))
    with FaultyServer(lambda number, messages: "told" if code == 200 else "told so") as server:
        asked = policy(server.url, key_variable="TOY_KEY", patience=Patience(retries=0))
        with pytest.raises(GaveUp, match="xxx") as error:
            ask(asked, turn())
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize("key", [None, "", "  ", "sk\nX-Header: a", "schlüssel"])
def test_a_variable_without_a_key_is_refused(monkeypatch, key) -> None:
    monkeypatch.delenv("TOY_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TOY_KEY", key)
    with pytest.raises(UserError, match="TOY_KEY"):
        policy(key_variable="TOY_KEY")


def test_it_must_be_open_and_can_be_opened_again() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        asyncio.run(policy().ask(turn()))
    with FaultyServer() as server:
        asked = policy(server.url)
        assert ask(asked, turn()) == ask(asked, turn())


def test_attempts_wait_longer_and_longer_without_chance() -> None:
    with FaultyServer(lambda number, messages: "overloaded") as server:
        patience = Patience(retries=4, wait=0.05, longest=0.2)
        with pytest.raises(GaveUp, match="no usable answer in 5 attempts; the last: status 503: no replica"):
            ask(policy(server.url, patience=patience), turn())
    pauses = [after - before for before, after in zip(server.when, server.when[1:], strict=False)]
    for pause, wanted in zip(pauses, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert wanted <= pause < wanted + 0.15


@pytest.mark.parametrize(
    ("code", "body", "wanted"),
    [
        (400, {"error": {"message": FULL}}, ContextLimit(3969, 4096)),
        (
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 4096 tokens. However, you requested 4100 tokens "
                "(3972 in the messages, 128 in the completion). Please reduce the length.",
            },
            ContextLimit(3972, 4096),
        ),
        (
            400,
            {
                "error": {
                    "message": "'max_tokens' or 'max_completion_tokens' is too large: 128. This model's maximum "
                    "context length is 4096 tokens and your request has 4000 input tokens (128 > 4096 - 4000)."
                }
            },
            ContextLimit(4000, 4096),
        ),
        (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}, ContextLimit(0, 0)),
        (
            400,
            {
                "error": {
                    "type": "exceed_context_size_error",
                    "message": "request (9412 tokens) exceeds the available context size (8192 tokens), try "
                    "increasing it",
                }
            },
            ContextLimit(9412, 8192),
        ),
        (
            422,
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 "
                "`inputs` tokens and 128 `max_new_tokens`",
                "error_type": "validation",
            },
            ContextLimit(4000, 4096),
        ),
        (
            400,
            {
                "error": {
                    "message": "max_tokens=4096 cannot be greater than max_model_len=max_total_tokens=2048. Please "
                    "request fewer output tokens."
                }
            },
            ContextLimit(0, 2048),
        ),
        (400, {"error": {"message": "the template cannot render this"}}, None),
        (500, {"error": {"message": FULL}}, None),
    ],
)
def test_every_servers_way_to_say_that_it_is_too_long(code, body, wanted) -> None:
    assert overflow_of(code, json.dumps(body).encode()) == wanted


def test_the_wish_to_wait() -> None:
    assert retry_after("7") == 7
    assert retry_after(" 0 ") == 0
    soon = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 28 < retry_after(soon) <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for value in (None, "", "soon", "-1", "١", "9" * 400):
        assert retry_after(value) is None or value == "9" * 400


REPLY = {"choices": [{"message": {"content": "Action: add 1"}, "finish_reason": "length"}]}


def test_a_completion_is_counted() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 128}
    found = read_completion(json.dumps({**REPLY, "usage": usage}).encode())
    assert found == Completion("Action: add 1", {"replies": 1, "tokens": 128, "prompt_tokens": 9, "unfinished": 1})
    for odd in (None, 3, {"completion_tokens": -1, "prompt_tokens": "9"}, [1]):
        assert read_completion(json.dumps({**REPLY, "usage": odd}).encode()).counts == {"replies": 1, "unfinished": 1}
    replaced = json.dumps({"choices": [{"message": {"content": "\ufffd"}}]}, ensure_ascii=False).encode()
    assert read_completion(replaced).counts == {"replies": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "error", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def test_a_reply_may_fill_the_context_where_that_is_wanted() -> None:
    """The room is the limit that the error says, less the prompt that the usage of one token's reply counts."""
    faults = {0: "overflow", 3: "overflow", 4: "overflow"}
    with FaultyServer(lambda number, messages: faults.get(number)) as server:
        filling = policy(server.url, max_new_tokens=4096, fill_context=True)
        assert ask(filling, turn()) == [reply_to(server.asked[0]["messages"])]
        assert [body["max_tokens"] for body in server.asked] == [4096, 1, 4096 - 7]
        assert filling.rooms == {("a", 0): 4089} and filling.counts["replies"] == 1
        # not even one token fits
        assert ask(filling, turn(1)) == [ContextLimit(3969, 4096)]
        assert filling.counts["context_limit"] == 1 and ("a", 1) not in filling.rooms
    with FaultyServer(lambda number, messages: "overflow") as server:
        assert ask(policy(server.url), turn()) == [ContextLimit(3969, 4096)]
        assert len(server.asked) == 1


def test_the_names_that_a_server_gives_its_model_are_counted() -> None:
    body = {"choices": [{"message": {"content": "x"}}], "model": "gpt-4-0613\x1b" + "x" * 200}
    assert read_completion(json.dumps(body).encode()).model == "gpt-4-0613" + "x" * 89


@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_reply_or_worth_another_attempt(data) -> None:
    try:
        assert isinstance(read_completion(data).text, str)
    except Again as error:
        str(error).encode()
    assert len(said(data)) <= 300
    said(data).encode()
    overflow_of(400, data)


@given(content=st.text(st.characters()))
def test_any_text_is_read_as_it_is(content) -> None:
    data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
    assert read_completion(data).text == content.encode("utf-8", "replace").decode()


def test_many_are_asked_at_once_each_over_its_own_connection() -> None:
    async def all_at_once(asked: OpenAIPolicy) -> list[str]:
        async with asked:
            first = await asyncio.gather(*(asked.ask(turn(0, f"item {n}")) for n in range(40)))
            assert len(asked._clients) == 40
            await asyncio.gather(*(asked.ask(turn(1, f"item {n}")) for n in range(40)))
            assert len(asked._clients) == len(asked._free) == 40
            return first

    with FaultyServer() as server:
        server.delay = 0.3
        assert len(set(asyncio.run(all_at_once(policy(server.url))))) == 1
        assert server.most >= 35
        assert len(server._open) <= 40


def test_a_server_that_says_what_it_was_sent_does_not_bring_the_key_into_a_trajectory(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very/secret")
    with FaultyServer() as server:
        server.reply = lambda _: f"Thought: {server.headers[-1]['Authorization']}"
        assert ask(policy(server.url, key_variable="SOME_KEY"), turn()) == ["Thought: Bearer [key]"]
        assert server.headers[-1]["Authorization"] == "Bearer sk-very/secret"
