"""The chat templates of today's models: same guarantees as the Llama-2 encoding, on templates that TRL ships."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttuning import chat
from agenttuning.chat.template import added_tokens, render, shape_of
from agenttuning.errors import UserError
from helpers.conversations import chat_row, nasty_conversation
from helpers.template_tokenizer import (
    CONTROL,
    FAMILIES,
    OWN,
    REWRITES,
    WORDS,
    control_of,
    trl_names,
    trl_template,
    write_tokenizer,
)

IGNORE = -100
NAMES = [*FAMILIES, *OWN]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    made = {}

    def load(name):
        if name not in made:
            text = OWN[name] if name in OWN else trl_template(name)
            folder = write_tokenizer(tmp_path_factory.mktemp(name), FAMILIES.get(name, "chatml"), text)
            made[name] = chat.load_tokenizer(folder, chat_format="tokenizer")
        return made[name]

    return load


def nasty(seed, name):
    """A nasty conversation that also holds the family's control strings."""
    messages = nasty_conversation(seed)
    words = CONTROL[FAMILIES.get(name, "chatml")]
    for number, message in enumerate(messages):
        word = (*words, *WORDS[2:])[(seed + number) % (len(words) + 2)]
        if message["role"] == "user" or word in words:
            message["content"] = f"{message['content'].rstrip()} {word}assistant {word}"
    return messages


def clean(seed):
    """A conversation without control strings, whose answers do not begin with white space."""
    rows = chat_row(seed, 1 + seed % 4, 1 + seed % 30)["conversations"]
    roles = ("user", "assistant")
    turns = [
        {
            "role": roles[n % 2],
            "content": f"{' é日'[seed % 3] if n % 2 == 0 else ''}{row['value']} ",
            "loss": n % 4 == 1,
        }
        for n, row in enumerate(rows)
    ]
    return [{"role": "system", "content": "Be brief.", "loss": None}, *turns] if seed % 2 else turns


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_tokenizers_own_where_nothing_is_hidden(loaded, name):
    tokenizer = loaded(name)
    for seed in range(200):
        messages = clean(seed)
        own = tokenizer(render(messages, tokenizer, prompt=False), add_special_tokens=False)["input_ids"]
        assert chat.encode(messages, tokenizer).input_ids == own, seed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", chat.LOSSES)
