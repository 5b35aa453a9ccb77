"""mixture.chat_format: tokenizer, from the recipe to the data, the trained model and its evaluation."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import datetime
from types import SimpleNamespace

import numpy
import pytest

from agenttuning import chat, plan, preflight, recipe
from agenttuning.chat.template import render, shape_of
from agenttuning.data.convert import convert
from agenttuning.data.overlong import fit
from agenttuning.data.prepare import prepare, prepare_cli
from agenttuning.errors import UserError
from agenttuning.policies import Turn
from agenttuning.train import train
from agenttuning.training.saving import check_saved
from helpers.conversations import nasty_conversation
from helpers.llama_tokenizer import build_tokenizer
from helpers.template_tokenizer import OWN, write_tokenizer
from helpers.template_world import drop_template, template_of, template_world
from helpers.tiny_run import tiny_recipe

WORLDS = ["qwen3", "default_system", "gptoss", "llama3_2"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    made = {}

    def world(name):
        if name not in made:
            made[name] = template_world(tmp_path_factory.mktemp(name), name)
        return made[name]

    return world


@pytest.fixture(scope="module")
def runs(worlds, tmp_path_factory):
    """Finished runs of four steps."""
    made = {}

    def run(name):
        if name not in made:
            one = tiny_recipe(worlds(name), tmp_path_factory.mktemp("runs") / name, "max_steps=4", "save_steps=4")
            with contextlib.redirect_stdout(io.StringIO()):
                train(one)
            made[name] = one
        return made[name]

    return run


def load(name, tmp_path):
    return chat.load_tokenizer(
        write_tokenizer(tmp_path / name, "gptoss" if name == "gptoss" else "chatml", template_of(name)),
        chat_format="tokenizer",
    )


def raw_rows(one):
    for name, format in (("agents", "agentinstruct"), ("chats", "sharegpt")):
        for line in (one.root / "raw" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            yield row["id"], convert(row, format)["messages"]


@pytest.mark.parametrize("name", WORLDS)
def test_training_data_and_evaluation_agree(runs, name):
    """The rows are the template's; the saved model alone, as a server reads it, asks with prefixes of them."""
    from agenttuning.policies.transformers_policy import load as load_policy

    one = runs(name)
    saved = one.run_dir / "model"
    policy = load_policy(saved, device="cpu", max_new_tokens=4)
    assert chat.format_of(policy.tokenizer) == "tokenizer"
    rows = {row["id"]: row for row in prepare(one, chat.load_for(one), one.run_dir / "data").load()}
    asked = []

    def note(turn):
        policy([turn])
        return asked[-1]

    genuine = policy.model.forward

    def listening(*arguments, input_ids, **others):
        if input_ids.shape[1] > 1:  # the prompt; the rest comes token by token
            asked.append(input_ids[0].tolist())
        return genuine(*arguments, input_ids=input_ids, **others)

    policy.model.forward = listening
    checked = 0
    for row_id, messages in raw_rows(one):
        if row_id not in rows:
            continue
        ids, labels = rows[row_id]["input_ids"], rows[row_id]["labels"]
        for turn in (turn for turn, message in enumerate(messages) if message.get("loss") is True):
            prompt = note(Turn(messages[:turn], row_id, turn))
            assert prompt == ids[: len(prompt)]
            end = next(place for place in range(len(prompt), len(ids) + 1) if labels[place : place + 1] in ([-100], []))
            assert labels[len(prompt) - 1] == -100 and labels[end - 1] in policy.stop
            answer = chat.decode_reply(labels[len(prompt) : end], policy.tokenizer)
            assert answer.strip() == messages[turn]["content"].strip()
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", WORLDS)
def test_the_saved_model_ends_where_it_was_trained_to(runs, name):
    saved = runs(name).run_dir / "model"
    again = chat.load_tokenizer(saved)
    stop = shape_of(again).stop
    stated = json.loads((saved / "generation_config.json").read_text())["eos_token_id"]
    assert stop in (stated if isinstance(stated, list) else [stated])
    assert json.loads((saved / "tokenizer_config.json").read_text())["eos_token"] == again.convert_ids_to_tokens(stop)


