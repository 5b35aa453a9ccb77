"""Mind2Web's own files: tasks of the data set's form, and the pickle of ranks, which is read without being run."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy
import pytest

from agenttuning import protocols
from agenttuning.environments import mind2web
from agenttuning.environments.mind2web import scores
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.protocols import mind2web as texts
from agenttuning.protocols.messages import own

RANKS = {"ranks": {"t_a": {"5": 0, "7": 49, "9": 50}}, "scores": {"t_a": {"5": 0.5, "7": 0.1, "9": -1.0}}}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def converted(tmp_path: Path, raw: bytes) -> list[dict]:
    source, target = tmp_path / "scores.pkl", tmp_path / "ranks.jsonl"
    source.write_bytes(raw)
    scores.convert(source, target, digest(source))
    return [json.loads(line) for line in target.read_text().splitlines()]


# --------------------------------------------------------------------------------------------------- the pickle


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_table_of_ranks_is_read_and_its_top_fifty_kept(tmp_path: Path, protocol: int):
    assert converted(tmp_path, pickle.dumps(RANKS, protocol)) == [{"step": "t_a", "ranks": {"5": 0, "7": 49}}]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numpy_scalars_and_default_dictionaries_are_read_without_numpy(tmp_path: Path, protocol: int):
    table = collections.defaultdict(dict)
    table["ranks"] = {"s": collections.OrderedDict(a=numpy.int64(3), b=numpy.float32(4.0), c=numpy.int32(-1))}
    table["scores"] = {"s": collections.defaultdict(float, a=numpy.float64(0.25))}
    raw = pickle.dumps(table, protocol)
    assert b"numpy" in raw
    assert converted(tmp_path, raw) == [{"step": "s", "ranks": {"a": 3, "b": 4, "c": -1}}]


class Malicious:
    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("call", [os.system, eval, exec, os.open, __import__, getattr, numpy.load])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, protocol: int, call):
    canary = tmp_path / "canary"
    argument = f"touch {canary}" if call is os.system else f"open({str(canary)!r}, 'w')"
    raw = pickle.dumps({**RANKS, "more": Malicious(call, argument)}, protocol)
    with pytest.raises(UserError, match=r"(it names|instruction) .*nothing of it was run"):
        converted(tmp_path, raw)
    assert not canary.exists()
    assert not (tmp_path / "ranks.jsonl").exists()
    if call is os.system and protocol == 4:  # that the canary would sing
        pickle.loads(raw)  # noqa: S301
        assert canary.exists()


BOMBS = {
    "a place in the memo that would cost gigabytes": b"\x80\x02}r\xff\xff\xff\xffj\xff\xff\xff\xff.",
    "a text of four gigabytes": b"\x80\x04X\xff\xff\xff\xffabc.",
    "bytes of many more": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a byte array": b"\x80\x05\x96\x00\x00\x00\x10\x00\x00\x00\x00.",
    "tuples without end as a key": b"\x80\x02}" + b")" + b"\x85" * 400_000 + b"Ns.",
    "tuples without end as keys": b"\x80\x02}(" + b")" + b"\x85" * 400_000 + b"Nu.",
    "tuples as a dtype": b"cnumpy.core.multiarray\nscalar\n)" + b"\x85" * 400_000 + b"N\x86R.",
    "tuples as a name": b"\x80\x04)" + b"\x85" * 100_000 + b")\x93.",
    "tuples as arguments": b"cnumpy\ndtype\n)" + b"\x85" * 100_000 + b"R.",
    "a persistent object": b"Pabc\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"(iposix\nsystem\n.",
    "a number of a megabyte": b"\x80\x02\x8b\x00\x00\x10\x00.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a state for a dictionary": b"\x80\x02}}b.",
    "nothing": b"",
    "its middle missing": pickle.dumps(RANKS)[:40],
    "an end without a beginning": b"\x80\x02t.",
    "an empty stack": b"u.",
    "not a dictionary": pickle.dumps(3),
    "no ranks": pickle.dumps({"scores": {}}),
    "a text for a rank": pickle.dumps({"ranks": {"s": {"a": "0"}}}),
    "a rank that is none": pickle.dumps({"ranks": {"s": {"a": float("nan")}}}),
    "an endless rank": pickle.dumps({"ranks": {"s": {"a": float("inf")}}}),
    "ranks that are no dictionary": pickle.dumps({"ranks": {"s": 3}}),
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS.keys())
def test_other_files_are_refused(tmp_path: Path, raw: bytes):
    if raw == BOMBS["a place in the memo that would cost gigabytes"]:
        assert scores.read_pickle(io.BytesIO(raw)) == {}  # harmless here: the memo is a dictionary
    with pytest.raises(UserError, match="was refused"):
        converted(tmp_path, raw)


def test_a_file_with_another_digest_is_not_even_read(tmp_path: Path):
    source = tmp_path / "scores.pkl"
    source.write_bytes(pickle.dumps(RANKS))
    with pytest.raises(UserError, match=f"sha256 {digest(source)}, not {scores.SHA256}"):
        scores.convert(source, tmp_path / "ranks.jsonl")
    with pytest.raises(UserError, match="is not a file"):
        scores.convert(tmp_path / "absent.pkl", tmp_path / "ranks.jsonl")
    with source.open("r+b") as file:
        file.truncate(scores.MAX_BYTES + 1)
    with pytest.raises(UserError, match="more than"):
        scores.convert(source, tmp_path / "ranks.jsonl")


def test_the_command_says_what_it_did_or_why_not(tmp_path: Path, capsys, monkeypatch):
    source, target = tmp_path / "scores.pkl", tmp_path / "ranks.jsonl"
    source.write_bytes(pickle.dumps(RANKS))
    assert scores.main([str(source)]) == 2
    assert scores.main([str(source), str(target)]) == 2
    assert "tampered with" in capsys.readouterr().err
    monkeypatch.setattr(scores.convert, "__defaults__", (digest(source),))
    assert scores.main([str(source), str(target)]) == 0
    assert "the ranks of 1 steps" in capsys.readouterr().out
    assert target.exists() and not target.with_name("ranks.jsonl.part").exists()


def test_the_reader_agrees_with_pickle():
    data = {
        "a": {"b": 1, "c": -70_000, "d": 300, "e": 0.1, "f": None, "g": True, "h": (1, (2, 3, 4, 5), ()), "é": b"x"}
    }
    for protocol in (3, 4, 5):
        assert scores.read_pickle(io.BytesIO(pickle.dumps(data, protocol))) == data
    assert scores.read_pickle(io.BytesIO(b"M" + struct.pack("<H", 65_535) + b".")) == 65_535


# ---------------------------------------------------------------------------------------------------- the pages


def written(folder: Path, per_file: int = 2, tasks: int = 5) -> Path:
    """A folder of the data set's form, made of practice steps: five tasks of two steps each."""
    steps = mind2web.items("train", 2 * tasks, 7)
    content, ranks = [], []
    for number in range(tasks):
        pair = steps[2 * number : 2 * number + 2]
        actions = []
        for step in pair:
            of_step = dict(step["positive"] + step["negative"])
            ranks.append({"step": f"task{number}_{step['id']}", "ranks": of_step})
            actions.append(
                {
                    "action_uid": step["id"],
                    "raw_html": "<html>" * 100,
                    "cleaned_html": step["html"],
                    "operation": {"original_op": "X", **step["operation"]},
                    "pos_candidates": [{"backend_node_id": identity, "tag": "a"} for identity, _ in step["positive"]],
                    "neg_candidates": [{"backend_node_id": identity} for identity, _ in step["negative"]],
                }
            )
        shared = {"annotation_id": f"task{number}", "website": "site", "confirmed_task": pair[0]["task"]}
        content.append({**shared, "action_reprs": ["[a]  one -> CLICK", "[a]  two -> CLICK"], "actions": actions})
    folder.mkdir(exist_ok=True)
    for start in range(0, tasks, per_file):
        (folder / f"test_domain_{start}.json").write_text(json.dumps(content[start : start + per_file]))
    (folder / "ranks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ranks))
    return folder


def test_the_files_of_the_data_set_are_played_by_the_same_code(tmp_path: Path):
    items = mind2web.load(written(tmp_path / "data"))
    assert len(items) == 10 and len({item["id"] for item in items}) == 10
    assert all(item["id"].rpartition("_")[0] == "mind2web_data" for item in items)
    protocol = protocols.load(protocols.FOLDER / "practice.yaml")
    with mind2web.serve("embedded") as room:
        records = play(room, items, expert, protocol, own(texts), model="expert", seed=0, progress=False)
    assert {(record["status"], record["reward"]) for record in records} == {("completed", 1.0)}


def test_the_backend_of_the_benchmark_plays_the_steps_of_its_own_list_only(tmp_path: Path):
    folder = written(tmp_path / "data")
    with (
        pytest.raises(UserError, match="5 tasks, AgentBench's list has 177"),
        mind2web.serve("agentbench", str(folder)),
    ):
        pass
    more = [{"annotation_id": f"other{number}"} for number in range(172)]
    (folder / "more.json").write_text(json.dumps(more))
    assert mind2web.missing("agentbench", str(folder)) == []
    with mind2web.serve("agentbench", str(folder)) as room:
        assert room.backend.comparable
        assert room.make({"id": "a", "annotation_id": "task3"})
        with pytest.raises(ValueError, match="is not of the list"):
            room.make({"id": "mind2web_test_0"})
    (folder / "more.json").write_text("[3]")
    with pytest.raises(UserError, match="has no id"), mind2web.serve("agentbench", str(folder)):
        pass


def test_steps_know_what_came_before_and_the_top_ten_only(tmp_path: Path):
    items = mind2web.load(written(tmp_path / "data"))
    assert [item["previous_actions"] for item in items] == [[], ["[a]  one -> CLICK"]] * 5
    assert all(len(item["positive"] + item["negative"]) == 10 for item in items)
    assert json.loads(json.dumps(items)) == items


def test_the_order_does_not_depend_on_the_files(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, another = written(tmp_path / "one" / "s", per_file=1), written(tmp_path / "two" / "s", per_file=5)
    assert mind2web.load(one) == mind2web.load(another)
    tasks = [item["annotation_id"] for item in mind2web.load(one)][::2]
    assert sorted(tasks) == [f"task{n}" for n in range(5)] != tasks


def test_a_right_element_beyond_the_top_ten_loses_the_step_without_a_question(tmp_path: Path):
    folder = written(tmp_path / "data")
    lines = [json.loads(line) for line in (folder / "ranks.jsonl").read_text().splitlines()]
    first = mind2web.load(folder)[0]
    for line in lines:
        if first["id"] == f"mind2web_data_{line['step'].replace('_', '-')}":
            del line["ranks"][first["positive"][0][0]]
    (folder / "ranks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    environment = mind2web.Environment(mind2web.load(folder)[0])
    environment.reset()
    assert environment.over and environment.metrics()["in_top_10"] == 0.0


def broken(content: list) -> dict:
    return {
        "no list": {},
        "no task": [3],
        "no actions": [{key: value for key, value in content[0].items() if key != "actions"}],
        "an action without a page": [{**content[0], "actions": [{"action_uid": "train_0"}]}],
        "twice the same task": [content[0], content[0]],
        "a step without ranks": [{**content[0], "annotation_id": "other"}],
    }


@pytest.mark.parametrize("name", list(broken([{}])))
def test_files_of_another_form_are_refused_by_name(tmp_path: Path, name: str):
    folder = written(tmp_path / "data", per_file=5)
    file = folder / "test_domain_0.json"
    file.write_text(json.dumps(broken(json.loads(file.read_text()))[name]))
    with pytest.raises(UserError, match=r"test_domain_0\.json"):
        mind2web.load(folder)


def test_missing_files_are_named_with_what_supplies_them(tmp_path: Path):
    with pytest.raises(UserError, match="osunlp/Mind2Web"):
        mind2web.load(tmp_path / "absent")
    folder = written(tmp_path / "data")
    (folder / "ranks.jsonl").write_text('{"step": "x"}\n')
    with pytest.raises(UserError, match="line 1"):
        mind2web.load(folder)
    (folder / "ranks.jsonl").unlink()
    with pytest.raises(UserError, match=r"mind2web\.scores"):
        mind2web.load(folder)
    (folder / "test_domain_0.json").write_text("[{")
    (folder / "ranks.jsonl").touch()
    with pytest.raises(UserError, match="is not JSON"):
        mind2web.load(folder)
