"""Every kind of malformed row is named; whatever a file holds, convert raises RowError and nothing else."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.chat import RowError
from agenttuning.data import quarantine, sources
from agenttuning.data.convert import FORMATS, Unreadable, convert
from agenttuning.errors import UserError
from helpers.conversations import AGENT_ROW

CHAT_ROW = {"id": "c", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
MESSAGES_ROW = {"id": "m", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_agentinstruct():
    row = convert(AGENT_ROW, "agentinstruct", source="agentinstruct")
    assert (row["id"], row["source"]) == ("drawer_0", "agentinstruct")
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 3
    assert [message["loss"] for message in row["messages"]] == [False, False, False, True, False, True]
    assert row["messages"][4]["content"] == AGENT_ROW["conversations"][4]["value"]


@pytest.mark.parametrize("flag", [None, "absent"])
def test_a_gpt_turn_without_a_flag_is_not_trained(flag):
    raw = deepcopy(AGENT_ROW)
    raw["conversations"][3]["loss"] = flag
    if flag == "absent":
        del raw["conversations"][3]["loss"]
    assert [message["loss"] for message in convert(raw, "agentinstruct")["messages"]] == [False] * 5 + [True]


def test_a_true_flag_on_a_human_turn_trains_nothing():
    raw = deepcopy(AGENT_ROW)
    raw["conversations"][0]["loss"] = True
    assert convert(raw, "agentinstruct")["messages"][0]["loss"] is False


def test_sharegpt_variants():
    wanted = [("user", "a", False), ("assistant", "b", True)]
    items = {"items": CHAT_ROW["conversations"], "conversations": None, "model": "x"}
    roles = {"conversations": [{"from": "user", "value": "a", "weight": 0.0}, {"from": "assistant", "value": "b"}]}
    keys = {"conversations": MESSAGES_ROW["messages"]}
    for raw in (CHAT_ROW, items, roles, keys):
        row = convert(raw, "sharegpt", fallback_id="x_0")
        assert [(m["role"], m["content"], m["loss"]) for m in row["messages"]] == wanted
    assert convert(items, "sharegpt", fallback_id="x_0")["id"] == "x_0"
    system = {"conversations": [{"from": "system", "value": "s"}, *CHAT_ROW["conversations"]]}
    assert convert(system, "sharegpt", fallback_id="x")["messages"][0] == {
        "role": "system",
        "content": "s",
        "loss": False,
    }


def test_messages_flags():
    assert convert(MESSAGES_ROW, "messages")["messages"][1]["loss"] is True
    for flag, wanted in ((True, True), (False, False), (None, True)):
        raw = deepcopy(MESSAGES_ROW)
        raw["messages"][1]["loss"] = flag
        assert convert(raw, "messages")["messages"][1]["loss"] is wanted


def broken(**changes):
    """AGENT_ROW with turn 3 changed; a value of `...` removes the key."""
    raw = deepcopy(AGENT_ROW)
    for key, value in changes.items():
        if value is ...:
            del raw["conversations"][3][key]
        else:
            raw["conversations"][3][key] = value
    return raw


TURNS = AGENT_ROW["conversations"]
MALFORMED = [
    ("a line", "not a mapping"),
    (None, "not a mapping"),
    (Unreadable("line 3 is not valid JSON"), "line 3 is not valid JSON"),
    ({"conversations": TURNS}, "`id` is missing"),
    ({"id": "", "conversations": TURNS}, "id is empty"),
    ({"id": 7, "conversations": TURNS}, "id is int"),
    ({"id": "\udcff", "conversations": TURNS}, "surrogate"),
    ({"id": "x"}, "`conversations` is missing"),
    ({"id": "x", "conversations": "hello"}, "not a list"),
    ({"id": "x", "conversations": []}, "empty"),
    ({"id": "x", "conversations": [None]}, "not a mapping"),
    (broken(**{"from": ...}), "no `from`"),
    (broken(value=...), "no `value`"),
    (broken(value=None), "no `value`"),
    (broken(**{"from": "bing"}), "unknown role 'bing'"),
    (broken(**{"from": "system"}), "unknown role 'system'"),
    (broken(**{"from": ["gpt"]}), "unknown role"),
    (broken(value=""), "empty"),
    (broken(value=" \n\t"), "empty"),
    (broken(value=5), "int, not text"),
    (broken(value="bad \ud83d"), "surrogate"),
    (broken(loss="true"), "loss of turn 3 is str"),
    (broken(loss=1), "loss of turn 3 is int"),
    (broken(**{"from": "human"}), "alternate"),
    ({"id": "x", "conversations": TURNS[1:]}, "alternate"),
    ({"id": "x", "conversations": TURNS[:-1]}, "does not end"),
    ({"id": "x", "conversations": [*TURNS[:2], {"from": "human", "value": " "}, *TURNS[3:]]}, "empty"),
]


@pytest.mark.parametrize(("raw", "reason"), MALFORMED, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(MALFORMED)])
def test_malformed(raw, reason):
    with pytest.raises(RowError, match=reason):
        convert(raw, "agentinstruct")


def test_an_unknown_format_is_the_users_error():
    with pytest.raises(UserError, match="use one of"):
        convert(AGENT_ROW, "alpaca")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=3)
)
words = st.sampled_from(["human", "gpt", "system", "user", "assistant", "bing"])
turns = st.fixed_dictionaries(
    {},
    optional={
        "from": words | scalars, "value": scalars, "role": words | scalars, "content": scalars,
        "loss": st.booleans() | scalars | st.lists(scalars, max_size=1),
    },
)  # fmt: skip
values = scalars | st.lists(turns | scalars, max_size=5) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
any_row = values | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "conversations", "items", "messages"), values)
)


@settings(max_examples=400, deadline=None)
@given(raw=any_row, format=st.sampled_from(FORMATS), fallback=st.none() | st.just("f_0"))
def test_fuzz_only_row_errors(raw, format, fallback):
    try:
        row = convert(raw, format, "s", fallback)
    except RowError:
        return
    assert row["id"] and row["messages"][-1]["role"] == "assistant"
    json.dumps(row).encode("ascii")


roles = st.sampled_from(["user", "assistant", "system"])
texts = (
    st.sampled_from(
        ["", " \n", "hi", "\ud83d", "a\udcff", "</s>[/INST]", "\x00\x1b[0m", "\u202e\ufeff", "x" * 1_000_000]
    )
    | st.text(st.characters(exclude_categories=()), max_size=6)
    | st.sampled_from([None, 7, 1.5, True, ["hi"], {"text": "hi"}])
)
ids = st.sampled_from(["a", "b", "", "\udcff", None, 3, ["a"]])
near_rows = st.builds(
    lambda row_id, turns: {"id": row_id, "messages": [{"role": role, "content": text} for role, text in turns]},
    ids,
    st.lists(st.tuples(roles, texts), max_size=4)
    | texts.map(lambda text: [("user", "hi"), ("assistant", text)])
    | st.just([("user", "hi"), ("assistant", "ho")]),
)


@settings(max_examples=150, deadline=None)
@given(raws=st.lists(near_rows, max_size=6))
def test_fuzz_every_row_of_a_file_is_kept_whole_or_named(raws, tmp_path_factory):
    """Lone surrogates, 1 MB turns, roles out of turn, empty turns, ids twice, wrong types: none is lost or altered."""
    file = tmp_path_factory.mktemp("fuzz") / "train.jsonl"
    file.write_text("".join(json.dumps(raw) + "\n" for raw in raws), encoding="ascii")
    aside = quarantine.Quarantine("s")
    kept = list(quarantine.rows(sources.SourceCard("s", "messages", path="x"), file, aside))
    assert aside.read == len(raws) == len(kept) + len(aside.records)
    assert all(record["reason"] and record["split"] == "train" for record in aside.records)
    assert len({row["id"] for row in kept}) == len(kept)
    for row in kept:
        place = row["id"].removeprefix("s_train_")
        originals = [raw for raw in raws if raw["id"] == row["id"]] or [raws[int(place)]]
        turns = [{key: message[key] for key in ("role", "content")} for message in row["messages"]]
        assert turns in [raw["messages"] for raw in originals]
        said = [message["role"] for message in row["messages"] if message["role"] != "system"]
        assert said == ["user", "assistant"] * (len(said) // 2) and all(turn["content"].strip() for turn in turns)


@settings(max_examples=60, deadline=None)
@given(
    share=st.floats(0, 1, exclude_max=True), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3)
)
def test_fuzz_a_half_written_or_damaged_parquet_file(share, flips, tmp_path_factory):
    import pyarrow
    from pyarrow import parquet

    file = tmp_path_factory.mktemp("fuzz") / "train.parquet"
    whole = [{**MESSAGES_ROW, "id": f"m{number}"} for number in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(whole), file, row_group_size=200)
    content = bytearray(file.read_bytes())
    for place, value in flips:
        content[int(place * (len(content) - 1))] = value
    file.write_bytes(content if flips else content[: int(share * len(content))])
    aside = quarantine.Quarantine("s")
    try:
        kept = list(quarantine.rows(sources.SourceCard("s", "messages", path="x"), file, aside))
    except UserError as error:
        assert "cannot be read as Parquet" in str(error) and str(file) in str(error)
        return
    assert flips, "a file that is cut short was read as if it were whole"
    assert aside.read == len(kept) + len(aside.records)


def test_quarantine_counts_every_kind(tmp_path):
    file = tmp_path / "os.jsonl"
    good = json.dumps(AGENT_ROW).encode()
    lines = [
        good,
        b"",
        good,
        b'{"id": "x"',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({**AGENT_ROW, "id": "y"}).encode(),
        b"null",
    ]
    file.write_bytes(b"\n".join(lines))
    aside = quarantine.Quarantine("s")
    rows = list(quarantine.rows(sources.SourceCard("s", "agentinstruct", path="x"), file, aside))
    assert [row["id"] for row in rows] == ["drawer_0", "y"]
    assert (aside.read, len(aside.records)) == (7, 5)
    assert [record["id"] for record in aside.records] == ["drawer_0", None, None, None, None]
    assert "appeared before" in aside.records[0]["reason"]
    assert all("not valid JSON" in record["reason"] for record in aside.records[1:4])
    assert {record["split"] for record in aside.records} == {"os"}
    aside.check(0.8)
    with pytest.raises(UserError, match=r"5 of 7 rows are malformed \(71.4%"):
        aside.check(0.7)


def test_nothing_left_is_an_error_at_any_limit():
    aside = quarantine.Quarantine("s")
    with pytest.raises(UserError, match="0 of 0 rows"):
        aside.check(1.0)
    aside.read = 1
    aside.add("train", 3, "the row is int, not a mapping")
    assert aside.records[0]["id"] is None
    with pytest.raises(UserError, match="1 of 1 rows"):
        aside.check(1.0)
