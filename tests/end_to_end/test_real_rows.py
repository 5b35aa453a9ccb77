"""Real AgentInstruct rows through the whole data room, where a sample of them lies beside the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning import chat
from agenttuning.chat import show
from agenttuning.data import prepare, quarantine, sources
from agenttuning.recipe.schema import Launch, Mixture, Publish, Recipe, Source
from helpers.llama_tokenizer import build_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = REPOSITORY.parent / "shared" / "data" / "agentinstruct_sample"
SPLITS = {"os": 5, "db": 5, "alfworld": 5, "kg": 5, "mind2web": 5, "webshop": 5, "db_more": 260}
# Turns of the one-shot demonstration and acknowledgement, by split: they must stay untrained.
OPENINGS = {"os": 3, "db": 1, "alfworld": 1, "kg": None, "mind2web": 0, "webshop": 1}

pytestmark = pytest.mark.skipif(not ROWS.is_dir(), reason="no agentinstruct_sample folder beside the repository")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def converted():
    aside = quarantine.Quarantine("agentinstruct")
    rows = list(quarantine.rows(sources.load_card("agentinstruct"), ROWS, aside))
    return rows, aside


def test_every_row_converts():
    rows, aside = converted()
    assert aside.read == sum(SPLITS.values())
    # db_more repeats ids of db; those are the only rows set aside.
    assert {record["reason"] for record in aside.records} <= {"the id appeared before in this source"}
    assert len(rows) + len(aside.records) == aside.read and len(aside.records) < 10
    for row in rows:
        flags = [message["loss"] for message in row["messages"] if message["role"] == "assistant"]
        assert flags[-1] is True and flags == sorted(flags), "untrained turns come first"
        opening = OPENINGS.get(row["split"])
        assert opening is None or flags.count(False) == opening, row["id"]


def test_every_mask_verifies_and_every_prompt_is_a_prefix(tokenizer):
    rows, _ = converted()
    conversations = [row["messages"] for row in rows]
    for loss in ("flags", "assistant", "last"):
        for messages, encoded in zip(
            conversations, chat.encode_many(conversations, tokenizer, loss, "Be honest."), strict=True
        ):
            chat.verify(encoded, messages, tokenizer)
            last = encoded.spans[-1]
            prompt = chat.encode_prompt(messages[:-1], tokenizer, "Be honest.")
            assert prompt == encoded.input_ids[: last.start]


@pytest.mark.parametrize("overlong", ["drop", "truncate_end", "split_at_turn"])
def test_prepare(tokenizer, tmp_path, overlong):
    mixture = Mixture(
        {"agentinstruct": Source(1.0)}, draws=300, overlong=overlong, max_quarantined=0.05, max_overlong_loss=0.5
    )
    values = {"max_length": 4096, "max_steps": 10}
    recipe = Recipe(
        "real/sft",
        REPOSITORY / "recipes" / "real" / "sft.yaml",
        values,
        mixture,
        "flags",
        Launch(4, "cpu"),
        Publish(),
        origin={},
    )
    prepared = prepare.prepare(recipe, tokenizer, tmp_path / "data", {"agentinstruct": ROWS})
    source = prepared.mixture["sources"]["agentinstruct"]
    assert source["rows_read"] == sum(SPLITS.values()) and source["draws"] == len(prepared.load()) == 300
    assert max(len(ids) for ids in prepared.load()["input_ids"]) <= 4096
    assert 0.1 < source["supervised_tokens"] / source["tokens"] < 0.6
    if overlong == "split_at_turn":
        assert source["overlong_dropped"] <= source["overlong"]


def test_terminal_escapes_of_the_os_rows_are_shown_not_sent(tokenizer):
    lines = (ROWS / "os.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("\\u001b" in line for line in lines), "the os rows hold raw escapes"
    card = sources.load_card("agentinstruct")
    for _, raw in sources.read(card, ROWS / "os.jsonl"):
        messages = quarantine.convert(json.loads(json.dumps(raw)), "agentinstruct")["messages"]
        encoded = chat.encode(messages, tokenizer)
        text = show.render(encoded.input_ids, encoded.labels, tokenizer, colour=False)
        assert not any(char < " " and char not in "\n\t" for char in text)


def test_the_page_and_the_card_of_real_rows(tokenizer, tmp_path):
    from html.parser import HTMLParser

    from agenttuning.hub import secrets
    from agenttuning.report import data_page, templating

    mixture = Mixture({"agentinstruct": Source(1.0)}, draws=300, max_quarantined=0.05, max_overlong_loss=0.5)
    values = {"max_length": 4096, "max_steps": 10, "packing": True, "model_name_or_path": "a/model"}
    path = REPOSITORY / "recipes" / "real" / "sft.yaml"
    recipe = Recipe("real/sft", path, values, mixture, "flags", Launch(4, "cpu"), Publish(), origin={})
    prepared = prepare.prepare(recipe, tokenizer, tmp_path / "data", {"agentinstruct": ROWS})
    run = data_page.gather(recipe, prepared, tokenizer, 60, 0)
    text = templating.render("data.html.jinja", run)
    assert run["shown"] == 60 and 0.9 < run["packing"]["efficiency"] <= 1
    assert not any(char in text for char in ("\x1b", "\x07", "\u202e")) and "<script" not in text
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)
    parser.feed(text)
    assert {"mark", "details"} <= tags and not tags & {"script", "img", "input"}
    assert list(secrets.in_rows(prepared.load(), tokenizer)) == [], "the sample holds no secret"
