"""The six held-in tasks as a whole: a model that says anything, a run that is ended again and again, runs side by side.

The parts have tests of their own; here they are put together, as `agenttuning eval-held-in` does it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from agenttuning import protocols, recipe
from agenttuning.environments import HELD_IN, held_in
from agenttuning.episodes import index, status, view
from agenttuning.episodes.filters import Filters
from agenttuning.episodes.runner import play
from agenttuning.episodes.store import FILE, EpisodeStore, key_of, read
from agenttuning.errors import UserError
from agenttuning.held_in import evaluate_held_in
from agenttuning.policies import Turn
from agenttuning.policies.expert import expert
from agenttuning.protocols.messages import own
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import episodes_page
from agenttuning.scoring import scores
from helpers import hostile_model
from helpers.faulty_server import FaultyServer

PROTOCOL = protocols.load(protocols.FOLDER / "practice.yaml")
TINY = REPOSITORY / "recipes/agentlm-tiny/sft.yaml"
EPISODES = {"os": 4, "alfworld": 4, "kg": 5}  # of the rest 16: commands that wait for input, and many turns
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def needs(task: str, backend: str) -> None:
    if lacks := held_in(task).missing(backend):
        pytest.skip(f"{task} on {backend} needs {lacks[0].what}")


class Hostile:
    """A model that says anything."""

    def __init__(self, task: str) -> None:
        self.task = task

    async def ask(self, turn: Turn) -> str:
        return hostile_model.reply(turn.rng(4), self.task)


@pytest.mark.parametrize(("task", "backend"), [*((t, held_in(t).BACKENDS[-1].name) for t in HELD_IN), ("db", "mysql")])
def test_a_hostile_model_is_wrong_and_nothing_else(task, backend, tmp_path, capsys) -> None:
    """No status of the infrastructure, valid JSON, the same at another width, and a viewer that it cannot steer."""
    needs(task, backend)
    module, texts = held_in(task), import_module(f"agenttuning.protocols.{PROTOCOL.rules(task).format}")
    items, played = module.items("test", EPISODES.get(task, 16), 4), []
    with module.serve(backend) as room:
        for width in (160, 3):
            with EpisodeStore(tmp_path / str(width)) as store:
                play(room, items, Hostile(task), PROTOCOL, own(texts), model="m", seed=4, store=store, retries=0,
                     width=width, progress=False)  # fmt: skip
            played.append(read(tmp_path / str(width) / FILE))
            if task in ("os", "alfworld"):
                break  # slow; tests of their own look at the width
    lost = [(record["item"], record["error"]) for record in played[0] if not status.is_result(record["status"])]
    assert not lost and len(played[0]) == len(items)
    assert sum(record["turns"] for record in played[0]) > 1.5 * len(items)
    assert all(sorted(records, key=key_of) == sorted(played[0], key=key_of) for records in played)
    found = index.read(tmp_path / "160")
    for entry, record in found.records(found.entries):
        assert not STEERS.search(view.trajectory(record, entry.kinds, colour=False, full=True))
    page = episodes_page.write(found, found.entries, Filters(), tmp_path / "page.html", None).read_text()
    assert not STEERS.search(page) and not re.search(r"<(script|img|iframe|svg)", page)


@pytest.fixture
def run(tmp_path):
    return recipe.load(TINY, (), tmp_path / "run")


def judge(run, policy=expert, **settings) -> dict:
    made = {"label": "x", "model": "m", "protocol": "practice", "most": 3}
    return evaluate_held_in(run, lambda rules: policy, **{**made, **settings})


def test_two_runs_that_play_different_tasks_write_one_file_of_scores(run) -> None:
    def slow(turns):
        if not (run.run_dir / "eval/x/held-in/practice" / scores.FILE).exists():
            judge(run, tasks=["webshop"])
            with pytest.raises(UserError, match="in use by another run"):
                judge(run, tasks=["kg"])
        return expert(turns)

    found = judge(run, slow, tasks=["kg"])
    assert set(found["tasks"]) == {"practice-kg.embedded", "practice-webshop.synthetic"}
    assert scores.read(run.run_dir / "eval/x/held-in/practice" / scores.FILE) == json.loads(json.dumps(found))


def test_a_model_that_never_answers_ends_the_run_after_one_task(run) -> None:
    class Broken:
        async def ask(self, turn: Turn) -> str:
            raise RuntimeError("no such engine")

    with pytest.raises(UserError, match="kg: not one of 3 episodes .*no such engine.*same command"):
        judge(run, Broken(), tasks=["kg", "webshop"])
    assert list(scores.read(run.run_dir / "eval/x/held-in/practice" / scores.FILE)["tasks"]) == ["practice-kg.embedded"]
    assert judge(run, tasks=["kg", "webshop"])["tasks"]["practice-kg.embedded"]["score"] == 100


class Ended:
    """`agenttuning eval-held-in` against a server here, with a temporary folder of its own, ended at a question."""

    def __init__(self, temporary: Path) -> None:
        self.temporary, self.asked, self.at, self.runner = temporary, 0, None, None
        self.server = FaultyServer(self._asked)
        self.server.reply = lambda messages: hostile_model.answer_of(messages, 1)[:LONGEST]

    def _asked(self, number: int, messages: list[dict]) -> None:
        self.asked += 1
        if self.at is not None and self.asked == self.at[1]:
            self.runner.send_signal(self.at[0])

    def run(self, out: Path, at: tuple[int, int] | None = None) -> int:
        """Play, or go on; ended by signal at[0] at question at[1]."""
        words = ["eval-held-in", str(TINY), "--server", self.server.url, "--served-model", "m"]
        words += [
            "--protocol",
            "practice",
            "--items",
            "4",
            "--out",
            str(out),
            "--api-key-env",
            "CANARY",
            "--backend",
            "db=mysql",
        ]
        words += [word for task in ("os", "db", "kg", "webshop", "mind2web") for word in ("--task", task)]
        kept = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.temporary), "CANARY": KEY}
        self.asked, self.at = 0, at
        with out.with_suffix(".log").open("ab") as log:
            command = [sys.executable, "-m", "agenttuning", *words]
            self.runner = subprocess.Popen(command, env=kept, stdout=log, stderr=log)
            return self.runner.wait(120)

    def left(self) -> list[str]:
        """Processes and folders that the runner had; what is killed takes a moment."""
        until = time.monotonic() + 15
        while True:
            records = [json.loads(path.read_text()) for path in self.temporary.glob("agenttuning-os-*/*.json")]
            pids = [process[0] for record in records for process in record["processes"] if process]
            found = [f"process {pid}" for pid in pids if running(pid)]
            found += [path.name for path in self.temporary.iterdir() if not path.name.startswith("agenttuning-os-")]
            found += [words for words in commands() if str(self.temporary) in words]
            if not found or time.monotonic() > until:
                return found
            time.sleep(0.05)


LONGEST = 1 << 17  # characters of a reply; the client takes a megabyte of JSON
KEY = "sk-canary-0123456789"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def results(folder: Path) -> dict[tuple, dict]:
    found = [record for path in folder.glob(f"*/{FILE}") for record in read(path)]
    good = [record for record in found if status.is_result(record["status"])]
    assert max(Counter(map(key_of, good)).values()) == 1, "one result an episode"
    return {key_of(record): record for record in good}


@pytest.mark.slow
def test_a_run_that_is_ended_again_and_again_is_a_whole_one(tmp_path) -> None:
    """By kill -9, SIGTERM and Ctrl-C; what is left then, and in the end the episodes and scores of one that was not."""
    needs("os", "sandbox")
    needs("db", "mysql")
    with tempfile.TemporaryDirectory(prefix="h") as temporary:  # short: a socket lies in it
        Path(temporary).chmod(0o711)  # another user's server, too
        end_and_compare(Ended(Path(temporary)), tmp_path)


def end_and_compare(ended: Ended, tmp_path: Path) -> None:
    with ended.server:
        assert ended.run(tmp_path / "whole") == 0
        n = ended.asked
        for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
            at = min(2 + n // 9, n // 2)
            assert ended.run(tmp_path / "parts", (number, at)) == code
            assert ended.left() == []
        lost = [r["status"] for path in (tmp_path / "parts").glob(f"*/{FILE}") for r in read(path) if not r["metrics"]]
        assert status.CANCELLED in lost
        assert ended.run(tmp_path / "parts") == 0
    assert ended.left() == [] and not list(ended.temporary.glob("agenttuning-os-*/*"))
    assert results(tmp_path / "parts") == results(tmp_path / "whole") and len(results(tmp_path / "whole")) == 20
    whole, parts = (scores.read(tmp_path / name / scores.FILE) for name in ("whole", "parts"))
    assert {**whole, "notes": None} == {**parts, "notes": None}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text(errors="replace")]


def test_a_full_disk_is_said_wherever_it_is_met(run, monkeypatch) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)  # scores.json, and the note of the rules
        with pytest.raises(UserError, match="rules.part is full .*same command"):
            judge(run, tasks=["kg"])
    judge(run, tasks=["kg"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match="scores.* is full .*same command"):
            judge(run, policy=lambda turns: 1 / 0, tasks=["kg"])  # nothing is put aside
    assert judge(run, policy=lambda turns: 1 / 0, tasks=["kg"])["tasks"]["practice-kg.embedded"]["score"] == 100


def test_ctrl_c_does_not_wait_for_a_command_that_runs_for_long(tmp_path) -> None:
    needs("os", "sandbox")
    begun = []

    class Sleeper:
        async def ask(self, turn: Turn) -> str:
            if turn.item.endswith("_0"):
                await asyncio.sleep(2)
                begun.append(time.monotonic())
                raise KeyboardInterrupt
            return turn.write("x", "bash: while :; do echo; sleep 1; done")

    module, texts = held_in("os"), import_module("agenttuning.protocols.os_interaction")
    items = module.items("test", 3, 0)
    with module.serve("sandbox") as room, EpisodeStore(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        play(room, items, Sleeper(), PROTOCOL, own(texts), model="m", seed=0, store=store, progress=False)
    assert time.monotonic() - begun[0] < 8, "it would run for 30 seconds"
    assert {record["status"] for record in read(tmp_path / FILE)} == {status.CANCELLED}