def test_plain_transformers_asks_with_the_ids_of_training_on_any_day(runs, monkeypatch):
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    turns = [{"role": "user", "content": "Open the drawer."}]
    later = SimpleNamespace(now=lambda: datetime(2031, 1, 2))
    for name in WORLDS:
        saved = runs(name).run_dir / "model"
        server = AutoTokenizer.from_pretrained(saved)
        monkeypatch.setattr(chat_template_utils, "datetime", later)
        ids = server.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert ids == chat.encode_prompt(turns, chat.load_tokenizer(saved)), name
        assert "2031" not in server.decode(ids)
        server.chat_template = template_of(name)  # the template as it came follows the calendar
        prints_date = "strftime_now" in server.chat_template
        text = server.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert ("2031" in text) == prints_date
        monkeypatch.undo()


def test_a_part_of_the_date_that_is_not_fixed_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"prints %c of today's date"):
        chat.load_tokenizer(
            write_tokenizer(tmp_path, "chatml", OWN["dated"].replace("%d %B %Y", "%c")), chat_format="tokenizer"
        )


def test_data_is_the_same_on_two_days_and_built_again_for_another_template(worlds, tmp_path, monkeypatch):
    from transformers.utils import chat_template_utils

    one = tiny_recipe(worlds("default_system"), tmp_path / "run")
    first = prepare(one, chat.load_for(one), tmp_path / "first")
    assert first.mixture["settings"]["template_date"] == "2024-07-26"
    monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: datetime(2031, 1, 2)))
    second = prepare(one, chat.load_for(one), tmp_path / "second")
    assert first.key == second.key and not second.reused
    for name in sorted(path.name for path in first.path.glob("*.arrow")):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert prepare(one, chat.load_for(one), tmp_path / "first").reused
    tokenizer = chat.load_for(one)
    tokenizer.chat_template = tokenizer.chat_template.replace("Metadata", "Facts")
    changed = prepare(one, tokenizer, tmp_path / "first")
    assert changed.key != first.key and not changed.reused


def test_llama2_keeps_its_key(tmp_path):
    """What a prepared mixture is known by in format llama2, written out: a change here makes every build run again."""
    import hashlib

    tokenizer = build_tokenizer()
    text = tokenizer.backend_tokenizer.to_str() + "[1, 2]"
    assert chat.fingerprint(tokenizer) == hashlib.sha256(text.encode()).hexdigest()
    assert chat.template_record(tokenizer) == {}


def test_every_reader_of_a_recipe_uses_its_chat_format(worlds, tmp_path, capsys):
    from agenttuning.decontaminate import decontaminate
    from agenttuning.report.data_page import show_data

    one = tiny_recipe(worlds("gptoss"), tmp_path / "run")
    prepare_cli(one, {})
    page = show_data(one, {}, n=1)
    assert "«<|channel|>final<|message|>" in capsys.readouterr().out
    assert "&lt;|channel|&gt;final" in page.read_text()
    (tmp_path / "rows.jsonl").write_text('{"text": "open the first drawer"}\n')
    assert decontaminate(one, [f"own={tmp_path / 'rows.jsonl'}"])["training"]["tokens"] > 0
    with pytest.raises(UserError, match="not encode|no bos|no unk|control token|unk_token_id"):
        chat.load_for(tiny_recipe(worlds("qwen3"), tmp_path / "run", "mixture.chat_format=llama2"))


def test_a_model_without_a_template_is_refused_before_work_starts(tmp_path):
    path = template_world(tmp_path, "qwen3")
    one = tiny_recipe(path, tmp_path / "run")
    assert plan.make(one) and preflight.template_problem(one) is None
    drop_template(tmp_path / "base")
    for refuse in (plan.make, preflight.check, chat.load_for, train):
        with pytest.raises(UserError, match="no (single )?chat template"):
            refuse(one)
    assert not (tmp_path / "run" / "data").exists()
    other = tiny_recipe(path, tmp_path / "run", "mixture.chat_format=llama2")
    assert preflight.template_problem(other) is None


def test_a_template_in_the_cache_or_in_the_old_place_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    one = recipe.load(recipe.schema.REPOSITORY / "recipes/agentlm-13b", ["mixture.chat_format=tokenizer"])
    assert preflight.template_problem(one) is None  # nothing is here yet
    revision = one.values.get("model_revision") or "main"
    folder = tmp_path / "hub" / "models--meta-llama--Llama-2-13b-chat-hf" / "snapshots" / revision
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    for text, wanted in (
        ("{}", True),
        ('{"chat_template": " "}', True),
        ("[]", True),
        ('{"chat_template": "x"}', False),
    ):
        (folder / "tokenizer_config.json").write_text(text)
        assert bool(preflight.template_problem(one)) is wanted, text


