"""Pieces: the same bytes whatever the number of processes, whatever was killed; what is finished is not made again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttuning.chat import load_tokenizer
from agenttuning.chat import words as chat_words
from agenttuning.chat.tokenizer import encode_texts
from agenttuning.data import pieces
from agenttuning.data.folders import alone_in, swap
from agenttuning.data.prepare import prepare, prepare_cli
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from helpers.tiny_run import tiny_recipe, tiny_world

SMALL = 4  # raw rows of a piece: 12 agents are 3 pieces, 20 chats are 5
DRAWS = "mixture.draws=30"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", SMALL)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def build(world, run_dir, *overrides):
    recipe = tiny_recipe(world, run_dir, DRAWS, *overrides)
    return prepare(recipe, load_tokenizer(recipe.values["model_name_or_path"]), recipe.run_dir / "data")


def made(monkeypatch):
    """Notes the pieces that are made in this process."""
    calls, genuine = [], pieces.work

    def work(job, foreign, start, raws):
        calls.append((job.card.name, start))
        return genuine(job, foreign, start, raws)

    monkeypatch.setattr(pieces, "work", work)
    return calls


def stop_after(monkeypatch, count, error=KeyboardInterrupt):
    """Let `count` pieces be made, then raise `error`."""
    calls, genuine = [], pieces.work

    def work(*arguments):
        if len(calls) == count:
            raise error
        calls.append(arguments)
        return genuine(*arguments)

    monkeypatch.setattr(pieces, "work", work)


def test_the_number_of_processes_and_of_pieces_changes_no_byte(world, tmp_path, monkeypatch):
    folders = [build(world, tmp_path / str(n), f"dataset_num_proc={n}").path for n in (1, 2, 3)]
    monkeypatch.setattr(pieces, "PIECE", 1000)
    folders.append(build(world, tmp_path / "whole").path)
    first, *others = map(content, folders)
    assert all(other == first for other in others)


def test_workers_do_the_work(world, tmp_path, monkeypatch):
    calls = made(monkeypatch)
    build(world, tmp_path / "two", "dataset_num_proc=2")
    assert calls == [], "pieces were made in this process"
    build(world, tmp_path / "one", "dataset_num_proc=1")
    assert len(calls) == 8


def test_workers_encode_whole_texts_where_words_are_not_sure(world, tmp_path, monkeypatch):
    """The library's threads, used before the fork, do not survive it; a worker that waited for them would never end."""
    whole = content(build(world, tmp_path / "words").path)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setattr(chat_words, "of", lambda backend: None)
    tokenizer = load_tokenizer(tiny_recipe(world, tmp_path / "x").values["model_name_or_path"])
    encode_texts(tokenizer, ["a text for each thread"] * 64)
    recipe = tiny_recipe(world, tmp_path / "run", DRAWS, "dataset_num_proc=2")
    assert content(prepare(recipe, tokenizer, recipe.run_dir / "data").path) == whole


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(world, tmp_path, monkeypatch):
    whole = content(build(world, tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            build(world, tmp_path / "run", "dataset_num_proc=1")
    calls = made(monkeypatch)
    path = build(world, tmp_path / "run", "dataset_num_proc=1").path
    assert [name for name, _ in calls] == ["chats"] * 3, "three agents' and two chats' pieces were there"
    assert content(path) == whole
    assert [entry.name for entry in path.parent.iterdir()] == ["data"]


def test_rows_that_the_card_does_not_keep_are_counted_once_however_the_build_went(tmp_path, monkeypatch):
    world = tiny_world(tmp_path / "world")
    with (tmp_path / "world/data_cards/chats/source.yaml").open("a") as card:
        card.write("keep: {field: id, is_not: chat_7}\n")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            build(world, tmp_path / "run", "dataset_num_proc=1")
    for folder, processes in (("run", 1), ("two", 2)):
        built = build(world, tmp_path / folder, f"dataset_num_proc={processes}").mixture["sources"]
        assert built["chats"]["not_kept"] == {'id is_not "chat_7"': 1} and built["agents"]["not_kept"] == {}


def test_pieces_serve_another_seed_but_no_other_loss_or_rows(world, tmp_path, monkeypatch):
    def interrupted(run_dir):
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            with pytest.raises(KeyboardInterrupt):
                build(world, run_dir, "dataset_num_proc=1")

    cases = [("seed", "mixture.seed=9", 3), ("loss", "loss=assistant", 8), ("length", "max_length=64", 8)]
    for name, override, left in cases:
        interrupted(tmp_path / name)
        with monkeypatch.context() as patch:
            calls = made(patch)
            build(world, tmp_path / name, "dataset_num_proc=1", "mixture.max_overlong_loss=1.0", override)
        assert len(calls) == left, override
        fresh = build(world, tmp_path / f"{name}-fresh", "mixture.max_overlong_loss=1.0", override)
        assert content(tmp_path / name / "data") == content(fresh.path)


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff\xff\x00", None])
def test_a_damaged_piece_is_made_again(world, tmp_path, monkeypatch, damage):
    whole = content(build(world, tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            build(world, tmp_path / "run", "dataset_num_proc=1")
    file = tmp_path / "run" / ".data.pieces" / "agents" / "000001.rows.arrow"
    file.unlink() if damage is None else file.write_bytes(damage)
    calls = made(monkeypatch)
    path = build(world, tmp_path / "run", "dataset_num_proc=1").path
    assert [name for name, _ in calls] == ["agents"] + ["chats"] * 3
    assert content(path) == whole


SCRIPT = """
import os, signal, sys, time
from agenttuning.data import pieces, prepare
from agenttuning.recipe import load
pieces.PIECE = 4
genuine = pieces.work
def work(job, *rest):
    if job.card.name == "chats" and rest[1] >= 8:
        os.kill(int(sys.argv[3]) or os.getpid(), signal.SIGKILL)
        time.sleep(30)
    return genuine(job, *rest)
pieces.work = work
prepare.prepare_cli(load(sys.argv[1], sys.argv[4:], sys.argv[2]), {})
"""


def run_and_die(world, run_dir, whom, *overrides):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", SCRIPT.replace("int(sys.argv[3])", whom), str(world), str(run_dir), "0", DRAWS]
    words += overrides
    return subprocess.run(words, env=env, cwd=run_dir.parent, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_while_encoding_it_goes_on_with_the_same_bytes(world, tmp_path, monkeypatch, processes):
    whole = content(prepare_cli(tiny_recipe(world, tmp_path / "whole", DRAWS), {}).path)
    killer = "os.getppid()" if processes == 2 else "0"  # the build itself dies, not only its worker
    done = run_and_die(world, tmp_path / "run", killer, f"dataset_num_proc={processes}")
    assert done.returncode == -signal.SIGKILL, done.stderr
    time.sleep(0.2)  # for the workers to see that nobody is left
    left = sorted(path.name for path in (tmp_path / "run" / ".data.pieces" / "chats").glob("*.records.arrow"))
    assert left[:1] == ["000000.records.arrow"], "nothing was finished before the kill"
    calls = made(monkeypatch)
    data = prepare_cli(tiny_recipe(world, tmp_path / "run", DRAWS, "dataset_num_proc=1"), {}).path
    assert content(data) == whole
    assert {name for name, _ in calls} == {"chats"} and len(calls) == 5 - len(left) >= 3


def test_a_worker_that_dies_is_said_and_its_finished_pieces_stay(world, tmp_path):
    done = run_and_die(world, tmp_path / "run", "0", "dataset_num_proc=2")
    assert done.returncode == 1 and "UserError" in done.stderr
    assert "chats: a worker process was killed" in done.stderr and "smaller dataset_num_proc (now 2)" in done.stderr
    assert (tmp_path / "run" / ".data.pieces" / "agents" / "000002.records.arrow").is_file()
    assert not (tmp_path / "run" / "data").exists()


def test_a_full_disk_is_said_and_finished_pieces_stay(world, tmp_path, monkeypatch):
    genuine = pieces._write

    def full(file, table):
        if file.name == "000002.records.arrow" and file.parent.name == "chats":
            raise OSError(28, "No space left on device")
        genuine(file, table)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "_write", full)
        for processes in (1, 2):
            with pytest.raises(UserError, match=r"piece 2 of chats .*No space left on device.*pieces are kept"):
                build(world, tmp_path / "run", f"dataset_num_proc={processes}")
    calls = made(monkeypatch)
    build(world, tmp_path / "run", "dataset_num_proc=1")
    assert [name for name, _ in calls][:1] == ["chats"] and len(calls) <= 3


def test_an_error_in_a_worker_reaches_the_user(world, tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, UserError("the mask is wrong"))
    with pytest.raises(UserError, match="the mask is wrong"):
        build(world, tmp_path / "run", "dataset_num_proc=2")


def test_rows_of_many_characters_end_a_piece(monkeypatch):
    long = {"conversations": [{"from": "human", "value": "x" * 600}]}
    rows = [("s", raw) for raw in (long, long, long, long, long, 3, None)]
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 1000)
    cut = list(pieces._cut(iter(rows)))
    assert [(number, start, len(raws)) for number, start, raws in cut] == [(0, 0, 2), (1, 2, 2), (2, 4, 3)]
    assert [raw for _, _, raws in cut for raw in raws] == rows


def test_two_builds_at_once_are_one(world, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-m", "agenttuning", "data", str(world), "--run-dir", str(tmp_path / "run"), DRAWS]
    both = [subprocess.Popen(words, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=120)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert sorted("written:" in text for text in said) == [False, True], said
    alone = prepare_cli(tiny_recipe(world, tmp_path / "b", DRAWS), {}).path
    assert content(tmp_path / "run" / "data") == content(alone)


def test_the_lock_ends_with_its_process(tmp_path):
    script = "import sys\nfrom pathlib import Path\nfrom agenttuning.data.folders import alone_in\n"
    script += "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", script, str(tmp_path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes, env=env) as first:
        assert first.stdout.readline() == b"in\n"
        with subprocess.Popen(words, **pipes, env=env) as second:
            assert b"another process builds" in second.stderr.readline()
            first.kill()
            assert second.stdout.readline() == b"in\n"
            second.kill()
    with alone_in(tmp_path):
        pass


def test_swap_leaves_a_strangers_folder_alone_and_clears_what_a_killed_swap_left(tmp_path):
    def folder(name, file):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(name)
        return tmp_path / name

    mine = folder("data", "mixture.json")
    folder(".data.old", "x")
    swap(folder("new", "mixture.json"), mine, "mixture.json")
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and (mine / "mixture.json").read_text() == "new"
    (mine / "mixture.json").rename(mine / "thesis.tex")
    with pytest.raises(UserError, match="not a prepared mixture"):
        swap(folder("newer", "mixture.json"), mine, "mixture.json")
    assert (mine / "thesis.tex").read_text() == "new" and Path(tmp_path / "newer").is_dir()
