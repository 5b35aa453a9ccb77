"""Rows on disk: the same bytes from the same conversations, a manifest that tells the truth, nothing built twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttuning.data.prepare import prepare_cli
from agenttuning.data.rows import trainable_rows
from agenttuning.errors import UserError
from agenttuning.recipe.schema import REPOSITORY
from helpers.tiny_run import tiny_recipe, tiny_world

PACKED = ("packing=true", "mixture.draws=30")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


def content(folder):
    """Bytes of every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("packing", ["true", "false"])
def test_the_same_inputs_give_the_same_bytes_elsewhere(world, tmp_path, packing):
    folders = []
    for name in ("a", "b"):
        recipe = tiny_recipe(world, tmp_path / name, f"packing={packing}", "mixture.draws=30")
        folders.append(prepare_cli(recipe, {}).path)
    first, second = map(content, folders)
    assert first == second
    assert {"manifest.json", "mixture.json", "rows/state.json"} <= set(first)
    assert not [name for name in first if "cache-" in name or name.endswith(".tmp")]


def test_the_manifest_holds_what_lies_there(world, tmp_path, capsys):
    recipe = tiny_recipe(world, tmp_path / "a", *PACKED)
    prepared = prepare_cli(recipe, {})
    manifest = json.loads((prepared.path / "manifest.json").read_text())
    arrows = {path.relative_to(prepared.path).as_posix(): path for path in prepared.path.rglob("*.arrow")}
    assert set(manifest["files"]) == set(arrows) and any(name.startswith("rows/") for name in arrows)
    for name, path in arrows.items():
        assert manifest["files"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert manifest["files"][name]["bytes"] == path.stat().st_size
    rows = trainable_rows(prepared, recipe)
    assert manifest["rows"]["rows"] == len(rows) < 30
    assert manifest["rows"]["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert manifest["rows"]["filled"] == manifest["rows"]["tokens"] / (len(rows) * 128)
    assert f"{len(rows)} packed rows of 128 tokens, {manifest['rows']['filled']:.2%} filled" in capsys.readouterr().out


def test_rows_are_built_once_and_again_when_the_recipe_packs_otherwise(world, tmp_path):
    recipe = tiny_recipe(world, tmp_path / "a", *PACKED)
    prepared = prepare_cli(recipe, {})
    state = prepared.path / "rows" / "state.json"
    before = state.stat().st_mtime_ns
    trainable_rows(prepared, recipe)
    assert state.stat().st_mtime_ns == before
    unpacked = trainable_rows(prepared, tiny_recipe(world, tmp_path / "a", "packing=false", "mixture.draws=30"))
    assert len(unpacked) == 30 and "seq_lengths" not in unpacked.column_names
    (prepared.path / "manifest.json").write_text("{")  # damaged: nothing vouches for the rows
    assert "seq_lengths" in trainable_rows(prepared, recipe).column_names


def test_a_disk_that_is_full_is_said_and_leaves_no_half(world, tmp_path, monkeypatch):
    import datasets

    recipe = tiny_recipe(world, tmp_path / "a", *PACKED)
    from agenttuning.chat import load_tokenizer
    from agenttuning.data.prepare import prepare

    prepared = prepare(recipe, load_tokenizer(recipe.values["model_name_or_path"]), recipe.run_dir / "data")

    def full(self, path, *_, **__):
        Path(path).mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", full)
    with pytest.raises(UserError, match="No space left on device"):
        trainable_rows(prepared, recipe)
    monkeypatch.undo()
    assert not [path.name for path in prepared.path.iterdir() if "rows" in path.name]
    assert len(trainable_rows(prepared, recipe)) > 0


SCRIPT = """
import sys
from agenttuning.data import prepare
from agenttuning.recipe import load
halt = sys.argv[3]
if halt == "before the swap":
    prepare.swap = lambda *_: (print("here", flush=True), __import__("time").sleep(60))
if halt == "while packing":
    import trl
    trl.pack_dataset = lambda *_: (print("here", flush=True), __import__("time").sleep(60))
prepare.prepare_cli(load(sys.argv[1], sys.argv[4:], sys.argv[2]), {})
"""


@pytest.mark.parametrize("halt", ["before the swap", "while packing"])
def test_killed_and_started_again_it_ends_with_the_same_bytes(world, tmp_path, halt):
    whole = content(prepare_cli(tiny_recipe(world, tmp_path / "whole", *PACKED), {}).path)
    run_dir = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    words = [sys.executable, "-c", SCRIPT, str(world), str(run_dir), halt, *PACKED]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as child:
        for _ in range(50):
            line = child.stdout.readline()
            if line.strip() == "here" or not line:
                break
        child.send_signal(signal.SIGKILL)
    assert line.strip() == "here"
    time.sleep(0.1)
    assert [*run_dir.rglob(".*.tmp"), *run_dir.rglob("cache-*.arrow")], "the kill came too late to leave anything"
    data = prepare_cli(tiny_recipe(world, run_dir, *PACKED), {}).path
    assert content(data) == whole
    assert not list(run_dir.rglob(".*.tmp"))
