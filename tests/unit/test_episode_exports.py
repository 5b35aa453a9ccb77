"""Exports of episodes: what their readers read back is what was played, and what is left out is counted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning import cli
from agenttuning.data.convert import convert
from agenttuning.episodes import index as indexed
from agenttuning.episodes.exports import export, file_name, unique
from agenttuning.episodes.filters import Filters
from agenttuning.errors import UserError
from agenttuning.policies.random_policy import random_policy
from agenttuning.scoring import intervals
from helpers.episode_records import HOSTILE, record, said, step, stored, toy_run

FORMS = ["inspect", "traces", "agentinstruct"]
SECRET = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0fG3hJ6"


def exported(folder, form, out, filters=None):
    index = indexed.read(folder)
    return export(index, (filters or Filters()).chosen(index.entries), form, out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def spread(tmp_path) -> Path:
    """Every kind of end, two tasks, a superseded record and an episode without a turn."""
    return stored(
        tmp_path / "x",
        record("webshop", "w1", status="agent_error", reward=None, error="HTTPError: 502"),
        record("webshop", "w1", *said("search[x]", "click[y]"), reward=0.5),
        record("webshop", "w2", *said("search[x]"), reward=0.0, status="task_limit"),
        record("webshop", "w3", status="context_limit", reward=0.0),
        record("webshop", "w4", status="environment_error", reward=None, error="OSError: gone"),
        record("mind2web", "m1", *said("A", "B")),
    )


# inspect


def logs(folder: Path) -> dict:
    from inspect_ai.log import read_eval_log

    return {path.name: read_eval_log(str(path)) for path in sorted(folder.iterdir())}


def test_inspect_reads_the_logs_back(tmp_path) -> None:
    done = exported(spread(tmp_path), "inspect", tmp_path / "out")
    found = logs(tmp_path / "out")
    assert set(found) == {"webshop.embedded.eval", "mind2web.embedded.eval"}, "not by the benchmark's name"
    log = found["webshop.embedded.eval"]
    assert (log.status, log.eval.task, log.eval.model) == ("success", "webshop.embedded", "m@1")
    assert log.eval.metadata["backend"] == "embedded" and log.eval.metadata["protocol"] == "paper-text@1"
    samples = {sample.id: sample for sample in log.samples}
    assert set(samples) == {"w1", "w2", "w3", "w4"}
    one = samples["w1"]
    assert [(m.role, m.text) for m in one.input] == [("user", "Do it."), ("assistant", "Ok."), ("user", "Start.")]
    assert [m.text for m in one.messages][3:] == [text for turn in said("search[x]", "click[y]") for text in turn[::2]]
    assert one.messages[3].model == "m@1" and one.messages[1].model is None
    assert one.scores["reward"].value == 0.5 and one.scores["reward"].answer == "click[y]"
    assert one.metadata["status"] == "completed" and one.metadata["steps"][0]["action"] == "search[x]"
    assert samples["w2"].limit.type == "turn" and samples["w2"].metadata["kinds"] == ["task_limit"]
    assert samples["w4"].scores is None and "OSError: gone" in samples["w4"].error.message
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    low, high = intervals.wilson(0, 3)
    assert metrics == pytest.approx({"mean": 0.5 / 3, "success_rate": 0, "success_low": low, "success_high": high})
    assert (log.results.total_samples, log.results.completed_samples) == (4, 3)
    assert "asked alone" in found["mind2web.embedded.eval"].samples[0].metadata["note"]
    assert done.left_out == {"earlier records of the same episodes": 1}
    assert done.counts == {"samples in webshop.embedded.eval": 4, "samples in mind2web.embedded.eval": 1}


def test_inspect_has_a_log_for_each_model_and_an_epoch_for_each_sample(tmp_path) -> None:
    records = [record("kg", "k", *said("f(x)"), model=name, sample=n) for name in ("a", "b") for n in range(2)]
    exported(stored(tmp_path / "kg", *records), "inspect", tmp_path / "out")
    found = logs(tmp_path / "out")
    epochs = {log.eval.model: sorted(sample.epoch for sample in log.samples) for log in found.values()}
    assert epochs == {"a": [1, 2], "b": [1, 2]}
    assert set(found) == {"kg.eval", "kg-2.eval"}
    assert len({log.eval.task_id for log in found.values()}) == 2


def test_inspect_of_a_played_run(tmp_path) -> None:
    folder = toy_run(tmp_path / "x", random_policy(1), i2="step")
    exported(folder, "inspect", tmp_path / "out")
    [log] = logs(tmp_path / "out").values()
    index = indexed.read(folder)
    for sample in log.samples:
        one = next(one for _, one in index.records(index.entries) if one["item"] == sample.id)
        closing = [] if one["last"] is None else [one["last"]]
        assert [m.text for m in sample.messages] == [m["content"] for m in one["messages"]] + closing
        assert (sample.scores is None) == (one["reward"] is None) == (sample.error is not None)


def test_without_inspect_the_command_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(UserError, match=r"pip install 'agenttuning\[inspect\]'"):
        exported(spread(tmp_path), "inspect", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# traces


def test_traces_are_sessions_of_the_hubs_format(tmp_path) -> None:
    done = exported(spread(tmp_path), "traces", tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*/*.jsonl"))
    sessions = [lines(path) for path in files]
    assert len(sessions) == 5 and len({session[0]["id"] for session in sessions}) == 5
    for head, *messages in sessions:
        assert head["type"] == "session" and head["harness"] == "agenttuning" and isinstance(head["id"], str)
        for line in messages:
            assert set(line) == {"type", "message"} and line["type"] == "message"
            assert line["message"]["role"] in ("user", "assistant", "system", "tool")
            assert isinstance(line["message"]["content"], str)
    [(head, *messages)] = [session for session in sessions if session[0]["item"] == "w1"]
    assert (head["status"], head["backend"], head["turns"]) == ("completed", "embedded", 2)
    assert json.loads(head["episode"])["reward"] == 0.5 and len(json.loads(head["episode"])["steps"]) == 2
    assert [m["message"]["model"] for m in messages] == ["", "", "", "m@1", "", "m@1", ""]
    assert messages[-1]["message"] == {"role": "user", "content": "Hm.", "model": ""}
    assert done.counts == {"sessions of webshop": 4, "sessions of mind2web": 1}
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\ntags: [agents, agent-traces]\n---\n") and "| sessions of webshop | 4 |" in card
    assert "left out: earlier records of the same episodes | 1 |" in card


def test_load_dataset_reads_sessions_of_every_kind_together(tmp_path) -> None:
    from datasets import load_dataset

    exported(spread(tmp_path), "traces", tmp_path / "out")
    files = sorted(map(str, (tmp_path / "out/webshop").iterdir()))
    for order in (files, files[::-1]):  # the first one decides the types
        rows = load_dataset("json", data_files=order, split="train", cache_dir=str(tmp_path / "cache"))
        assert sum(row["type"] == "session" for row in rows) == 4


def test_what_looks_like_a_secret_is_not_written(tmp_path) -> None:
    folder = stored(tmp_path / "x", record("os", "leaky", ("cat .env", step("cat .env"), SECRET)), record("os", "good"))
    done = exported(folder, "traces", tmp_path / "out")
    assert done.left_out == {"holds what looks like a secret (Hugging Face token)": 1}
    assert all(SECRET not in path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_an_episode_without_a_message_is_counted(tmp_path) -> None:
    empty = record("os", "e", status="environment_error", reward=None) | {"messages": []}
    done = exported(stored(tmp_path / "x", empty, record("os", "good")), "traces", tmp_path / "out")
    assert done.left_out == {"no message (environment_error)": 1}


# AgentInstruct


def test_agentinstruct_rows(tmp_path) -> None:
    done = exported(spread(tmp_path), "agentinstruct", tmp_path / "out")
    rows = {row["id"]: row["conversations"] for row in lines(tmp_path / "out/webshop.jsonl")}
    assert set(rows) == {"w1", "w2"}
    assert [(turn["from"], turn["loss"]) for turn in rows["w1"]] == [
        ("human", None), ("gpt", False), ("human", None), ("gpt", True), ("human", None), ("gpt", True)
    ]  # fmt: skip
    assert rows["w1"][-1]["value"] == "Thought: so.\nAction: click[y]"
    assert done.left_out == {
        "earlier records of the same episodes": 1, "the model made no turn": 1,
        "lost to infrastructure (environment_error)": 1,
    }  # fmt: skip
    assert done.counts == {"rows of webshop": 2, "rows of mind2web": 2}
    assert (tmp_path / "out/LEFT_OUT.txt").read_text().strip() == done.text()


def test_a_question_asked_alone_is_a_row_of_its_own(tmp_path) -> None:
    exported(spread(tmp_path), "agentinstruct", tmp_path / "out")
    rows = lines(tmp_path / "out/mind2web.jsonl")
    assert [row["id"] for row in rows] == ["m1_0", "m1_1"]
    assert [[turn["value"] for turn in row["conversations"]] for row in rows] == [
        ["Do it.", "Ok.", "Start.", "Thought: so.\nAction: A"], ["Do it.", "Ok.", "Hm.", "Thought: so.\nAction: B"]
    ]  # fmt: skip


def test_a_question_without_a_prompt_is_the_whole_row(tmp_path) -> None:
    one = record("mind2web", "m", *said("A"))
    one["messages"] = one["messages"][2:]
    exported(stored(tmp_path / "x", one), "agentinstruct", tmp_path / "out")
    [row] = lines(tmp_path / "out/mind2web.jsonl")
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]


def test_an_observation_without_a_reply_is_cut_and_counted(tmp_path) -> None:
    one = record("webshop", "w", *said("search[x]"), status="context_limit", reward=0.0)
    one["messages"].append({"role": "user", "content": "too long", "loss": False})
    done = exported(stored(tmp_path / "x", one), "agentinstruct", tmp_path / "out")
    [row] = lines(tmp_path / "out/webshop.jsonl")
    assert row["conversations"][-1]["from"] == "gpt"
    assert sum(done.left_out.values()) == 1


def test_rows_are_those_that_our_own_data_reads(tmp_path) -> None:
    folder = toy_run(tmp_path / "x", random_policy(1))
    exported(folder, "agentinstruct", tmp_path / "out")
    rows = lines(tmp_path / "out/toy.jsonl")
    assert len(rows) == 8
    for row in rows:
        assert convert(row, "agentinstruct") is not None


def test_two_samples_of_an_item_are_two_rows(tmp_path) -> None:
    folder = stored(tmp_path / "x", *(record("kg", "k", *said("f(x)"), sample=n) for n in range(3)))
    exported(folder, "agentinstruct", tmp_path / "out")
    assert [row["id"] for row in lines(tmp_path / "out/kg.jsonl")] == ["k", "k-2", "k-3"]


# All of them


@pytest.mark.parametrize("form", FORMS)
def test_filters_count_as_left_out(tmp_path, form) -> None:
    done = exported(spread(tmp_path), form, tmp_path / "out", Filters(task="mind2web"))
    assert done.left_out["not chosen by the filters"] == 4
    assert sum(done.counts.values()) == (2 if form == "agentinstruct" else 1)


@pytest.mark.parametrize("form", FORMS)
def test_hostile_text_neither_escapes_nor_breaks_an_export(tmp_path, form) -> None:
    bad = [
        record(task, item, (HOSTILE, step(HOSTILE), HOSTILE), model=HOSTILE, metrics={HOSTILE: HOSTILE})
        for task, item in (("../../up", "../../../evil"), ("/etc", "/etc/passwd"), ("..", ".."), ("\ud800", "x" * 5000))
    ]
    done = exported(stored(tmp_path / "deep/x", *bad), form, tmp_path / "deep/out")
    assert sum(done.counts.values()) == 4
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or any(path.is_relative_to(tmp_path / "deep" / name) for name in ("x", "out"))
    assert "\x1b" not in done.text()
    for path in (tmp_path / "deep/out").rglob("*.jsonl"):
        assert lines(path) and path.read_bytes().isascii(), "no line breaks but ours, and nothing to steer a terminal"


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_that_holds_something_is_not_touched(tmp_path, form) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        exported(spread(tmp_path), form, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("form", ["traces", "agentinstruct"])
def test_nothing_to_export_leaves_nothing_and_says_why(tmp_path, form) -> None:
    empty = record("os", "e", status="environment_error", reward=None) | {"messages": []}
    with pytest.raises(UserError, match="no episode can be exported.*environment_error"):
        exported(stored(tmp_path / "x", empty), form, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    folder = spread(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="could not be written"):
        exported(folder, "traces", tmp_path / "out")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch) -> None:
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    folder = spread(tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        exported(folder, "traces", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_an_unknown_form(tmp_path) -> None:
    with pytest.raises(UserError, match="inspect, traces, agentinstruct"):
        exported(spread(tmp_path), "csv", tmp_path / "out")


@pytest.mark.parametrize("form", FORMS)
def test_the_verb(tmp_path, capsys, form) -> None:
    out = tmp_path / "out"
    assert cli.main(["episodes", str(spread(tmp_path)), "--export", form, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"written: {out}" in printed and "left out, earlier records of the same episodes: 1" in printed
    assert cli.main(["episodes", str(tmp_path / "x"), "--export", form]) == 2
    assert "--out" in capsys.readouterr().err


@given(st.text(st.characters(), max_size=300))
def test_file_names_stay_in_their_folder(text) -> None:
    name = file_name(text)
    assert name and len(name) <= 80 and name.isascii() and "/" not in name and "\0" not in name
    assert not name.startswith(".") and Path("/a", name).parent == Path("/a")


def test_names_are_told_apart_without_regard_to_case() -> None:
    taken: set[str] = set()
    assert [unique(name, taken) for name in ("a", "A", "a", "a-2")] == ["a", "A-2", "a-3", "a-2-2"]