def test_nasty_nasty_onesverify_and_prompts_are_prefixes(loaded, name, loss):
    tokenizer = loaded(name)
    special = {token["id"] for text, token in added_tokens(tokenizer).items() if text not in WORDS[:2]}
    for seed in range(60):
        messages = nasty(seed, name)
        encoded = chat.encode(messages, tokenizer, loss)
        chat.verify(encoded, messages, tokenizer)
        plain = [{**message, "content": "a"} for message in messages]
        counts = [
            [ids.count(token) for token in special]
            for ids in (encoded.input_ids, chat.encode(plain, tokenizer).input_ids)
        ]
        assert counts[0] == counts[1], seed  # no control token but the template's own
        for turn in (turn for turn, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = chat.encode_prompt(messages[:turn], tokenizer)
            assert prompt == encoded.input_ids[: len(prompt)]
        stop = shape_of(tokenizer).stop
        assert all(encoded.labels[span.end - 1] == stop for span in encoded.spans) or loss == "all"


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_answer_decodes_to_what_was_said(loaded, name):
    tokenizer = loaded(name)
    for seed in range(50):
        messages = clean(seed)
        encoded = chat.encode(messages, tokenizer, "assistant")
        for span in encoded.spans:
            reply = chat.decode_reply(encoded.labels[span.start : span.end], tokenizer)
            assert reply.strip() == messages[span.turn]["content"].strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(1, 0, "too narrow"), (0, -1, "too narrow"), (-1, 0, "starts in the header"), (0, 1, "runs past")],
)
def test_a_wrong_mask_is_seen(loaded, name, start, end, message):
    tokenizer = loaded(name)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "key", "loss": True}] * 2
    turns = [*turns, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c", "loss": False}]
    encoded = chat.encode(turns, tokenizer)
    for which in (0, 1):
        spans = list(encoded.spans)
        spans[which] = replace(spans[which], start=spans[which].start + start, end=spans[which].end + end)
        ends = {span.end - 1 for span in encoded.spans}
        inside = {place for span in spans for place in range(span.start, span.end)}
        labels = [
            (encoded.labels[i] if i in ends else token) if i in inside else IGNORE
            for i, token in enumerate(encoded.input_ids)
        ]
        with pytest.raises(chat.MaskError, match=message):
            chat.verify(replace(encoded, labels=labels, spans=spans), turns, tokenizer)


def test_gpt_oss_learns_to_stop_in_every_turn(loaded):
    tokenizer = loaded("gptoss")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": True}] * 2
    encoded = chat.encode(turns, tokenizer)
    names = [
        [tokenizer.convert_ids_to_tokens(ids[span.end - 1]) for span in encoded.spans]
        for ids in (encoded.input_ids, encoded.labels)
    ]
    assert names == [["<|end|>", "<|return|>"], ["<|return|>", "<|return|>"]]
    assert tokenizer.eos_token == "<|return|>"


def test_a_think_block_that_the_template_drops_is_refused_only_where_it_is_trained(loaded):
    tokenizer = loaded("qwen3")
    thought = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb", "loss": True}
    user = {"role": "user", "content": "a"}
    chat.verify(chat.encode([user, thought], tokenizer), [user, thought], tokenizer)
    with pytest.raises(chat.RowError, match=r"turn 1 .*rewrites part"):
        chat.encode([user, thought, user, {**thought, "content": "c"}], tokenizer)
    chat.encode([user, thought, user, {**thought, "content": "c"}], tokenizer, "last")


def test_a_template_that_rewrites_is_refused_when_it_is_loaded(tmp_path):
    with pytest.raises(UserError, match="rewrites earlier turns"):
        chat.load_tokenizer(write_tokenizer(tmp_path, "chatml", REWRITES), chat_format="tokenizer")


def test_the_original_template_and_the_format_are_saved(loaded, tmp_path):
    for name in NAMES:
        tokenizer = loaded(name)
        chat.save_tokenizer(tokenizer, tmp_path / name)
        again = chat.load_tokenizer(tmp_path / name)
        assert again.chat_template == tokenizer.chat_template and chat.format_of(again) == "tokenizer"
        assert again.pad_token != again.eos_token
        assert chat.fingerprint(again) == chat.fingerprint(tokenizer)
        messages = nasty(3, name)
        assert chat.encode(messages, again, system_prompt="S.") == chat.encode(messages, tokenizer, system_prompt="S.")
        config = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert config["chat_format"] == "tokenizer"


def test_the_date_does_not_depend_on_the_day(loaded):
    messages = [{"role": "user", "content": "a"}]
    assert "26 July 2024" in render(messages, loaded("dated"), prompt=True)
    assert "2024-07-26" in render(messages, loaded("gptoss"), prompt=True)
    assert "26 Jul 2024" in render(messages, loaded("llama3_2"), prompt=True)


def test_no_template_is_followed_wrongly(tmp_path):
    """Every text template that TRL ships is followed exactly, or refused with a reason: never a wrong mask."""
    followed, refused = [], {}
    for name in trl_names():
        text = trl_template(name)
        try:
            folder = write_tokenizer(tmp_path / name, "", text, control_of(text))
            tokenizer = chat.load_tokenizer(folder, chat_format="tokenizer")
        except UserError as error:
            refused[name] = str(error)
            continue
        nasty_ones = [nasty_conversation(seed) for seed in range(12)]
        for messages, encoded in zip(nasty_ones, chat.encode_each(nasty_ones, tokenizer, "assistant"), strict=True):
            if isinstance(encoded, chat.RowError):
                assert "System role not supported" in str(encoded), (name, encoded)
                continue
            chat.verify(encoded, messages, tokenizer)
            for turn in (turn for turn, message in enumerate(messages) if message["role"] == "assistant"):
                prompt = chat.encode_prompt(messages[:turn], tokenizer)
                assert prompt == encoded.input_ids[: len(prompt)], name
        followed.append(name)
    assert {"qwen2_5", "qwen3", "llama3", "llama3_1", "llama3_2", "gptoss", "gemma3", "phi3"} <= set(followed)
    reasons = ("rewrites earlier turns", "writes no token of its own", "joins text across", "template fails")
    assert all(any(reason in text for reason in reasons) for text in refused.values()), refused


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PART = st.one_of(TEXT, st.sampled_from([word for words in CONTROL.values() for word in words]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.lists(PART, max_size=4), st.lists(PART, max_size=4), st.booleans()), min_size=1, max_size=4)
)
def test_any_turns_verify_or_are_refused(loaded, turns):
    messages = []
    for asked, said, flag in turns:
        messages.append({"role": "user", "content": "".join(asked)})
        messages.append({"role": "assistant", "content": "".join(said), "loss": flag})
    for name in ("qwen3", "llama3", "gptoss"):
        tokenizer = loaded(name)
        try:
            encoded = chat.encode(messages, tokenizer)
        except chat.RowError:
            continue
        chat.verify(encoded, messages, tokenizer)
        prompt = chat.encode_prompt(messages[:-1], tokenizer)
        assert encoded.input_ids[: len(prompt)] == prompt
