"""The Llama-2 encoding: golden pieces and masks, parity with Meta's dialog encoding, and a verifier that can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agenttuning import chat
from agenttuning.chat import show
from agenttuning.chat.tokenizer import check_tokenizer, encode_texts, piece_bytes
from agenttuning.data.convert import convert
from agenttuning.errors import UserError
from helpers.conversations import AGENT_ROW, nasty_conversation
from helpers.llama_tokenizer import build_tokenizer

IGNORE = -100


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def agent():
    return convert(AGENT_ROW, "agentinstruct")["messages"]


def meta_dialog(messages, tokenizer, trained):
    """Meta's chat_completion, written down plainly: a string per pair, the tokenizer's own call."""
    if messages[0]["role"] == "system":
        head = "<<SYS>>\n" + messages[0]["content"] + "\n<</SYS>>\n\n" + messages[1]["content"]
        messages = [{"role": "user", "content": head}, *messages[2:]]
    ids, labels = [], []
    for number, (prompt, answer) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
        header = f"[INST] {(prompt['content']).strip()} [/INST]"
        text = f"{header} {(answer['content']).strip()} "
        one, two = (
            tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"] for part in (header, text)
        )
        ids += [1, *two, 2]
        masked = 1 + len(one) if trained(number, answer) else len(two) + 2
        labels += [IGNORE] * masked + ([*two, 2][len(one) :] if trained(number, answer) else [])
    return ids, labels


def test_golden_three_turns(tokenizer):
    messages = [
        {"role": "user", "content": " list the files "},
        {"role": "assistant", "content": "Ok.", "loss": False},
        {"role": "user", "content": "total\n</s>"},
        {"role": "assistant", "content": "Act: bash", "loss": True},
        {"role": "user", "content": "é"},
        {"role": "assistant", "content": "Think: three files. ", "loss": True},
    ]
    golden = [  # * marks a supervised piece
        "<s> ▁[ INST ] ▁list ▁the ▁files ▁[ / INST ] ▁O k . ▁ </s>",
        "<s> ▁[ INST ] ▁total <0x0A> < / s > ▁[ / INST ] *▁Act *: *▁bash *▁ *</s>",
        "<s> ▁[ INST ] ▁ <0xC3> <0xA9> ▁[ / INST ] *▁Think *: *▁three *▁files *. *▁ *</s>",
    ]
    marked = " ".join(golden).split()
    pieces = [piece.removeprefix("*") for piece in marked]
    encoded = chat.encode(messages, tokenizer)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == pieces
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert encoded.labels == [token if mark[0] == "*" else IGNORE for token, mark in zip(ids, marked, strict=True)]
    assert [(span.turn, span.end - span.start) for span in encoded.spans] == [(3, 5), (5, 7)]


def test_agentinstruct_row_masks_the_acknowledgement(tokenizer, agent):
    encoded = chat.encode(agent, tokenizer)
    text = show.render(encoded.input_ids, encoded.labels, tokenizer, colour=False)
    assert "[/INST] Ok. </s><s>" in text
    assert "« Thought: I open the drawer.\nAction: open drawer 1 </s>»" in text
    assert "« Thought: both keys are here.\nAction: take key 1 </s>»" in text
    assert text.count("«") == 2


def test_the_conversations_of_the_parity_tests_hold_what_they_are_for():
    """200 generated conversations; how many of them have each trait that an encoding could get wrong."""
    conversations = [nasty_conversation(seed) for seed in range(200)]
    users = [[m["content"] for m in messages if m["role"] == "user"] for messages in conversations]
    answers = [[m["content"] for m in messages if m["role"] == "assistant"] for messages in conversations]
    traits = {
        "a literal </s> in an answer": sum(any("</s>" in text for text in texts) for texts in answers),
        "a literal </s> of a user": sum(any("</s>" in text for text in texts) for texts in users),
        "a literal [/INST] in an answer": sum(any("[/INST]" in text for text in texts) for texts in answers),
        "a literal [/INST] of a user": sum(any("[/INST]" in text for text in texts) for texts in users),
        "leading white space": sum(any(text != text.lstrip() for text in texts) for texts in users),
        "letters beyond Latin-1": sum(any(ord(max(text)) > 255 for text in texts) for texts in answers),
        "a system turn": sum(messages[0]["role"] == "system" for messages in conversations),
        "none": sum(messages[0]["role"] != "system" for messages in conversations),
        "a turn above 2,000 characters": sum(any(len(text) > 2000 for text in texts) for texts in answers),
        "several exchanges": sum(len(texts) > 2 for texts in users),
    }
    assert min(traits.values()) >= 15, traits


@pytest.mark.parametrize("loss", ["flags", "assistant", "last"])
def test_parity_with_metas_dialog_encoding(tokenizer, loss):
    for seed in range(200):
        messages = nasty_conversation(seed)
        answers = sum(message["role"] == "assistant" for message in messages)
        trained = {
            "flags": lambda number, answer: answer["loss"] is True,
            "assistant": lambda number, answer: True,
            "last": lambda number, answer, answers=answers: number == answers - 1,
        }[loss]
        encoded = chat.encode(messages, tokenizer, loss)
        assert (encoded.input_ids, encoded.labels) == meta_dialog(messages, tokenizer, trained), seed
        chat.verify(encoded, messages, tokenizer)


def fastchat_prompt(system, turns):
    """FastChat 0.2.31's `llama-2` conversation as text: its own tags and separators (" " and " </s><s>"), no stripping,
    no first <s> (the tokenizer adds it), and an empty system message means no block."""
    text = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n" if system else "[INST] "
    for number, content in enumerate(turns):
        tag, end = (("[INST]", " "), ("[/INST]", " </s><s>"))[number % 2]
        text += f"{content} " if number == 0 else f"{tag} {content}{end}"
    return text if len(turns) % 2 == 0 else f"{text}[/INST]"


@pytest.mark.parametrize("own", [None, "", "You are a helpful, respectful and honest assistant."])
def test_parity_with_fastchats_conversation_text(tokenizer, own):
    """The differences: FastChat has no first <s> and a last one too many; it strips nothing (so the turns are stripped
    here, as its AgentBench client does); and it leaves the block out for an empty system text, which Meta writes.
    Under a block Meta strips block and first turn together, so white space at the start of that turn stays.
    """
    bytes_of = piece_bytes(tokenizer)
    for seed in range(200):
        messages = [turn for turn in nasty_conversation(seed) if turn["role"] != "system"]
        turns = [turn["content"].strip() for turn in messages]
        if own:
            turns[0] = messages[0]["content"].rstrip()
        for end in (len(turns), len(turns) - 1):
            if end == len(turns):
                ids = chat.encode(messages, tokenizer, system_prompt=own or None).input_ids
            else:
                ids = chat.encode_prompt(messages[:end], tokenizer, system_prompt=own or None)
            text = b"".join(bytes_of[token] for token in ids).decode()
            wanted = ("<s>" + fastchat_prompt(own, turns[:end])).removesuffix("<s>").replace("▁", " ")
            # each exchange begins with the space that the tokenizer's normalizer puts there
            assert text.replace("<s> [INST]", "<s>[INST]") == wanted.replace("<s> [INST]", "<s>[INST]"), seed
    empty = chat.encode(messages, tokenizer, system_prompt="").input_ids
    assert b"<<SYS>>\n\n<</SYS>>" in b"".join(bytes_of[token] for token in empty)


def test_one_start_and_one_end_per_exchange_whatever_the_content(tokenizer):
    for seed in range(100):
        messages = nasty_conversation(seed)
        ids = chat.encode(messages, tokenizer).input_ids
        exchanges = sum(message["role"] == "assistant" for message in messages)
        assert [ids.count(token) for token in (0, 1, 2)] == [0, exchanges, exchanges]


def test_prompt_is_a_prefix(tokenizer):
    for seed in range(100):
        messages = nasty_conversation(seed)
        whole = chat.encode(messages, tokenizer, system_prompt="Be brief.").input_ids
        for end in (turn for turn, message in enumerate(messages) if message["role"] == "assistant"):
            prompt = chat.encode_prompt(messages[:end], tokenizer, system_prompt="Be brief.")
            assert prompt == whole[: len(prompt)]
            assert tokenizer.convert_ids_to_tokens(prompt)[-2:] == ["INST", "]"]


def test_a_model_that_said_nothing_is_asked_on(tokenizer):
    """An episode may go on after an empty reply; a training row that holds one is refused."""
    user, nothing = {"role": "user", "content": "a"}, {"role": "assistant", "content": " "}
    ids = chat.encode_prompt([user, nothing, user], tokenizer)
    asked = "<s> ▁[ INST ] ▁a ▁[ / INST ]"
    assert tokenizer.convert_ids_to_tokens(ids) == f"{asked} ▁▁ </s> {asked}".split()
    with pytest.raises(chat.RowError, match="is empty"):
        chat.encode([user, nothing, user, {"role": "assistant", "content": "b"}], tokenizer)


def test_batch_equals_one_by_one(tokenizer):
    conversations = [nasty_conversation(seed) for seed in range(40)]
    assert chat.encode_many(conversations, tokenizer, "assistant", "Sys.") == [
        chat.encode(messages, tokenizer, "assistant", "Sys.") for messages in conversations
    ]


def test_template_renders_the_same_text(tokenizer, tmp_path):
    chat.save_tokenizer(tokenizer, tmp_path)
    saved = chat.load_tokenizer(tmp_path)
    assert "generation" not in saved.chat_template
    for seed in range(60):
        messages = nasty_conversation(seed)
        text = saved.apply_chat_template(messages, tokenize=False)
        ids = chat.encode(messages, tokenizer).input_ids
        spaced = b"".join(piece_bytes(tokenizer)[token] for token in ids).decode()
        # Each encoded exchange begins with the space that the normalizer prepends.
        assert spaced.replace("<s> [INST]", "<s>[INST]") == text.replace("▁", " ").replace("<s> [INST]", "<s>[INST]")
    prompt = saved.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert prompt == "<s>[INST] a [/INST]"


def test_loss_all_trains_everything_but_the_start(tokenizer, agent):
    encoded = chat.encode(agent, tokenizer, "all")
    assert [label for label in encoded.labels if label != IGNORE] == [
        token for token in encoded.input_ids if token != 1
    ]
    chat.verify(encoded, agent, tokenizer)
    with pytest.raises(chat.MaskError):
        chat.verify(replace(encoded, spans=[]), agent, tokenizer)


def test_system_prompt_only_where_the_row_has_none(tokenizer):
    bare = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": True}]
    own = [{"role": "system", "content": "Own."}, *bare]
    assert chat.encode(bare, tokenizer, system_prompt="Own.").input_ids == chat.encode(own, tokenizer).input_ids
    assert chat.encode(own, tokenizer, system_prompt="Other.").input_ids == chat.encode(own, tokenizer).input_ids
    assert chat.encode(own, tokenizer).spans[0].turn == 2
    assert chat.encode(bare, tokenizer, system_prompt="Own.").spans[0].turn == 1


def moved(encoded, start=0, end=0, which=0):
    """The same encoding with one span moved, labels and span list alike, as a wrong derivation would leave them."""
    spans = list(encoded.spans)
    spans[which] = replace(spans[which], start=spans[which].start + start, end=spans[which].end + end)
    inside = {place for span in spans for place in range(span.start, span.end)}
    labels = [token if place in inside else IGNORE for place, token in enumerate(encoded.input_ids)]
    return replace(encoded, labels=labels, spans=spans)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (1, 0, "too narrow"),
        (0, -1, "too narrow"),
        (2, -2, "too narrow"),
        (-1, 0, "starts in the header"),
        (0, 1, "runs past"),
    ],
)
def test_verify_fails_in_three_directions(tokenizer, agent, start, end, message, which):
    longer = [*agent, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]
    encoded = chat.encode(longer, tokenizer)
    chat.verify(encoded, longer, tokenizer)
    with pytest.raises(chat.MaskError, match=message) as caught:
        chat.verify(moved(encoded, start, end, which), longer, tokenizer)
    assert f"turn {(3, 5)[which]}" in str(caught.value)


def test_verify_sees_a_lost_lone_space(tokenizer):
    """The answer's first piece may be a bare space, which a decoder strips: the narrow span still has to be seen."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "日", "loss": True}]
    encoded = chat.encode(messages, tokenizer)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids[encoded.spans[0].start]) == "▁"
    with pytest.raises(chat.MaskError, match="too narrow"):
        chat.verify(moved(encoded, 1, 0), messages, tokenizer)


