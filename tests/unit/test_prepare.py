"""From files to the Arrow dataset: both file kinds, limits, overlong policies with exact counts, reuse, and all or
nothing.
"""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy
from dataclasses import replace

import pytest

from agenttuning import chat, recipe
from agenttuning.chat import show
from agenttuning.data import convert, pool, prepare, records
from agenttuning.data.overlong import fit
from agenttuning.data.table import mixture_table
from agenttuning.errors import UserError
from helpers.conversations import agent_row, chat_row, nasty_conversation
from helpers.llama_tokenizer import build_tokenizer
from helpers.two_sources import RECIPE


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def world(tmp_path, monkeypatch, tokenizer):
    """Two cards with local files, a saved tokenizer, and a recipe over them. Returns the folder."""
    cards = tmp_path / "data_cards"
    for name, format, rows in (
        ("agents", "agentinstruct", [agent_row(number) for number in range(10)]),
        ("chats", "sharegpt", [chat_row(number, exchanges=2) for number in range(60)]),
    ):
        write_jsonl(tmp_path / "raw" / name / "train.jsonl", rows)
        (cards / name).mkdir(parents=True)
        (cards / name / "source.yaml").write_text(f"path: raw/{name}\nformat: {format}\nmade_by: make {name}\n")
    chat.save_tokenizer(tokenizer, tmp_path / "model")
    (tmp_path / "recipes" / "tiny").mkdir(parents=True)
    (tmp_path / "accelerate_configs").mkdir()
    (tmp_path / "recipes" / "tiny" / "sft.yaml").write_text(RECIPE.format(model=tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(world, *overrides):
    return recipe.load(world / "recipes" / "tiny", list(overrides))


def build(world, tokenizer, *overrides, paths=None):
    return prepare.prepare(load(world, *overrides), tokenizer, world / "out" / "data", paths)


def test_dataset_and_record(world, tokenizer):
    prepared = build(world, tokenizer)
    table = prepared.load()
    assert len(table) == 40 and set(table.column_names) == {"input_ids", "labels", "source", "id"}
    assert table.features["input_ids"].feature.dtype == table.features["labels"].feature.dtype == "int32"
    raw = {row["id"]: row for row in (agent_row(n) for n in range(10))} | {
        f"chat_{n}": chat_row(n, 2) for n in range(60)
    }
    for row in table:
        format = {"agents": "agentinstruct", "chats": "sharegpt"}[row["source"]]
        wanted = chat.encode(convert.convert(raw[row["id"]], format)["messages"], tokenizer)
        assert (row["input_ids"], row["labels"]) == (wanted.input_ids, wanted.labels)
    record = json.loads((prepared.path / "mixture.json").read_text(encoding="utf-8"))
    assert record == prepared.mixture and record["draws"] == 40
    for name, source in record["sources"].items():
        here = [row for row in table if row["source"] == name]
        assert source["draws"] == len(here)
        assert source["tokens"] == sum(len(row["input_ids"]) for row in here)
        assert source["supervised_tokens"] == sum(label != -100 for row in here for label in row["labels"])
        assert source["rows"] == source["rows_read"] == {"agents": 10, "chats": 60}[name]
    assert (prepared.path / "quarantine.jsonl").read_text() == ""
    assert "agents" in mixture_table(record) and "25.0%" in mixture_table(record)


def test_parquet_equals_jsonl(world, tokenizer):
    import pyarrow
    from pyarrow import parquet

    for name in ("agents", "chats"):
        file = world / "raw" / name / "train.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        (world / "parquet" / name).mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), world / "parquet" / name / "train.parquet")
    jsonl = build(world, tokenizer)
    rows = jsonl.load()[:]
    paths = {"agents": world / "parquet" / "agents", "chats": world / "parquet" / "chats" / "train.parquet"}
    other = build(world, tokenizer, paths=paths)
    assert not other.reused and other.load()[:] == rows


def test_reuse_and_its_limits(world, tokenizer):
    first = build(world, tokenizer)
    stamp = (first.path / "mixture.json").stat().st_mtime_ns
    again = build(world, tokenizer)
    assert again.reused and again.key == first.key and again.mixture == first.mixture
    assert (first.path / "mixture.json").stat().st_mtime_ns == stamp
    # What the rows depend on makes a new key; what they do not depend on does not.
    keys = {first.key}
    for override in (
        "mixture.seed=4",
        "loss=assistant",
        "max_length=150",
        "mixture.draws=41",
        "mixture.overlong=truncate_end",
    ):
        keys.add(build(world, tokenizer, override).key)
    assert len(keys) == 6
    build(world, tokenizer)
    for override in ("learning_rate=1e-5", "max_steps=9", "launch.global_batch=8"):
        assert build(world, tokenizer, override).reused, override
    other = build_tokenizer(merges=150)
    assert not build(world, other).reused
    assert not build(world, tokenizer).reused
    write_jsonl(world / "raw" / "agents" / "train.jsonl", [agent_row(number) for number in range(11)])
    assert not build(world, tokenizer).reused


def test_a_damaged_folder_is_built_again(world, tokenizer):
    first = build(world, tokenizer)
    rows = first.load()[:]
    for damage in ("mixture.json", "state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        (first.path / damage).write_bytes(b"{")
        rebuilt = build(world, tokenizer)
        assert not rebuilt.reused and rebuilt.load()[:] == rows, damage
    assert build(world, tokenizer).reused


def test_all_or_nothing(world, tokenizer, monkeypatch):
    first = build(world, tokenizer)
    before = {file.name: file.read_bytes() for file in first.path.iterdir()}

    def fails(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prepare.quarantine, "write", fails)
        with pytest.raises(KeyboardInterrupt):
            build(world, tokenizer, "mixture.seed=9")
    assert {file.name: file.read_bytes() for file in first.path.iterdir()} == before
    assert sorted(path.name for path in first.path.parent.iterdir()) == [".data.pieces", "data"]
    build(world, tokenizer, "mixture.seed=9")
    assert [path.name for path in first.path.parent.iterdir()] == ["data"]


def test_a_strangers_folder_is_not_replaced(world, tokenizer):
    (world / "out" / "data").mkdir(parents=True)
    (world / "out" / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a prepared mixture"):
        build(world, tokenizer)
    assert (world / "out" / "data" / "thesis.tex").exists()


def spoil(world, count):
    """Put `count` malformed rows into the 60 chats."""
    rows = [chat_row(number, 2) for number in range(60)]
    for row in rows[:count]:
        row["conversations"][1]["from"] = "bing"
    write_jsonl(world / "raw" / "chats" / "train.jsonl", rows)


def test_quarantine_below_and_above_the_limit(world, tokenizer):
    spoil(world, 3)
    prepared = build(world, tokenizer, "mixture.max_quarantined=0.05")
    aside = [json.loads(line) for line in (prepared.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(record["source"], record["split"], record["id"]) for record in aside] == [
        ("chats", "train", f"chat_{number}") for number in range(3)
    ]
    assert "unknown role 'bing'" in aside[0]["reason"]
    assert prepared.mixture["sources"]["chats"]["quarantined"] == 3
    assert prepared.mixture["sources"]["chats"]["rows"] == 57
    spoil(world, 4)
    with pytest.raises(UserError, match=r"chats: 4 of 60 rows are malformed"):
        build(world, tokenizer, "mixture.max_quarantined=0.05")


def test_rows_that_train_nothing_are_quarantined(world, tokenizer):
    rows = [agent_row(number) for number in range(10)]
    for turn in rows[0]["conversations"]:
        turn["loss"] = None
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    prepared = build(world, tokenizer, "mixture.max_quarantined=0.1")
    assert prepared.mixture["sources"]["agents"]["quarantined"] == 1
    assert "no supervised turn" in (prepared.path / "quarantine.jsonl").read_text()
    # Under another rule the same row is fine.
    assert build(world, tokenizer, "loss=assistant").mixture["sources"]["agents"]["quarantined"] == 0


def test_a_file_that_lost_its_flags_stops_the_build(world, tokenizer):
    rows = [agent_row(number) for number in range(10)]
    for row in rows:
        for turn in row["conversations"]:
            del turn["loss"]
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    with pytest.raises(UserError, match="10 of 10 rows are malformed"):
        build(world, tokenizer, "mixture.max_quarantined=1.0")


def test_known_defects_are_counted_and_dropped_when_asked(world, tokenizer, capsys):
    rows = [agent_row(number) for number in range(10)]
    for row in rows[:3]:
        row["conversations"][2]["value"] += "\x1b[0m"
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    bad = [row["id"] for row in rows[:3]]
    kept = build(world, tokenizer)
    assert kept.mixture["sources"]["agents"]["defects"] == {"terminal_escapes": 3}
    assert kept.mixture["sources"]["agents"]["dropped"] == {} and kept.mixture["sources"]["agents"]["rows"] == 10
    assert [json.loads(line)["id"] for line in (kept.path / "defects.jsonl").open()] == bad
    assert (kept.path / "dropped.jsonl").read_text() == ""
    dropped = build(world, tokenizer, "mixture.sources.agents.defects=drop")
    source = dropped.mixture["sources"]["agents"]
    assert not dropped.reused and source["rows_read"] == 10 and source["rows"] == 7 and source["quarantined"] == 0
    assert source["dropped"] == {"defect: terminal_escapes": 3} and source["defects"] == {"terminal_escapes": 3}
    lines = [json.loads(line) for line in (dropped.path / "dropped.jsonl").open()]
    assert [(line["id"], line["reason"]) for line in lines] == [(each, "defect: terminal_escapes") for each in bad]
    assert not {row["id"] for row in dropped.load()} & set(bad)
    prepare.prepare_cli(load(world, "mixture.sources.agents.defects=drop"), {})
    assert "agents: dropped 3 rows (defect: terminal_escapes)" in capsys.readouterr().out
    for row in rows:
        row["conversations"][2]["value"] += "\x1b[0m"
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    with pytest.raises(UserError, match="all of its 10 rows are dropped"):
        build(world, tokenizer, "mixture.sources.agents.defects=drop")
    with pytest.raises(UserError, match="not one of keep, drop"):
        load(world, "mixture.sources.agents.defects=fix")


def test_another_language_is_dropped_and_counted(world, tokenizer):
    rows = [chat_row(number, exchanges=2) for number in range(60)]
    for row, text in zip(rows, ["Bitte erkläre mir, wie Ebbe und Flut vom Mond abhängen. "] * 4, strict=False):
        for turn in row["conversations"]:
            turn["value"] = text
    write_jsonl(world / "raw" / "chats" / "train.jsonl", rows)
    assert build(world, tokenizer, "max_length=900").mixture["sources"]["chats"]["dropped"] == {}
    card = world / "data_cards" / "chats" / "source.yaml"
    card.write_text(card.read_text() + "language: en\n")
    prepared = build(world, tokenizer, "max_length=900")
    source = prepared.mixture["sources"]["chats"]
    assert not prepared.reused and source["dropped"]["language: de"] == 4
    assert source["rows_read"] == 60 == source["rows"] + sum(source["dropped"].values())


def test_rows_that_the_card_does_not_keep_are_counted(world, tokenizer):
    assert "not kept" not in mixture_table(build(world, tokenizer).mixture)
    rows = [{**chat_row(number, exchanges=2), "model": "A" if number < 45 else "B"} for number in range(60)]
    write_jsonl(world / "raw" / "chats" / "train.jsonl", rows)
    card = world / "data_cards" / "chats" / "source.yaml"
    whole = card.read_text()
    card.write_text(whole + "keep: {field: model, is: A}\n")
    mixture = build(world, tokenizer).mixture
    assert mixture["sources"]["chats"]["not_kept"] == {'model is "A"': 15}
    assert mixture["sources"]["chats"]["rows_read"] == 45 and mixture["sources"]["agents"]["not_kept"] == {}
    title, agents, chats, _ = (re.split(r" {2,}", line.strip()) for line in mixture_table(mixture).splitlines())
    place = title.index("not kept")
    assert (agents[place], chats[place]) == ("0", "15")
    card.write_text(whole + "keep: {field: model, is: C}\n")
    with pytest.raises(UserError, match='no rows at all that .* takes; left out: 60 because of model is "C"'):
        build(world, tokenizer)


def test_the_unfiltered_ablation_says_what_it_lacks(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = recipe.load(recipe.schema.REPOSITORY / "recipes/ablations/unfiltered.yaml")
    if (one.root / "data/agentinstruct-unfiltered").exists():
        pytest.skip("somebody has made the unfiltered trajectories here")
    wanted = "agentinstruct-unfiltered does not exist; .* `agenttuning collect FILE .threshold 0 .*README.md says more"
    with pytest.raises(UserError, match=wanted):
        prepare.prepare(one, tokenizer, tmp_path / "data")
    assert {name: source.share for name, source in one.mixture.sources.items()} == {
        "agentinstruct-unfiltered": 0.2,
        "sharegpt-gpt4": 0.16,
        "sharegpt-gpt35": 0.64,
    }


def longer_agents(world, steps, count=10):
    """Make the first agent row long: `steps` trained turns of forty words."""
    rows = [agent_row(number) for number in range(count)]
    rows[0] = agent_row(0, steps=steps, words=40)
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    return convert.convert(rows[0], "agentinstruct")["messages"]


def test_overlong_drop(world, tokenizer):
    messages = longer_agents(world, steps=6)
    lost = sum(label != -100 for label in chat.encode(messages, tokenizer).labels)
    prepared = build(world, tokenizer, "mixture.max_overlong_loss=0.9")
    agents = prepared.mixture["sources"]["agents"]
    assert (agents["overlong"], agents["overlong_dropped"], agents["rows"]) == (1, 1, 9)
    assert agents["supervised_tokens_lost"] == lost
    assert "agent_0" not in prepared.load()["id"]
    with pytest.raises(UserError, match="1 of 10 conversations exceed max_length 200"):
        build(world, tokenizer)


def test_overlong_truncate_end(world, tokenizer):
    messages = longer_agents(world, steps=6)
    whole = chat.encode(messages, tokenizer)
    prepared = build(world, tokenizer, "mixture.max_overlong_loss=0.9", "mixture.overlong=truncate_end")
    agents = prepared.mixture["sources"]["agents"]
    assert (agents["overlong"], agents["overlong_dropped"], agents["rows"]) == (1, 0, 10)
    assert agents["supervised_tokens_lost"] == sum(label != -100 for label in whole.labels[200:]) > 0
    cut = next(row for row in prepared.load() if row["id"] == "agent_0")
    assert (cut["input_ids"], cut["labels"]) == (whole.input_ids[:200], whole.labels[:200])


def test_overlong_truncation_that_leaves_no_label_drops_the_row(tokenizer):
    messages = convert.convert(agent_row(0, words=40), "agentinstruct")["messages"]
    assert fit(chat.encode(messages, tokenizer), messages, tokenizer, 30, "truncate_end") == []


def test_overlong_split_at_turn(world, tokenizer):
    messages = longer_agents(world, steps=6)
    prepared = build(world, tokenizer, "mixture.overlong=split_at_turn", "max_length=330", "mixture.draws=400")
    agents = prepared.mixture["sources"]["agents"]
    assert (agents["overlong"], agents["overlong_dropped"], agents["supervised_tokens_lost"]) == (1, 0, 0)
    pieces = {row["id"]: row for row in prepared.load() if row["id"].startswith("agent_0#")}
    assert agents["rows"] == 9 + len(pieces) and len(pieces) > 1
    said = []
    for number in range(len(pieces)):
        row = pieces[f"agent_0#{number}"]
        text = show.render(row["input_ids"], row["labels"], tokenizer, colour=False)
        assert len(row["input_ids"]) <= 330
        # The instruction, its acknowledgement and the turn that states the task lead every fragment, trained only once.
        assert text.startswith(
            f"<s> [INST] {messages[0]['content']} [/INST] Ok. </s><s> [INST] {messages[2]['content']} [/INST]"
        )
        said += [part.split("»")[0] for part in text.split("«")[1:]]
        assert text.endswith("</s>»")
    assert said == [f" {message['content']} </s>" for message in messages if message["loss"]]


def test_split_keeps_the_system_turn_and_cuts_chats_between_exchanges(tokenizer):
    messages = convert.convert(chat_row(1, exchanges=6, words=20), "sharegpt")["messages"]
    for system, row in (
        ("Be kind.", messages),
        (None, [{"role": "system", "content": "Be kind.", "loss": False}, *messages]),
    ):
        whole = chat.encode(row, tokenizer, system_prompt=system)
        pieces = fit(whole, row, tokenizer, 200, "split_at_turn", system)
        assert len(pieces) > 1
        for piece, turns in pieces:
            assert len(piece.input_ids) <= 200 and turns[0]["content"] == "Be kind."
            chat.verify(piece, turns, tokenizer)
        spoken = [message["content"] for _, turns in pieces for message in turns[1:]]
        assert spoken == [message["content"] for message in messages]


@pytest.mark.parametrize("loss", ["flags", "assistant", "last", "all"])
@pytest.mark.parametrize("max_length", [60, 120, 200, 500])
def test_split_never_gains_or_repeats_supervision(tokenizer, loss, max_length):
    for number in range(20):
        messages = convert.convert(agent_row(number, steps=number % 7 + 1, words=10), "agentinstruct")["messages"]
        whole = chat.encode(messages, tokenizer, loss)
        pieces = fit(whole, messages, tokenizer, max_length, "split_at_turn")
        before = [whole.input_ids[span.start : span.end] for span in whole.spans]
        after = [piece.input_ids[span.start : span.end] for piece, _ in pieces for span in piece.spans]
        assert all(len(piece.input_ids) <= max_length for piece, _ in pieces)
        remaining = iter(before)
        assert all(any(span == other for other in remaining) for span in after), "in order, each once"


@pytest.mark.parametrize("system", [None, "", "You are a helpful, respectful and honest assistant."])
def test_no_fragment_is_longer_than_max_length(tokenizer, system):
    """White space at the start of a turn stays under a system block, so that the block's length is not the same for
    every fragment: what does not fit is left out and counted, and never reaches packing, which would stop the run."""
    for seed in range(120):
        messages = nasty_conversation(seed)
        whole = chat.encode(messages, tokenizer, "all", system)
        pieces = fit(whole, messages, tokenizer, 60, "split_at_turn", system)
        assert all(len(piece.input_ids) <= 60 for piece, _ in pieces), seed


def test_split_gives_up_where_the_task_itself_does_not_fit(tokenizer):
    messages = convert.convert(agent_row(0, steps=5, words=40), "agentinstruct")["messages"]
    opening = len(chat.encode(messages[:4], tokenizer).input_ids)
    whole = chat.encode(messages, tokenizer)
    assert fit(whole, messages, tokenizer, opening - 1, "split_at_turn") == []
    (only,) = fit(whole, messages, tokenizer, opening, "split_at_turn")
    assert only[1] == messages[:4]
    full = len(chat.encode(messages[:8], tokenizer).input_ids)
    assert fit(whole, messages, tokenizer, full, "split_at_turn")[0][1] == messages[:8]


def test_split_repeats_the_opening_untrained_under_any_rule(tokenizer):
    messages = convert.convert(agent_row(0, steps=5, words=40), "agentinstruct")["messages"]
    pieces = fit(chat.encode(messages, tokenizer, "assistant"), messages, tokenizer, 330, "split_at_turn")
    assert len(pieces) > 1
    for number, (_, turns) in enumerate(pieces):
        assert [turn["content"] for turn in turns[:4]] == [message["content"] for message in messages[:4]]
        assert [turn["loss"] for turn in turns if turn["role"] == "assistant"][:2] == [not number] * 2


def test_split_leaves_out_only_what_cannot_fit(tokenizer):
    rows = chat_row(1, exchanges=4, words=5)
    rows["conversations"][3]["value"] = "giant " * 300
    messages = convert.convert(rows, "sharegpt")["messages"]
    pieces = fit(chat.encode(messages, tokenizer), messages, tokenizer, 200, "split_at_turn")
    spoken = [message["content"] for _, turns in pieces for message in turns]
    assert spoken == [message["content"] for message in [*messages[:2], *messages[4:]]]


def test_draws_follow_from_the_steps(world, tokenizer):
    assert build(world, tokenizer, "mixture.draws=null").mixture["draws"] == 5 * 4
    packed = build(world, tokenizer, "mixture.draws=null", "packing=true")
    lengths = [len(ids) for ids in packed.load()["input_ids"]]
    assert sum(lengths) >= 5 * 4 * 200 > sum(lengths[:-1])
    assert not build(world, tokenizer, "mixture.draws=null", "packing=true", "max_steps=6").reused


def test_refusals(world, tokenizer):
    with pytest.raises(UserError, match="does not draw from"):
        build(world, tokenizer, paths={"chat": world})
    with pytest.raises(UserError, match="no data card named 'other'"):
        build(world, tokenizer, "mixture.sources.other.share=0.25", "mixture.sources.chats.share=0.5")
    for share in (0, 100):
        with pytest.raises(UserError, match="all of its" if share else "none of its"):
            pool.check_supervised_share("x", 100, share, "flags")
    pool.check_supervised_share("x", 100, 100, "all")
    pool.check_supervised_share("x", 100, 1, "flags")


def test_a_wrong_mask_stops_the_build(world, tokenizer, monkeypatch):
    genuine = records.encode_each

    def too_wide(*arguments):
        result = []
        for encoded in genuine(*arguments):
            span = encoded.spans[0]
            labels = list(encoded.labels)
            labels[span.start - 1] = encoded.input_ids[span.start - 1]
            result.append(
                replace(encoded, labels=labels, spans=[replace(span, start=span.start - 1), *encoded.spans[1:]])
            )
        return result

    monkeypatch.setattr(records, "encode_each", too_wide)
    with pytest.raises(chat.MaskError, match="starts in the header"):
        build(world, tokenizer)
    assert not (world / "out" / "data").exists()


def test_the_command_line_prints_the_mixture_and_the_masks(world, tokenizer, capsys):
    rows = [agent_row(number) for number in range(10)]
    for row in rows:
        row["conversations"][2]["value"] += " \x1b]0;title\x07"
    write_jsonl(world / "raw" / "agents" / "train.jsonl", rows)
    prepared = prepare.prepare_cli(load(world), {})
    assert prepared.path.resolve() == (world / "runs" / "tiny" / "sft" / "data").resolve()
    printed = capsys.readouterr()
    assert "written" in printed.out and "agents" in printed.out and "epochs" in printed.out
    show.show_cli(load(world), {}, n=4)
    printed = capsys.readouterr()
    assert (
        printed.out.count("--- agents") == printed.out.count("--- chats") == 4
        and "« " in printed.out
        and "epochs" in printed.out
    )
    assert "\x1b" not in printed.out and "\\x1b]0;title\\x07" in printed.out
    assert "\x1b" not in printed.err, "no progress bars away from a terminal"


def test_inputs_are_not_changed(tokenizer):
    messages = convert.convert(agent_row(0, steps=6, words=40), "agentinstruct")["messages"]
    before = deepcopy(messages)
    fit(chat.encode(messages, tokenizer), messages, tokenizer, 330, "split_at_turn")
    assert messages == before


def two_tasks(world):
    card = "path: raw/agents\nformat: agentinstruct\nsplits: {os: 6, db: 4}\n"
    (world / "data_cards" / "agents" / "source.yaml").write_text(card)
    (world / "raw" / "agents" / "train.jsonl").unlink()
    write_jsonl(world / "raw" / "agents" / "os.jsonl", [agent_row(number) for number in range(6)])
    write_jsonl(world / "raw" / "agents" / "db.jsonl", [agent_row(number) for number in range(6, 10)])


def test_a_task_left_out_is_counted_and_listed(world, tokenizer):
    two_tasks(world)
    prepared = build(world, tokenizer, "mixture.sources.agents.splits={os: 1.0}")
    record = prepared.mixture["sources"]["agents"]
    assert record["rows_read"] == 10 and record["rows"] == 6 and record["dropped"] == {"split db has no share": 4}
    assert set(record["draws_of_splits"]) == {"os"} and prepared.mixture["sources"]["chats"]["dropped"] == {}
    listed = [json.loads(line) for line in (prepared.path / "dropped.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed] == [agent_row(number)["id"] for number in range(6, 10)]
    assert all(one["source"] == "agents" and one["split"] == "db" for one in listed)
    assert not {row["id"] for row in prepared.load()} & {one["id"] for one in listed}


def test_filters_that_drop_everything_stop_the_build(world, tokenizer):
    two_tasks(world)
    with pytest.raises(UserError, match="agents: all of its 10 rows.*6 x split os has no share"):
        build(world, tokenizer, "mixture.sources.agents.splits={kg: 1.0}")


@pytest.mark.parametrize(
    ("splits", "message"),
    [("{os: 0.5, db: 0.4}", "sum to 0.9, not 1"), ("{os: 1.0, db: 0}", "db is 0"), ("{os: many}", "os is 'many'")],
)
def test_shares_of_splits_are_checked(world, splits, message):
    with pytest.raises(UserError, match=message):
        load(world, f"mixture.sources.agents.splits={splits}")


def unlike(rows):
    """The rows with forty words of its own in each turn."""
    rng = random.Random(0)
    for row in rows:
        for turn in row["conversations"]:
            turn["value"] += " " + " ".join(f"{rng.randrange(10**4)}" for _ in range(40))
    return rows


def test_duplicates_are_dropped_when_asked_within_and_between_sources(world, tokenizer, capsys):
    agents = unlike([agent_row(number) for number in range(10)])
    write_jsonl(world / "raw" / "agents" / "train.jsonl", agents)
    rows = unlike([chat_row(number, exchanges=2) for number in range(60)])
    rows[7] = {**rows[3], "id": "again"}
    told = agents[4]["conversations"]
    rows[9] = {"id": "borrowed", "conversations": [{"from": one["from"], "value": one["value"]} for one in told]}
    long = " ".join(f"word{number}" for number in range(80))
    for number, extra in ((11, ""), (12, " extra")):
        rows[number]["conversations"] = [{"from": "human", "value": long}, {"from": "gpt", "value": long + extra}]
    write_jsonl(world / "raw" / "chats" / "train.jsonl", rows)
    room = ("max_length=3000", "mixture.draws=400")
    kept = build(world, tokenizer, *room)
    assert kept.mixture["duplicates"] is None and kept.mixture["sources"]["chats"]["rows"] == 60
    exact = build(world, tokenizer, *room, "mixture.duplicates=exact")
    assert exact.mixture["sources"]["chats"]["dropped"] == {"exact duplicate": 2}
    assert exact.mixture["duplicates"] == [
        {"source": "chats", "of": "agents", "exact": 1, "near": 0},
        {"source": "chats", "of": "chats", "exact": 1, "near": 0},
    ]
    near = build(world, tokenizer, *room, "mixture.duplicates=near")
    assert near.mixture["sources"]["chats"]["dropped"] == {"exact duplicate": 2, "near duplicate": 1}
    assert near.mixture["duplicates"][1] == {"source": "chats", "of": "chats", "exact": 1, "near": 1}
    lines = [json.loads(line) for line in (near.path / "dropped.jsonl").open()]
    assert [(line["id"], line["reason"], line["of"]) for line in lines] == [
        ("again", "exact duplicate", ["chats", "chat_3"]),
        ("borrowed", "exact duplicate", ["agents", "agent_4"]),
        ("chat_12", "near duplicate", ["chats", "chat_11"]),
    ]
    drawn = set(near.load()["id"])
    assert drawn and not drawn & {"again", "borrowed", "chat_12"} and {"chat_11", "chat_13"} <= drawn
    prepare.prepare_cli(load(world, *room, "mixture.duplicates=near"), {})
    assert "chats: dropped 1 rows (near duplicate)" in capsys.readouterr().out
    strict = build(world, tokenizer, *room, "mixture.duplicates=near", "mixture.near_duplicate_threshold=1.0")
    assert strict.mixture["sources"]["chats"]["dropped"] == {"exact duplicate": 2}


def test_conversations_that_make_a_test_example_dirty_are_dropped_when_asked(world, tokenizer, capsys, monkeypatch):
    rng = random.Random(1)
    texts = [" ".join(f"{rng.randrange(10**5)}" for _ in range(30)) for _ in range(3)]
    rows = unlike([chat_row(number, exchanges=2) for number in range(60)])
    words = texts[0].split()
    rows[5]["conversations"][0]["value"] += " " + " ".join(words[:17])  # the first example, in two halves
    rows[8]["conversations"][1]["value"] += " " + " ".join(words[13:])
    rows[9]["conversations"][2]["value"] += " " + " ".join(texts[1].split()[:12])  # less than 80 % of the second
    write_jsonl(world / "raw" / "chats" / "train.jsonl", rows)
    write_jsonl(world / "quiz.jsonl", [{"question": text} for text in texts])
    room = ("max_length=3000", "mixture.draws=400")

    def checked(drop):
        return build(world, tokenizer, *room, f"mixture.decontaminate={{against: [quiz=quiz.jsonl], drop: {drop}}}")

    assert build(world, tokenizer, *room).mixture["contamination"] is None
    only_told = checked("nothing").mixture
    found = {"examples": 3, "clean": 1, "between": 1, "dirty": 1, "too_short": 0}
    assert only_told["contamination"] == {"quiz": found} and only_told["sources"]["chats"]["dropped"] == {}
    prepared = checked("dirty")
    assert prepared.mixture["contamination"] == {"quiz": found}
    assert prepared.mixture["sources"]["chats"]["dropped"] == {"part of a dirty example": 2}
    lines = [json.loads(line) for line in (prepared.path / "dropped.jsonl").open()]
    assert [(line["id"], line["examples"]) for line in lines] == [(f"chat_{n}", ["quiz quiz_0"]) for n in (5, 8)]
    assert not {"chat_5", "chat_8"} & set(prepared.load()["id"])
    assert checked("dirty").reused
    assert "quiz.jsonl=" not in json.dumps(prepared.mixture) and "quiz=quiz" not in json.dumps(prepared.mixture)
    assert prepared.mixture["settings"]["mixture"]["decontaminate"]["against"] == ["quiz"]
    prepare.prepare_cli(load(world, *room, "mixture.decontaminate={against: [quiz=quiz.jsonl], drop: dirty}"), {})
    said = capsys.readouterr().out
    assert "quiz: 3 test examples in the conversations as read: 1 clean, 1 between, 1 dirty, 0 too short" in said
    genuine = prepare.read_against
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "read_against", lambda words: replace(genuine(words), missing={"alfworld": "export it"}))
        write_jsonl(world / "quiz.jsonl", [{"question": text} for text in texts[:2]])
        prepare.prepare_cli(load(world, *room, "mixture.decontaminate={against: [quiz=quiz.jsonl], drop: dirty}"), {})
    assert "alfworld: NOT compared; export it" in capsys.readouterr().out
    write_jsonl(world / "quiz.jsonl", [{"question": text} for text in texts[1:]])
    changed = checked("dirty")
    assert not changed.reused and changed.mixture["sources"]["chats"]["dropped"] == {}
