"""Keys in the environment stay there: no verb, and no way in which it fails, writes one down or sends one astray."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from agenttuning.recipe.schema import REPOSITORY
from helpers.faulty_server import FaultyServer
from helpers.finished_run import finished_run
from helpers.hub_double import TOKEN, Fault, first, hub_double
from helpers.tiny_run import tiny_world

VERBS = Path(__file__).resolve().parents[1] / "helpers" / "verbs_with_keys.py"
KEYS = {
    "HF_TOKEN": TOKEN,
    "OPENAI_API_KEY": "sk-" + "canaryOPENAIcanaryOPENAIcanary1234",
    "WANDB_API_KEY": "canary0wandb0canary0wandb0canary0wandb00",
    "JUDGE_API_KEY": "canary-judge-canary-judge-0123456789",
}
CARD = "---\npretty_name: {0}\nlanguage: [en]\nlicense: mit\n---\n# {0}\n\nMade for a test.\n"
PUBLISH = "publish: {hub_dataset_id: someone/data}\n"
MODEL = ("publish.hub_model_id=someone/agent", "publish.base_model=someone/base", "publish.licence=mit")
FAULTS = [*[None] * 3, "broken", "die", "bytes", "html"] + [None] * 60


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """A day of verbs with keys in the environment: (folder of everything written, exit statuses, what was sent)."""
    place = tmp_path_factory.mktemp("day")
    recipe = str(repository(place))
    judged, twin = str(place / "finished"), str(REPOSITORY / "recipes/agentlm-tiny/sft.yaml")
    finished_run(place / "finished", n=4)
    refuse = FaultyServer(lambda *_: "echo key")
    with hub_double() as hub, FaultyServer() as server, FaultyServer() as judge, refuse as refusing:
        numbers = iter(FAULTS)
        server.fault = lambda *_: next(numbers, None)
        server.reply = lambda messages: f"Act: answer\nFinal Answer: {server.headers[-1].get('Authorization')}"
        judge.reply = lambda messages: f"Rating: [[7]], and {judge.headers[-1].get('Authorization')}"
        hub.says = f"you sent Bearer {TOKEN}"
        hub.fail, hub.closed = shaky(), set()
        asked = ["--served-model", "m", "--api-key-env", "OPENAI_API_KEY", "--protocol", "practice"]
        asked += ["--task", "kg", "--items", "3", "--run-dir", judged]
        run = ["--run-dir", str(place / "run")]
        elsewhere = ["--out", str(place / "refused")]
        general = ["eval-general", twin, "--run-dir", judged, "--model", str(place / "base"), "--items", "1"]
        general += ["--served-model", "m", "--api-key-env", "OPENAI_API_KEY", "--task", "mt_bench", "--judgings", "1"]
        general += ["--judge-model", "j", "--judge-key-env", "JUDGE_API_KEY", "--judge"]
        played, traces = f"{judged}/eval/served-m/held-in/practice", str(place / "traces")
        cases = {
            "plan": ["plan", recipe],
            "data": ["data", recipe, *run],
            "data-from-a-hub-that-refuses": ["data", str(place / "recipes/remote/sft.yaml")],
            "crash": ["train", recipe, *run, "max_steps=2", "report_to=trackio"],
            "train": ["train", recipe, *run, "max_steps=2", "report_to=trackio", "--resume", "never"],
            "decontaminate": ["decontaminate", recipe, *run, "--against", f"mine={place / 'raw/chats.jsonl'}"],
            "export": ["export", recipe, *run, "max_steps=2", str(place / "model")],
            "push": ["push", recipe, *run, "max_steps=2", *MODEL, "publish.collection=Mine"],
            "push-nowhere": ["push", recipe, *run, "max_steps=2", "publish.hub_model_id=forbidden/agent", *MODEL[1:]],
            "push-data": ["push-data", recipe, *run],
            "upload": [str(place / "model"), "someone/model", "model"],
            "upload-nowhere": [str(place / "model"), "forbidden/model", "model"],
            "held-in": ["eval-held-in", twin, "--server", server.url, *asked],
            "held-in-refused": ["eval-held-in", twin, "--server", refusing.url, *asked, *elsewhere],
            "general": [*general, judge.url, "--server", server.url, "--task", "gsm8k"],
            "general-refused": [*general, judge.url, "--server", refusing.url, *elsewhere],
            "judge-refused": [*general, refusing.url, "--server", server.url, "--out", str(place / "unjudged")],
            "report": ["report", twin, "--run-dir", judged],
            "compare": ["compare", twin, "--run-dir", judged],
            "episodes": ["episodes", played, "--export", "traces", "--out", traces],
            "doctor": ["doctor"],
        }  # fmt: skip
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(place / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0", "TRACKIO_DIR": str(place / "trackio")}
        (place / "out").mkdir()
        words = [sys.executable, str(VERBS), str(place / "out"), json.dumps(cases)]
        path = os.pathsep.join([str(REPOSITORY / "src"), str(VERBS.parents[1])])
        done = subprocess.run(
            words,
            env=os.environ | KEYS | environment | {"PYTHONPATH": path},
            cwd=place,
            capture_output=True,
            timeout=600,
        )
        (place / "out" / "all.out").write_bytes(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr.decode()
        servers = (server, refusing, judge)
        sent = hub.sent() + json.dumps([body for one in servers for body in one.asked]).encode()
        headers = [{one.get("Authorization") for one in each.headers} for each in servers]
    return place, json.loads(done.stdout.splitlines()[-1]), sent, headers


def repository(place: Path) -> Path:
    recipe = tiny_world(place)
    recipe.write_text(recipe.read_text() + PUBLISH)
    for name in ("agents", "chats"):
        with (place / "data_cards" / name / "source.yaml").open("a") as card:
            card.write("loss_flags: as told\nlicence: MIT\n")
        (place / "data_cards" / name / "README.md").write_text(CARD.format(name))
    (place / "base" / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    (place / "base" / "LICENSE").write_text("MIT\n")
    remote = place / "data_cards" / "remote"
    remote.mkdir()
    (remote / "source.yaml").write_text(f"hub_id: someone/absent\nrevision: {'abc1' * 10}\nformat: sharegpt\n")
    (place / "recipes" / "remote").mkdir()
    text = recipe.read_text().replace("agents: {share: 0.5}, chats: {share: 0.5}", "remote: {share: 1.0}")
    (place / "recipes" / "remote" / "sft.yaml").write_text(text)
    return recipe


def shaky():
    """A Hub whose every third request fails, once, in one of some ways, and so does the first file that is sent to its
    store; it refuses some repositories.
    """
    ways = [Fault(status=503), Fault(cut=100), Fault(status=429, headers={"Retry-After": "0"}), Fault(late=True)]
    seen: list[str] = []
    stored = first(1, "/storage/", 503)

    def fail(method: str, path: str):
        if "absent" in path or "forbidden" in path:
            return 403
        if (failure := stored(method, path)) is not None:
            return failure
        seen.append(path)
        kind = path.split("/")[-2:]
        return ways[len(seen) // 3 % 4] if len(seen) % 3 == 0 and kind != seen[-2:-1] else None

    return fail


def ways_to_write(key: str) -> list[bytes]:
    """A key as it is, as a part of an address, in base64, and half of it."""
    return [key.encode(), quote(key).encode(), base64.b64encode(key.encode())[:30], key[: len(key) // 2 + 6].encode()]


ENDS = {"crash": 1, "data-from-a-hub-that-refuses": 2, "upload-nowhere": 2, "held-in-refused": 2}
ENDS |= {"general-refused": 2, "judge-refused": 2, "push-nowhere": 2}


def test_the_verbs_came_where_they_should(day):
    """Without this the search below would find nothing because nothing was done."""
    place, statuses, sent, headers = day
    said = {name: (place / "out" / f"{name}.out").read_text() for name in statuses}
    assert statuses == {name: ENDS.get(name, 0) for name in statuses}, said
    assert "a bug in the middle" in said["crash"] and "Traceback" in said["crash"]
    assert "it answers 403 (you sent Bearer ***)" in said["upload-nowhere"]
    assert "cannot be read" in said["data-from-a-hub-that-refuses"]
    assert "answered 401" in said["held-in-refused"] and "[key]" in said["held-in-refused"]
    assert (
        re.search(r"HTTP Error 503 .* PUT http\S*/storage/\w+\?\.\.\.", said["push"])
        and b"model.safetensors" in sent
    )
    for name in ("general-refused", "judge-refused"):
        assert "answered 401" in said[name] and "[key]" in said[name]
    assert "it answers 403 (you sent Bearer ***)" in said["push-nowhere"]
    assert "/someone/agent (private): commit" in said["push"] and "collection Mine: " in said["push"]
    player, judge = (f"Bearer {KEYS[name]}" for name in ("OPENAI_API_KEY", "JUDGE_API_KEY"))
    assert headers == [{player}, {player, judge}, {judge}]
    assert list((place / "trackio").rglob("*.db")) and any((place / "traces").rglob("*.jsonl"))


def test_no_key_is_written_or_sent(day):
    place, _, sent, _ = day
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 80
    found = []
    for name, key in KEYS.items():
        shapes = ways_to_write(key)
        found += [f"{name} in {path}" for path in files if any(shape in path.read_bytes() for shape in shapes)]
        found += [f"{name} was sent"] * any(shape in sent for shape in shapes)
    assert found == []


def test_no_signed_address_is_written(day):
    """An address of the Hub's store that may be written to."""
    place, *_ = day
    for path in place.rglob("*"):
        assert not path.is_file() or b"signature=canary" not in path.read_bytes(), path