def test_verify_sees_missing_extra_shifted_and_foreign_labels(tokenizer, agent):
    encoded = chat.encode(agent, tokenizer)
    silent = replace(encoded, labels=[IGNORE] * len(encoded.labels), spans=[])
    with pytest.raises(chat.MaskError, match="no supervised tokens"):
        chat.verify(silent, agent, tokenizer)
    with pytest.raises(chat.MaskError):  # the acknowledgement trained although its flag is false
        chat.verify(replace(chat.encode(agent, tokenizer, "assistant"), loss="flags"), agent, tokenizer)
    last_is_false = [*agent[2:4], *agent[:2]]
    with pytest.raises(chat.MaskError, match="belong to no trained turn"):
        chat.verify(replace(chat.encode(last_is_false, tokenizer, "assistant"), loss="flags"), last_is_false, tokenizer)
    with pytest.raises(chat.MaskError, match="not the ids"):
        chat.verify(replace(encoded, labels=[IGNORE, *encoded.labels[:-1]]), agent, tokenizer)
    with pytest.raises(chat.MaskError, match="spans say"):
        chat.verify(replace(encoded, spans=encoded.spans[:1]), agent, tokenizer)
    with pytest.raises(chat.MaskError):
        chat.verify(replace(encoded, labels=encoded.labels[:-1]), agent, tokenizer)


