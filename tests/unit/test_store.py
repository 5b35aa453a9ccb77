"""The store after kill -9, with a torn line, with a full disk, and with a second runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agenttuning.environments import room
from agenttuning.episodes import status
from agenttuning.episodes import store as store_module
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import FILE, EpisodeStore, key_of, read
from agenttuning.errors import UserError
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own
from agenttuning.scoring.scores import score_task
from helpers import toy_task

ROOT = Path(__file__).resolve().parents[2]
ITEMS = 40

# Plays slowly, two episodes at a time, so that it can be killed with some on disk, some live and some to come.
RUNNER = f"""
import sys, time
from helpers import toy_task
from agenttuning.environments import room
from agenttuning.episodes.runner import play
from agenttuning.protocols.messages import own
from agenttuning.episodes.store import EpisodeStore
from agenttuning.policies.teacher import teacher
policy = teacher(0.3, 0.1, 0)
def slow(turns):
    time.sleep(0.02)
    return policy(turns)
with EpisodeStore(sys.argv[1]) as store:
    print("open", flush=True)
    play(room(toy_task), toy_task.items("test", {ITEMS}, 0), slow, toy_task.PROTOCOL, own(toy_task), model="m", seed=0,
         store=store, width=2)
"""


def record(item: str = "a", state: str = status.COMPLETED, **more) -> dict:
    key = {"task": "toy", "backend": "embedded", "protocol": "toy@1", "item": item, "seed": 0, "model": "m"}
    return {**key, "sample": 0, "status": state, "reward": 1.0 if status.is_result(state) else None, **more}


# The same with a policy that is waited for and environments in threads, many live at once.
WAITING = f"""
import asyncio, sys
from helpers import toy_task
from agenttuning.environments import EMBEDDED, Room
from agenttuning.episodes.runner import play
from agenttuning.protocols.messages import own
from agenttuning.episodes.store import EpisodeStore
from agenttuning.policies.teacher import teacher
policy = teacher(0.3, 0.1, 0)
class Waits:
    asked = 0
    async def ask(self, turn):
        self.asked += 1
        await asyncio.sleep(0.002 * self.asked)
        return policy([turn])[0]
with EpisodeStore(sys.argv[1]) as store:
    play(Room("toy", EMBEDDED, toy_task.Environment, "thread", 8), toy_task.items("test", {ITEMS}, 0), Waits(),
         toy_task.PROTOCOL, own(toy_task), model="m", seed=0, store=store)
