"""The double is a Hub to every library that a reader of ours would use, and what `upload` sent is what they get."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.export import export
from agenttuning.hub.upload import upload
from helpers.hub_double import READER, STRANGER, TOKEN, hub_double, without_waiting
from helpers.tiny_run import tiny_recipe

CLIENT = Path(__file__).resolve().parents[1] / "helpers" / "hub_client.py"
PRIVATE = {"config.json": b"{}"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(world, whole, tmp_path_factory):
    """The export of a trained run, and rows."""
    from datasets import Dataset

    place = tmp_path_factory.mktemp("client")
    export(tiny_recipe(world, whole()), place / "model")
    (place / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    draw = random.Random(0)
    rows = [{"id": f"é{n}", "input_ids": [draw.randrange(99) for _ in range(n % 7)]} for n in range(50)]
    Dataset.from_list(rows).to_parquet(str(place / "rows.parquet"))
    return place


@pytest.fixture(scope="module")
def hub():
    with hub_double() as double:
        double.multipart, double.chunk = 40_000, 30_000
        yield double


@pytest.fixture(scope="module")
def results(hub, folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_waiting(patch, hub)
        known = {"private": True, "message": "A push", "owned": lambda name: False}
        upload(folder / "model", "someone/model", repo_type="model", tag="v1", **known)
        data = tmp_path_factory.mktemp("data")
        (data / "data").mkdir()
        (data / "data" / "train-00000-of-00001.parquet").write_bytes((folder / "rows.parquet").read_bytes())
        upload(data, "someone/rows", repo_type="dataset", **known)
    hub.add("someone/model", "after the tag", {".gitattributes": b""})
    hub.make("someone/private", private=True, files=PRIVATE, kind="model")
    hub.make("someone/gated", private=False, files=PRIVATE, kind="model")
    hub.repositories["someone/gated"]["gated"] = "manual"
    home = tmp_path_factory.mktemp("home")
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"READER": READER, "STRANGER": STRANGER, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, str(CLIENT), str(folder)], env=os.environ | environment, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()
    assert TOKEN.encode() not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


EXPECTED = {
    "create": [f"/{'someone/by-hand'}", True, {"space": 400, "again": 409}, "someone"],
    "upload_folder": [40, ["Upload deep/er/x.txt with huggingface_hub", "By hand", "initial commit"],
                      ["deep/er/x.txt"], True],
    "tags": [409, ["v1"], ["dev", "main"]],
    "snapshot": [True, False],
    "download": [True, True, True],
    "cards": [True, "mit", "# Mine"],
    "collections": [True, ["someone/by-hand"], 1],
    "model": [True, True, True],
    "dataset": [True, True, True],
}  # fmt: skip


@pytest.mark.parametrize("step", EXPECTED)
def test_a_library_is_served(results, hub, step):
    found = results[step]
    if step == "create":
        found[0] = found[0].removeprefix(hub.url)
    assert found == EXPECTED[step], found


def test_files_are_listed_with_their_sizes(results, folder):
    top, equal = results["lists"]
    assert {"deep", "model.safetensors", "config.json", ".gitattributes"} <= set(top) and equal


def test_who_may_not_read_is_told_as_the_hub_tells_it(results):
    found, read = results["closed"]
    assert read and found == {
        "nobody someone/private": ["RepositoryNotFoundError", 401],
        "nobody someone/gated": ["GatedRepoError", 401],
        "nobody someone/absent": ["RepositoryNotFoundError", 401],
        "stranger someone/private": ["RepositoryNotFoundError", 404],
        "stranger someone/gated": ["GatedRepoError", 403],
        "stranger someone/absent": ["RepositoryNotFoundError", 404],
        "revision": ["RevisionNotFoundError", 404],
        "entry": ["RemoteEntryNotFoundError", 404],
        "reader": 403,
    }


def test_the_command_line_is_served(results):
    statuses, equal = results["command_line"]
    assert statuses[:3] == [0, 0, 0] and statuses[3] != 0 and equal


def test_no_client_sends_the_token_to_the_store(results, hub):
    stored = [one for one in hub.log if one.store]
    assert {one.method for one in stored} == {"PUT", "GET"} and TOKEN.encode() not in hub.sent()