def test_a_system_prompt_that_the_template_has_no_place_for_is_refused(worlds, tmp_path):
    path = template_world(tmp_path / "w", "qwen3")
    base, one = path.parents[2] / "base", tiny_recipe(path, tmp_path / "run", "mixture.system_prompt=Be brief.")
    assert chat.load_for(one)
    good = (base / "chat_template.jinja").read_text()
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + good
    )
    (base / "chat_template.jinja").write_text(refuses)
    with pytest.raises(UserError, match=r"takes no system turn .*System role not supported"):
        chat.load_for(one)
    (base / "chat_template.jinja").write_text(
        "{% set messages = messages|rejectattr('role', 'equalto', 'system')|list %}" + good
    )
    with pytest.raises(UserError, match="leaves its text out"):
        chat.load_for(one)
    assert chat.load_for(tiny_recipe(path, tmp_path / "run", "mixture.system_prompt=null"))


@pytest.mark.parametrize("name", ["llama2", "qwen3", "gptoss", "default_system"])
def test_one_bad_row_does_not_lose_its_batch(tmp_path, name):
    tokenizer = build_tokenizer() if name == "llama2" else load(name, tmp_path)
    good = [nasty_conversation(seed) for seed in range(12)]
    thought = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb", "loss": True}
    user = {"role": "user", "content": "a"}
    bad = {0: [user], 3: [], 7: [user, {"role": "assistant", "content": " "}], 11: "text"}
    if name == "qwen3":
        bad[5] = [user, thought, user, {**thought, "content": "c"}]
    batch = [bad.get(place, messages) for place, messages in enumerate(good)]
    results = chat.encode_each(batch, tokenizer)
    assert {place for place, one in enumerate(results) if isinstance(one, chat.RowError)} == set(bad)
    for place, (messages, result) in enumerate(zip(batch, results, strict=True)):
        if place not in bad:
            assert result == chat.encode(messages, tokenizer)
        else:
            with pytest.raises(chat.RowError) as caught:
                chat.encode(messages, tokenizer)
            assert str(caught.value) == str(result)
    with pytest.raises(chat.RowError):
        chat.encode_many(batch, tokenizer)


def test_a_row_that_the_template_would_cut_is_set_aside_and_counted(tmp_path):
    path = template_world(tmp_path / "w", "qwen3")
    rows = tmp_path / "w/raw/chats.jsonl"
    thought = {"from": "gpt", "value": "<think>\nwhy\n</think>\n\nb"}
    turns = [{"from": "human", "value": "a"}, thought] * 2
    rows.write_text(rows.read_text() + json.dumps({"id": "thought", "conversations": turns}) + "\n")
    one = tiny_recipe(path, tmp_path / "run", "mixture.max_quarantined=0.1")
    prepared = prepare_cli(one, {})
    aside = [json.loads(line) for line in (prepared.path / "quarantine.jsonl").read_text().splitlines()]
    assert [record["id"] for record in aside] == ["thought"] and "rewrites part" in aside[0]["reason"]
    with pytest.raises(UserError, match="1 of 21 rows are malformed"):
        prepare(tiny_recipe(path, tmp_path / "run", "mixture.max_quarantined=0"), chat.load_for(one), tmp_path / "no")
    last = tiny_recipe(path, tmp_path / "last", "loss=last")
    assert not (prepare_cli(last, {}).path / "quarantine.jsonl").read_text()


def test_a_row_that_the_template_rewrites_or_chokes_on_is_that_rows_error(tmp_path):
    text = template_of("qwen3")
    text = "{% if 'boom' in messages[0].content %}{{ raise_exception('no booms') }}{% endif %}" + text
    loop = "{%- for message in messages %}"
    rewrites = "{%- if messages|length > 4 and 'x!' in messages[0].content %}{{- 'long' }}{%- endif %}"
    text = text.replace(loop, rewrites + loop, 1)
    tokenizer = chat.load_tokenizer(write_tokenizer(tmp_path, "chatml", text), chat_format="tokenizer")
    answer = {"role": "assistant", "content": "b", "loss": True}

    def rows(word):
        return [{"role": "user", "content": word}, answer] * 3

    fine, failed, rewritten = chat.encode_each([rows("a"), rows("boom"), rows("x!")], tokenizer)
    assert isinstance(fine, chat.Encoded)
    assert "no booms" in str(failed) and "rewrites earlier turns" in str(rewritten)
    assert isinstance(failed, chat.RowError) and isinstance(rewritten, chat.RowError)