"""


def start(folder: Path, code: str = RUNNER) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_lines(path: Path, n: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} never had {n} lines")


def finish(folder: Path) -> list[dict]:
    with EpisodeStore(folder) as store:
        items = toy_task.items("test", ITEMS, 0)
        policy, prompts = teacher(0.3, 0.1, 0), own(toy_task)
        return play(
            room(toy_task), items, policy, toy_task.PROTOCOL, prompts, model="m", seed=0, store=store, progress=False
        )


@pytest.mark.parametrize(("code", "lines"), [(RUNNER, 1), (RUNNER, 9), (RUNNER, 23), (WAITING, 2), (WAITING, 17)])
def test_kill_and_resume_gives_each_episode_once_and_the_same_scores(tmp_path, code, lines) -> None:
    process = start(tmp_path, code)
    wait_for_lines(tmp_path / FILE, lines)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = read(tmp_path / FILE)
    assert lines <= len(kept) < ITEMS
    resumed = finish(tmp_path)
    uninterrupted = finish(tmp_path / "again")
    assert resumed == uninterrupted
    assert score_task(resumed, toy_task.PROTOCOL) == score_task(uninterrupted, toy_task.PROTOCOL)
    on_disk = read(tmp_path / FILE)
    assert on_disk[: len(kept)] == kept
    assert set(Counter(key_of(r) for r in on_disk if status.is_result(r["status"])).values()) == {1}
    assert len(on_disk) == ITEMS


@pytest.mark.parametrize("code", [RUNNER, WAITING])
def test_ctrl_c_records_what_is_live_as_cancelled(tmp_path, code) -> None:
    process = start(tmp_path, code)
    wait_for_lines(tmp_path / FILE, 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT or b"KeyboardInterrupt" in said
    kept = read(tmp_path / FILE)
    cancelled = [line for line in kept if line["status"] == status.CANCELLED]
    # of two live episodes both may wait for the disk just then: they are results
    assert int(code is WAITING) <= len(cancelled) <= 8
    assert {line["error"] for line in cancelled} <= {"KeyboardInterrupt: "}
    assert finish(tmp_path) == finish(tmp_path / "again")
    assert len(read(tmp_path / FILE)) == ITEMS + len(cancelled)


def test_a_second_runner_is_refused_and_the_lock_dies_with_its_holder(tmp_path) -> None:
    process = start(tmp_path)
    assert process.stdout.readline() == b"open\n"
    with pytest.raises(UserError, match=f"in use by another run \\(process {process.pid}\\)"):
        EpisodeStore(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    EpisodeStore(tmp_path).close()


def test_a_torn_last_line_is_cut_off_and_reported(tmp_path, caplog) -> None:
    with EpisodeStore(tmp_path) as store:
        store.append(record("a"))
        store.append(record("b"))
    whole = (tmp_path / FILE).read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:size])
        with EpisodeStore(tmp_path) as store:
            assert store.torn == size - first
            assert store.result(key_of(record("a")))
            assert store.result(key_of(record("b"))) is None
            store.append(record("b"))
        assert (tmp_path / FILE).read_bytes() == whole
    assert "cut off" in caplog.text


def test_zeros_after_a_power_cut_are_cut_off(tmp_path) -> None:
    with EpisodeStore(tmp_path) as store:
        store.append(record("a"))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"\0" * 100)
    with EpisodeStore(tmp_path) as store:
        assert store.torn == 100
    assert len(read(tmp_path / FILE)) == 1


def test_a_bad_line_before_the_last_is_refused(tmp_path) -> None:
    with EpisodeStore(tmp_path) as store:
        store.append(record("a"))
        store.append(record("b"))
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0][:20], lines[1]]) + "\n")
    with pytest.raises(UserError, match="line 1"):
        EpisodeStore(tmp_path)
    EpisodeStore(tmp_path / "other").close()  # the refused store holds no lock
    with pytest.raises(UserError, match="line 1"):
        EpisodeStore(tmp_path)


def test_infrastructure_may_be_followed_by_a_result_but_a_result_by_nothing(tmp_path) -> None:
    with EpisodeStore(tmp_path) as store:
        store.append(record(state=status.AGENT_ERROR))
        store.append(record(state=status.CANCELLED))
        assert store.result(key_of(record())) is None
        store.append(record())
        for state in (status.COMPLETED, status.AGENT_ERROR):
            with pytest.raises(ValueError, match="already has a result"):
                store.append(record(state=state))
        store.append({**record(), "model": "other"})
    assert len(read(tmp_path / FILE)) == 4


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch) -> None:
    write = os.write

    def full(handle, data):
        if len(data) > 10:
            return write(handle, data[:10])
        raise OSError(28, "No space left on device")

    with EpisodeStore(tmp_path) as store:
        store.append(record("a"))
        monkeypatch.setattr(store_module.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            store.append(record("b"))
        monkeypatch.undo()
        store.append(record("c"))
    assert [line["item"] for line in read(tmp_path / FILE)] == ["a", "c"]


def test_any_text_goes_through(tmp_path) -> None:
    text = "\ud800 \x00 \u2028 \r\n ü 🙂"
    with EpisodeStore(tmp_path) as store:
        store.append(record("a", last=text))
    assert read(tmp_path / FILE)[0]["last"] == text


def test_a_block_of_zeros_within_the_last_write_cuts_it_off_from_there(tmp_path) -> None:
    with EpisodeStore(tmp_path) as store:
        for name in "abcd":
            store.append(record(name))
    data = bytearray((tmp_path / FILE).read_bytes())
    second = data.index(b"\n") + 1
    data[second + 10 : second + 40] = bytes(30)
    (tmp_path / FILE).write_bytes(data)
    with EpisodeStore(tmp_path) as store:
        assert store.torn == len(data) - second
        assert [line["item"] for line in read(store.path)] == ["a"]
        store.append(record("b"))
    assert [line["item"] for line in read(tmp_path / FILE)] == ["a", "b"]


def test_records_that_wait_together_share_one_sync(tmp_path, monkeypatch) -> None:
    syncs, fsync = [], os.fsync

    def slow(handle: int) -> None:
        syncs.append((tmp_path / FILE).read_bytes().count(b"\n"))
        time.sleep(0.05)
        fsync(handle)

    with EpisodeStore(tmp_path) as store:
        monkeypatch.setattr(store_module.os, "fsync", slow)
        futures = [store.submit(record(f"item {number}")) for number in range(100)]
        assert not any(future.done() for future in futures)  # nothing is done before it is on disk
        for number, future in enumerate(futures):
            future.result()
            assert syncs[-1] > number
        assert len(syncs) <= 3
        with pytest.raises(ValueError, match="already has a result"):
            store.append(record("item 7"))
        twice = [store.submit(record("new")), store.submit(record("new"))]
        twice[0].result()
        with pytest.raises(ValueError, match="already has a result"):
            twice[1].result()
    assert len(read(tmp_path / FILE)) == 101


def test_closing_writes_what_waits(tmp_path) -> None:
    with EpisodeStore(tmp_path) as store:
        futures = [store.submit(record(f"item {number}")) for number in range(50)]
    assert all(future.done() for future in futures)
    assert len(read(tmp_path / FILE)) == 50


def test_episodes_of_other_rules_are_put_aside_and_never_under_another_run(tmp_path) -> None:
    with EpisodeStore(tmp_path, "one") as store:
        store.append(record())
        with pytest.raises(UserError, match="in use"):
            EpisodeStore(tmp_path, "two")
        assert (tmp_path / "episodes.jsonl").exists()
    with EpisodeStore(tmp_path, "one") as store:
        assert store.result(key_of(record())) is not None
    for number, rules in enumerate(("two", "three"), 1):
        with EpisodeStore(tmp_path, rules) as store:
            assert store.result(key_of(record())) is None
            store.append(record())
        assert len(read(tmp_path / f"episodes.before-{number}.jsonl")) == 1
