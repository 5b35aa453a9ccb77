"""A collection is AgentInstruct-shaped, holds only what the filter keeps, and is the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agenttuning.collect import STATS, collect, conversation
from agenttuning.collect import card as cards
from agenttuning.collect.rows import kept
from agenttuning.data import sources
from agenttuning.data.convert import convert
from agenttuning.errors import UserError
from agenttuning.protocols import react
from agenttuning.protocols.messages import assistant, own
from helpers.faulty_server import FaultyServer

PLAN = {
    "teacher": {"slip": 0.2, "give_up": 0.05, "seed": 0},
    "tasks": {"household": {"items": 30, "threshold": 1.0}, "shop": {"items": 30, "threshold": 0.6}},
    "out": "unused",
}


def run(tmp_path, plan=PLAN, out="out"):
    path = tmp_path / "collect.yaml"
    path.write_text(yaml.safe_dump(plan))
    return collect(path, tmp_path / out, progress=False)


def rows(folder, task):
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_are_agentinstruct_rows(tmp_path) -> None:
    folder = run(tmp_path)
    for task in PLAN["tasks"]:
        found = rows(folder, task)
        assert 5 < len(found) < 30
        for row in found:
            assert set(row) == {"id", "conversations"}
            name, _, number = row["id"].rpartition("_")
            assert name == task
            assert 0 <= int(number) < 30
            turns = row["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert [turn["loss"] for turn in turns] == [None, False] + [None, True] * (len(turns) // 2 - 1)
            assert all(react.read(turn["value"], 500).action for turn in turns if turn["loss"])
            assert convert(row, "agentinstruct", task)["messages"][-1]["loss"] is True
        assert len({row["id"] for row in found}) == len(found)


def test_the_data_room_reads_it(tmp_path) -> None:
    folder = run(tmp_path)
    card = sources.SourceCard(name="mini", format="agentinstruct", path="unused")
    splits = [split for split, _ in sources.read(card, folder)]
    assert {split: splits.count(split) for split in splits} == {task: len(rows(folder, task)) for task in PLAN["tasks"]}


def test_the_filter_keeps_what_the_threshold_says(tmp_path) -> None:
    kept = []
    for threshold in (0.6, 1.0):  # a shop visit that meets two of three wishes has 2/3
        plan = {
            **PLAN,
            "teacher": {"slip": 0.5, "give_up": 0.0, "seed": 0},
            "tasks": {"shop": {"items": 60, "threshold": threshold}},
        }
        kept.append({row["id"] for row in rows(run(tmp_path, plan), "shop")})
    assert kept[1] < kept[0]


def test_threshold_0_keeps_every_episode_however_it_ended(tmp_path) -> None:
    plan = {
        **PLAN,
        "teacher": {"slip": 0.6, "give_up": 0.2, "seed": 0},
        "tasks": {name: {"items": 60, "threshold": 0.0} for name in ("household", "database", "shop")},
    }
    folder = run(tmp_path, plan)
    stats = json.loads((folder / "meta/stats.json").read_text())["tasks"]
    ended = set().union(*(task["statuses"] for task in stats.values()))
    assert {"completed", "task_limit"} < ended, "failures of several kinds"
    for name, task in stats.items():
        kept = rows(folder, name)
        assert len(kept) == task["instructions"] == 60 and task["ratio_percent"] == 100
        for row in kept:
            assert convert(row, "agentinstruct")["messages"][-1]["role"] == "assistant"
    assert "shop no filter (all are kept" in (folder / "README.md").read_text()


def test_an_observation_without_an_answer_is_left_out() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": True}]
    record = {"status": "context_limit", "reward": 0.0, "messages": [*messages, {"role": "user", "content": "c"}]}
    [row] = kept("shop", [record, {"status": "agent_error", "reward": None, "messages": []}], 0.0)
    assert [turn["value"] for turn in row["conversations"]] == ["a", "b"]


def test_same_file_same_bytes_and_another_seed_other_bytes(tmp_path) -> None:
    first, second = run(tmp_path), run(tmp_path, out="again")
    third = run(tmp_path, {**PLAN, "teacher": {**PLAN["teacher"], "seed": 1}}, "other")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [str(name) for name in names] == ["README.md", "household.jsonl", "meta/stats.json", "shop.jsonl"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert (first / "household.jsonl").read_bytes() != (third / "household.jsonl").read_bytes()


def test_the_statistics_and_the_card_count_what_is_there(tmp_path) -> None:
    folder = run(tmp_path)
    stats = json.loads((folder / STATS).read_text())
    readme = (folder / "README.md").read_text()
    for task, entry in stats["tasks"].items():
        found = rows(folder, task)
        turns = sum(turn["loss"] is True for row in found for turn in row["conversations"])
        assert (entry["instructions"], entry["kept"], entry["rows"], entry["turns"]) == (30, *[len(found)] * 2, turns)
        assert sum(entry["statuses"].values()) == 30
        assert f"| {task} | 30 | {len(found)} | {turns / len(found):.2f} | {100 * len(found) / 30:.1f} % |" in readme
    assert yaml.safe_load(readme.split("---")[1])["configs"][0]["data_files"][0] == {
        "split": "household",
        "path": "household.jsonl",
    }


def test_an_older_collection_is_replaced_and_anything_else_is_not(tmp_path) -> None:
    folder = run(tmp_path)
    before = (folder / "household.jsonl").read_bytes()
    assert run(tmp_path, {**PLAN, "seed": 5}) == folder
    assert (folder / "household.jsonl").read_bytes() != before
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="no collection"):
        run(tmp_path, out="precious")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collect.yaml", "out", "precious"]


def test_a_failed_write_leaves_the_old_collection(tmp_path, monkeypatch) -> None:
    folder = run(tmp_path)
    before = (folder / "README.md").read_bytes()
    monkeypatch.setattr("agenttuning.collect.card.card", lambda stats: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, {**PLAN, "seed": 5})
    assert (folder / "README.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collect.yaml", "out"]


def test_a_broken_world_stops_the_collection(tmp_path, monkeypatch) -> None:
    from agenttuning.environments import shop

    monkeypatch.setattr(shop.Environment, "reset", lambda self: 1 / 0)
    with pytest.raises(UserError, match="shop: 30 of 30"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"houshold": {"items": 3, "threshold": 1.0}}}, "household"),
        ({"tasks": {"shop": {"items": 3, "treshold": 1.0}}}, "threshold"),
        ({"tasks": {"shop": {"items": 0, "threshold": 1.0}}}, "at least 1"),
        ({"tasks": {"shop": {"items": 3, "threshold": -0.1}}}, "threshold"),
        ({"tasks": {"shop": {"items": 3, "threshold": 1.1}}}, "threshold"),
        ({"tasks": {}}, "empty"),
        ({"teacher": {"slip": 0.9, "give_up": 0.9, "seed": 0}}, "chances"),
        ({"teacher": {"slip": 0.9, "seed": 0}}, "give_up"),
        ({"outt": "x"}, "out"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, change, message) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, {**PLAN, **change})


def test_conversation_maps_the_flags() -> None:
    opening = own(SimpleNamespace(INSTRUCTION="I", ACKNOWLEDGEMENT="Ok."))({}).opening("O")
    turns = conversation([*opening, assistant("Action: x")])
    assert turns == [
        {"from": "human", "loss": None, "value": "I"},
        {"from": "gpt", "loss": False, "value": "Ok."},
        {"from": "human", "loss": None, "value": "O"},
        {"from": "gpt", "loss": True, "value": "Action: x"},
    ]


def served(tmp_path, server, teacher=(), **changes) -> tuple[int, Path]:
    """A collection by a served teacher; how often it was asked, and the folder of its shop episodes."""
    asked = len(server.asked)
    one = {"server": server.url, "model": "toy", "seed": 0, **dict(teacher)}
    plan = {"teacher": one, "tasks": {"shop": {"items": 6, "threshold": 0.0}}, "out": "unused", **changes}
    run(tmp_path, plan)
    return len(server.asked) - asked, tmp_path / "out.episodes/shop"


def test_what_a_served_teacher_played_is_not_bought_twice_nor_taken_for_other_rules(tmp_path, capsys) -> None:
    with FaultyServer() as server, FaultyServer() as moved:
        first, folder = served(tmp_path, server)
        assert first >= 6 and served(tmp_path, server)[0] == 0
        more = {"tasks": {"shop": {"items": 9, "threshold": 0.0}}}
        assert 3 <= served(tmp_path, moved, {"concurrency": 2}, **more)[0] < first  # the three new ones
        assert not list(folder.glob("episodes.before-*"))
        for number, teacher in enumerate(({"temperature": 0.5}, {"max_new_tokens": 7}, {"seed": 1}), start=1):
            assert served(tmp_path, server, teacher)[0] == first
            assert len(list(folder.glob("episodes.before-*"))) == number


def test_two_collections_into_one_folder_and_one_that_was_killed(tmp_path, monkeypatch) -> None:
    """Each of both is whole, one takes the place of the other; what a kill left between two renames is put back."""
    code = "import sys; from agenttuning.collect import collect; collect(sys.argv[1], sys.argv[2], progress=False)"
    words, other, card = (
        [sys.executable, "-c", code, str(tmp_path / "collect.yaml"), str(tmp_path / "out")],
        [],
        cards.card,
    )

    def slow(stats: dict) -> str:
        own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        other.append(subprocess.Popen(words, env=own, stderr=subprocess.PIPE, text=True))
        assert "waiting for it" in other[0].stderr.readline()
        return card(stats)

    with monkeypatch.context() as patch:
        patch.setattr(cards, "card", slow)
        folder = run(tmp_path)
    assert other[0].wait(30) == 0
    other[0].stderr.close()
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folder.rename(tmp_path / ".out.old")
    (tmp_path / ".out.new").mkdir()
    assert {path.name: path.read_bytes() for path in run(tmp_path).rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collect.yaml", "out"]
