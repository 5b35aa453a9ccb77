"""A model server or an environment that fails: the records of an undisturbed run, or a status that is never scored."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agenttuning.environments import EMBEDDED, Room
from agenttuning.episodes import status
from agenttuning.episodes import store as store_module
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import FILE, EpisodeStore, key_of, read
from agenttuning.errors import UserError
from agenttuning.policies import Turn
from agenttuning.policies.expert import expert
from agenttuning.policies.openai import OpenAIPolicy, Patience
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own
from agenttuning.scoring.scores import score_task
from helpers import fragile_task, toy_task
from helpers.faulty_server import FaultyServer, reply_to

ITEMS = [{"id": f"toy_{number}", "target": 1 + number % 9} for number in range(24)]
QUICK = {"connect": 5.0, "read": 9.0, "total": 9.0, "retries": 8, "wait": 0.02, "longest": 0.2, "max_bytes": 100_000}


def client(url: str, slots: int = 160, **patience) -> OpenAIPolicy:
    return OpenAIPolicy(url, "toy", max_new_tokens=16, slots=slots, patience=Patience(**{**QUICK, **patience}))


def run(policy, items=None, isolation="inline", make=fragile_task.Environment, slots=None, **settings) -> list[dict]:
    items = ITEMS if items is None else items
    room = Room("toy", EMBEDDED, make, isolation, slots)
    defaults = {"model": "m", "seed": 0, "wait_s": 0.01, "progress": False}
    return play(room, items, policy, toy_task.PROTOCOL, own(toy_task), **{**defaults, **settings})


class Undisturbed:
    """What the server says, without a server."""

    async def ask(self, turn: Turn) -> str:
        return reply_to([{"role": m["role"], "content": m["content"]} for m in turn.messages])


@pytest.fixture(scope="module")
def undisturbed() -> list[dict]:
    records = run(Undisturbed())
    assert len({(record["status"], record["turns"]) for record in records}) >= 4  # not all the same
    return records


@pytest.mark.parametrize(
    "fault", ["die", "hang", "empty", "html", "no choices", "deep", "slow", "busy", "overloaded", "broken"]
)
def test_a_server_that_fails_now_and_then(undisturbed, fault) -> None:
    times = {3, 20, 21} if fault in ("die", "hang", "slow") else set(range(3, 60, 6))
    with FaultyServer(lambda number, messages: fault if number in times else None) as server:
        policy = client(server.url, slots=8, **({"read": 0.4, "total": 0.8} if fault in ("hang", "slow") else {}))
        assert run(policy, retries=0) == undisturbed
    assert policy.counts["asked_again"] >= len(times)
    assert policy.counts["replies"] == sum(record["turns"] for record in undisturbed)


def test_the_servers_wish_to_wait_is_followed_but_not_without_bound() -> None:
    with FaultyServer(lambda number, messages: "busy" if number == 0 else None) as server:
        run(client(server.url, longest=0.4), toy_task.items("test", 1, 0), retries=0)
    assert 0.4 <= server.when[1] - server.when[0] < 2


def poisoned(fault: str):
    """A server that fails for the items with target 3, whenever they are asked."""
    return FaultyServer(lambda number, messages: fault if "Count to 3." in messages[2]["content"] else None)


@pytest.mark.parametrize("fault", ["big", "html", "refused", "broken", "null", "overflow", "bytes", "surrogate"])
def test_a_server_that_always_fails_for_some(undisturbed, fault) -> None:
    with poisoned(fault) as server:
        policy = client(server.url, retries=1)
        records = run(policy, retries=0)
    hit = [record for record in records if "Count to 3." in record["messages"][2]["content"]]
    assert len(hit) == 3
    spared = [record for record in undisturbed if "Count to 3." not in record["messages"][2]["content"]]
    assert [record for record in records if record not in hit] == spared
    if fault in ("bytes", "surrogate"):
        assert {(record["status"], record["reward"]) for record in hit} == {(status.COMPLETED, 1.0)}
        text = "Thought: \ufffd\ufffd" if fault == "bytes" else "Thought: ?"
        assert all(text in record["messages"][3]["content"] for record in hit)
        assert policy.counts["cleaned"] == sum(record["turns"] for record in hit)
        assert policy.counts["unfinished"] == (policy.counts["cleaned"] if fault == "bytes" else 0)
        return
    wanted = {"null": status.INVALID_FORMAT, "overflow": status.CONTEXT_LIMIT}.get(fault, status.AGENT_ERROR)
    assert {record["status"] for record in hit} == {wanted}
    score = score_task(records, toy_task.PROTOCOL)
    assert (score["lost"], score["n"]) == ((3, 21) if wanted == status.AGENT_ERROR else (0, 24))


def test_an_answer_of_ten_megabytes_is_not_held() -> None:
    with FaultyServer(lambda number, messages: "big") as server:
        tracemalloc.start()
        try:
            records = run(client(server.url), toy_task.items("test", 1, 0), retries=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert "more than 100000 bytes" in records[0]["error"]
    assert len(server.asked) == 1
    # the server lives in this process too: its own text and bytes are 10 MB each and a copy
    assert server.sent < 9_000_000 and peak < 60_000_000


def test_no_server_at_all_ends_the_run(tmp_path, caplog) -> None:
    with FaultyServer() as server:
        url = server.url
    policy = client(url, retries=2)
    with EpisodeStore(tmp_path) as store, pytest.raises(UserError, match="could not be reached for .*same command"):
        run(policy, retries=0, store=store)
    assert policy.counts["asked_again"] == 48
    assert caplog.text.count("attempt 1 of 3") == 1  # not once for each
    assert {record["status"] for record in read(tmp_path / FILE)} == {status.CANCELLED}


def test_a_question_that_takes_the_server_down_is_the_episodes_own(undisturbed) -> None:
    """It was answered by nothing, but the server was there: for others, or to be killed."""
    with FaultyServer(lambda number, messages: "die") as server:
        policy = client(server.url, retries=1)
        records = run(policy, toy_task.items("test", 1, 0), retries=0)
    assert records[0]["status"] == status.AGENT_ERROR and "gave no usable answer in 2 attempts" in records[0]["error"]


def test_the_key_stands_nowhere(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("TOY_KEY", "sk-very-secret")
    for sample, fault in enumerate(("echo key", None, "refused")):
        with FaultyServer(lambda number, messages, fault=fault: fault) as server, caplog.at_level(logging.DEBUG):
            policy = OpenAIPolicy(
                server.url, "toy", max_new_tokens=16, key_variable="TOY_KEY", patience=Patience(**QUICK)
            )
            with EpisodeStore(tmp_path) as store:
                if fault == "echo key":
                    with pytest.raises(UserError, match="answered 401") as error:
                        run(policy, toy_task.items("test", 3, 0), store=store, retries=0, sample=sample)
                    assert "sk-very" not in str(error.value) and "Bearer [key]" in str(error.value)
                else:
                    run(policy, toy_task.items("test", 3, 0), store=store, retries=0, sample=sample)
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very" not in repr(policy) + caplog.text + (tmp_path / FILE).read_text()
    assert read(tmp_path / FILE)[0]["status"] == status.CANCELLED


def test_a_wrong_key_ends_the_run_at_once() -> None:
    with FaultyServer(lambda number, messages: "echo key") as server:
        with pytest.raises(UserError, match="every turn would be answered so"):
            run(client(server.url, slots=4))
        assert len(server.asked) <= 8


def broken_once(tmp_path: Path, how: str, at: object) -> list[dict]:
    good, bad = toy_task.items("test", 2, 1)
    return [good, {**bad, "how": how, "at": at, "pid": str(tmp_path / "pid"), "once": str(tmp_path / "broken")}]


@pytest.mark.parametrize(
    ("how", "at"), [("exit", 1), ("segfault", "make"), ("kill", "reset"), ("hang", 2), ("raise", 1), ("leave", 1)]
)
def test_an_environment_that_breaks_once_is_played_again(tmp_path, how, at, caplog) -> None:
    items = broken_once(tmp_path, how, at)
    whole = run(expert, toy_task.items("test", 2, 1))
    counts, begun = Counter(), time.monotonic()
    assert run(expert, items, "process", slots=3, env_timeout_s=3.0, counts=counts) == whole
    assert time.monotonic() - begun < 25
    assert counts == {"played again": 1}
    assert "attempt 1 of 3, it is played again from the start" in caplog.text
    if how == "leave":
        assert not _alive(int((tmp_path / "pid").read_text()))


def test_an_environment_that_always_breaks_is_no_wrong_answer() -> None:
    wanted = {
        ("kill", 1): "ended by signal 9 in step()",
        ("exit", "make"): "ended with exit code 3 in making it",
        ("hang", 1): "did not answer step() for 3 s",
        ("raise", 1): "OSError: the world broke",
    }
    items = toy_task.items("test", 6, 1)
    whole = run(expert, items)
    for item, (how, at) in zip(items[1:5], wanted, strict=True):
        item |= {"how": how, "at": at}
    counts = Counter()
    records = run(expert, items, "process", slots=3, env_timeout_s=3.0, counts=counts, retries=1)
    assert [records[0], records[5]] == [whole[0], whole[5]]
    for record, text in zip(records[1:5], wanted.values(), strict=True):
        assert (record["status"], record["reward"]) == (status.ENVIRONMENT_ERROR, None)
        assert text in record["error"]
    assert counts == {"played again": 4}
    score = score_task(records, replace(toy_task.PROTOCOL, void_above=0.9))
    assert (score["n"], score["lost"], score["score"]) == (2, 4, 100.0)


def test_a_thread_that_hangs_is_left_behind(tmp_path, caplog) -> None:
    items = broken_once(tmp_path, "nap", 1)
    begun, threads = time.monotonic(), threading.active_count()
    assert run(expert, items, "thread", env_timeout_s=0.3) == run(expert, toy_task.items("test", 2, 1))
    assert time.monotonic() - begun < 3
    assert "its thread is left behind" in caplog.text
    while threading.active_count() > threads and time.monotonic() - begun < 10:
        time.sleep(0.05)
    assert threading.active_count() == threads
    assert "exception calling callback" not in caplog.text  # when it came back, there was no event loop any more


def test_an_interruption_leaves_no_process(tmp_path) -> None:
    class Interrupted:
        async def ask(self, turn: Turn) -> str:
            if turn.number == 1 and turn.item == "toy_test_2":
                raise KeyboardInterrupt
            return turn.write("x", "add 1")

    items = [{**item, "tell": True} for item in toy_task.items("test", 6, 1)]
    with EpisodeStore(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        run(Interrupted(), items, "process", slots=4, store=store)
    statuses = Counter(record["status"] for record in read(tmp_path / FILE))
    assert statuses[status.CANCELLED] >= 1
    assert set(statuses) <= {status.CANCELLED, status.COMPLETED}
    assert not multiprocessing.active_children()
    with EpisodeStore(tmp_path) as store:
        resumed = run(expert, items, store=store, make=toy_task.Environment)
    assert [record["status"] for record in resumed] == [status.COMPLETED] * 6


ORPHANS = """
import sys
from helpers import fragile_task, toy_task
from agenttuning.environments import EMBEDDED, Room
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.protocols.messages import own
items = [{"id": "a", "target": 3, "how": "tell", "at": 1, "pid": sys.argv[1]}]
room = Room("toy", EMBEDDED, fragile_task.Environment, "process")
play(room, items, expert, toy_task.PROTOCOL, own(toy_task), model="m", seed=0)
"""


def test_an_environment_does_not_outlive_a_killed_runner(tmp_path) -> None:
    root, told = Path(__file__).resolve().parents[2], tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"}
    runner = subprocess.Popen([sys.executable, "-c", ORPHANS, str(told)], env=environment)
    until = time.monotonic() + 30
    while not (told.exists() and told.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    assert not _alive(int(told.read_text()))


def _alive(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]:
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a tmpfs of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def played_until_full(folder: Path) -> list[dict]:
    """Play until the disk is full; what is stored then, and the message is right."""
    items = toy_task.items("test", 200, 0)
    with EpisodeStore(folder) as store, pytest.raises(UserError, match="the disk of .* is full .*make room") as error:
        run(teacher(0.3, 0.1, 0), items, store=store, width=20)
    kept = read(folder / FILE)
    results = sum(status.is_result(record["status"]) for record in kept)
    assert 5 < results < 200
    assert f"{results} episodes of toy are stored whole" in str(error.value)
    return kept


def check_goes_on(folder: Path, kept: list[dict]) -> None:
    items = toy_task.items("test", 200, 0)
    with EpisodeStore(folder) as store:
        assert store.torn == 0
        resumed = run(teacher(0.3, 0.1, 0), items, store=store)
    assert resumed == run(teacher(0.3, 0.1, 0), items)
    on_disk = read(folder / FILE)
    assert on_disk[: len(kept)] == kept
    assert set(Counter(key_of(r) for r in on_disk if status.is_result(r["status"])).values()) == {1}


def test_a_disk_that_fills_up(small_disk) -> None:
    kept = played_until_full(small_disk)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    check_goes_on(small_disk, kept)


def test_a_file_that_may_not_grow(tmp_path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        kept = played_until_full(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_goes_on(tmp_path, kept)


def test_a_full_quota(tmp_path, monkeypatch) -> None:
    write, left = os.write, [30_000]

    def full(handle: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        written = write(handle, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(store_module.os, "write", full)
    kept = played_until_full(tmp_path)
    monkeypatch.undo()
    check_goes_on(tmp_path, kept)