@pytest.mark.parametrize("name", ["qwen3", "gptoss", "default_system"])
def test_fragments_of_a_long_conversation_are_as_full_as_they_can_be(tmp_path, name):
    """A block that the template writes once a conversation counts once a fragment, not once an exchange."""
    tokenizer = load(name, tmp_path)
    turns = [{"role": "user", "content": "find the key"}, {"role": "assistant", "content": "open it", "loss": True}]
    for count in (2, 3, 5):
        limit = len(chat.encode(turns * count, tokenizer).input_ids)
        whole = chat.encode(turns * count * 3, tokenizer)
        pieces = fit(whole, turns * count * 3, tokenizer, limit, "split_at_turn")
        assert [len(piece.input_ids) for piece, _ in pieces] == [limit] * 3
        for piece, messages in pieces:
            chat.verify(piece, messages, tokenizer)


def test_gpt_oss_reply_is_its_final_channel(tmp_path):
    tokenizer = load("gptoss", tmp_path)
    said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Open it.<|return|>"
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert chat.decode_reply(ids, tokenizer) == "Open it."
    assert chat.decode_reply(ids[: ids.index(tokenizer.convert_tokens_to_ids("<|end|>"))], tokenizer) == "analysisHm."
    written = tokenizer(said.replace("<|", "<\u200b|"), add_special_tokens=False)["input_ids"]
    assert "analysis" in chat.decode_reply(written, tokenizer)  # words that look like it are words


def test_an_unknown_format_beside_a_tokenizer_is_refused(tmp_path):
    write_tokenizer(tmp_path, "chatml", template_of("qwen3"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_format": "alpaca"}))
    with pytest.raises(UserError, match="'alpaca'"):
        chat.load_tokenizer(tmp_path)


def test_a_model_saved_with_another_template_is_refused(runs):
    saved = runs("qwen3").run_dir / "model"
    tokenizer = chat.load_tokenizer(saved)
    check_saved(saved, tokenizer)
    tokenizer.chat_template += "{# another #}"
    with pytest.raises(UserError, match="other ids"):
        check_saved(saved, tokenizer)


def test_what_a_model_writes_cannot_stop_the_evaluation(tmp_path, monkeypatch):
    """A conversation that cannot be asked on is an error of its episode: the runner lets a UserError through."""
    from agenttuning.policies.transformers_policy import TransformersPolicy

    tokenizer = load("qwen3", tmp_path)
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=64), generation_config=SimpleNamespace())
    policy = TransformersPolicy(model, tokenizer, max_new_tokens=1)
    with pytest.raises(ValueError, match="cannot be asked on") as caught:
        policy([Turn([{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}] * 2, "a", 1)])
    assert not isinstance(caught.value, UserError)


def test_render_is_what_transformers_renders(tmp_path):
    tokenizer = load("default_system", tmp_path)
    text = render([{"role": "user", "content": "a"}], tokenizer, prompt=True)
    assert "You are a helpful assistant." in text and "26 July 2024" in text
    assert numpy.array_equal(
        tokenizer(text, add_special_tokens=False)["input_ids"],
        chat.encode_prompt([{"role": "user", "content": "a"}], tokenizer),
    )


def test_replies_stop_where_training_and_the_model_say(worlds):
    """The template's end token, and those of generation_config, where servers stop as well; in llama2 `</s>` alone."""
    from agenttuning.policies.transformers_policy import TransformersPolicy, load

    policy = load(worlds("qwen3").parents[2] / "base", device="cpu", chat_format="tokenizer", max_new_tokens=1)
    assert policy.stop == {policy.tokenizer.convert_tokens_to_ids("<|im_end|>"), 1}
    assert TransformersPolicy(policy.model, build_tokenizer(), max_new_tokens=1).stop == {2}


def test_the_fingerprint_follows_the_template(worlds, tmp_path):
    tokenizer = chat.load_for(tiny_recipe(worlds("qwen3"), tmp_path))
    before = chat.fingerprint(tokenizer)
    tokenizer.chat_template += " "
    assert chat.fingerprint(tokenizer) != before