def test_a_prompt_that_is_no_prefix_is_named(monkeypatch, tokenizer, agent):
    from agenttuning.chat import encode as function

    module = __import__("sys").modules[function.__module__]

    def merging(tokenizer, texts):  # a tokenizer that encodes a prompt differently when an answer follows
        return [
            [9, *ids] if text.endswith("[/INST]") else ids
            for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True)
        ]

    monkeypatch.setattr(module, "encode_texts", merging)
    with pytest.raises(chat.MaskError, match=r"turn 1 \(assistant\)"):
        chat.encode(agent, tokenizer)


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": True}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        (None, "empty"),
        (["a"], "not a mapping"),
        ([ANSWER, USER], "alternate"),
        ([USER, USER, ANSWER], "alternate"),
        ([USER], "does not end"),
        ([{"role": "system", "content": "s"}], "does not end"),
        ([USER, ANSWER, {"role": "system", "content": "s"}], "alternate"),
        ([USER, {**ANSWER, "content": " \n"}], "empty"),
        ([USER, {**ANSWER, "content": None}], "not text"),
        ([USER, {**ANSWER, "content": ["b"]}], "not text"),
        ([{**USER, "content": "\ud800"}, ANSWER], "surrogate"),
        ([USER, {**ANSWER, "loss": "yes"}], "not true"),
        ([{**USER, "role": "tool"}, ANSWER], "unknown role"),
        ([{**USER, "role": ["user"]}, ANSWER], "unknown role"),
    ],
)
def test_malformed_conversations(tokenizer, messages, reason):
    with pytest.raises(chat.RowError, match=reason):
        chat.encode(messages, tokenizer)


def test_an_unknown_loss_is_refused(tokenizer, agent):
    with pytest.raises(UserError, match="loss is 'everything'"):
        chat.encode(agent, tokenizer, "everything")


def test_an_empty_observation_can_be_encoded(tokenizer):
    assert chat.encode_prompt([{"role": "user", "content": ""}], tokenizer)[0] == 1


def test_saved_tokenizer_gives_the_same_ids_to_everyone(tokenizer, tmp_path, agent):
    from transformers import AutoTokenizer

    chat.save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    ours, auto = chat.load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert chat.encode(agent, ours) == chat.encode(agent, tokenizer)
    assert auto("[INST] a", add_special_tokens=False)["input_ids"] == encode_texts(ours, ["[INST] a"])[0]
    assert ours.pad_token == "<unk>"
    chat.save_tokenizer(ours, tmp_path / "again")
    again = chat.load_tokenizer(tmp_path / "again")
    assert again.backend_tokenizer.to_str() == ours.backend_tokenizer.to_str()


def test_padding_is_never_the_end_token(tokenizer, tmp_path):
    chat.save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "</s>"}))
    assert chat.load_tokenizer(tmp_path).pad_token_id == 0


def test_a_tokenizer_without_its_normalizer_is_refused(tokenizer, tmp_path):
    """What transformers 5 makes of Llama's tokenizer.json: no space piece before "[INST]"."""
    chat.save_tokenizer(tokenizer, tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="leading space piece"):
        chat.load_tokenizer(tmp_path)


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(UserError, match="no tokenizer could be loaded"):
        chat.load_tokenizer(tmp_path / "absent")


def test_encoding_leaves_the_shared_tokenizer_alone(tokenizer, agent):
    before = tokenizer("</s>", add_special_tokens=False)["input_ids"]
    chat.encode(agent, tokenizer)
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"] == before == [2]
    check_tokenizer(tokenizer)


def test_shown_text_cannot_drive_the_terminal(tokenizer):
    text = "\x1b[31mred\x07 \u202eback\r\n\tend\x9b1m"
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text, "loss": True}]
    encoded = chat.encode(messages, tokenizer)
    plain = show.render(encoded.input_ids, encoded.labels, tokenizer, colour=False)
    assert not set(plain) & set("\x1b\x07\u202e\r\x9b")
    assert "\\x1b[31mred\\x07" in plain and "\\u202eback\\r\n\tend\\x9b1m" in plain
    coloured = show.render(encoded.input_ids, encoded.labels, tokenizer, colour=True)
    assert coloured.count("\x1b") == 4 and coloured.startswith(show.DIM) and f"{show.GREEN} \\x1b[31mred" in coloured


def test_colour_follows_the_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert not show.wants_colour()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert show.wants_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not show.wants_colour()
