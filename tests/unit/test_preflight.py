"""What training lacks is told at once, whole, and quickly."""

import http.server
import json
import shutil
import threading
import time

import pytest

from agenttuning import preflight, recipe, trackers
from agenttuning.errors import UserError
from agenttuning.machine import Gpu, Machine
from agenttuning.recipe.schema import REPOSITORY

CPU = Machine(gpus=(), cpus=2, memory_gib=24.0, world_size=None)
GPU = Machine(gpus=(Gpu("NVIDIA H200", 140.0),) * 8, cpus=16, memory_gib=128.0, world_size=None)
MODEL = "meta-llama/Llama-2-13b-chat-hf"
SOURCES = ("agentinstruct", "sharegpt-gpt4", "sharegpt-gpt35")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(trackers, "installed", lambda name: True)  # what is absent: tests/unit/test_trackers.py


def load(*overrides):
    return recipe.load(REPOSITORY / "recipes/agentlm-13b", overrides)


def message(*overrides, data=None, machine=CPU):
    with pytest.raises(UserError) as caught:
        preflight.check(load(*overrides), data or {}, machine)
    return str(caught.value)


def test_everything_missing_is_in_one_message_and_quick():
    start = time.monotonic()
    text = message()
    assert time.monotonic() - start < 4
    assert "3 things are missing" in text
    assert "shows none" in text and "make plan-13b" in text
    assert f"https://huggingface.co/{MODEL}" in text and "hf auth login" in text
    assert NOWHERE in text and "zai-org/AgentInstruct" in text


def test_a_gpu_or_a_cpu_recipe_needs_no_gpu_line():
    assert "GPU:" not in message(machine=GPU)
    assert "GPU:" not in message("launch.accelerate_config=cpu", "activation_checkpointing=false")


def test_a_token_by_environment_or_file_is_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    text = message(machine=GPU)
    assert "Hub token" not in text and "hf_canary" not in text
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("hf_canary\n")
    assert "Hub token" not in message(machine=GPU)
    (tmp_path / "hf/token").write_text("\n")
    assert "Hub token" in message(machine=GPU)


def local_everything(tmp_path):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model/config.json").write_text("{}")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    return f"model_name_or_path={tmp_path / 'model'}", dict.fromkeys(SOURCES, rows)


def test_local_folders_ask_nothing_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "reachable", lambda _: pytest.fail("the network was asked"))
    override, data = local_everything(tmp_path)
    preflight.check(load(override), data, GPU)


def test_missing_local_things_are_named(tmp_path):
    override, data = local_everything(tmp_path)
    data["agentinstruct"] = tmp_path / "none.jsonl"
    assert "none.jsonl" in message(override, data=data, machine=GPU)
    text = message(f"model_name_or_path={tmp_path}/tiny/base", data=data, machine=GPU)
    assert "make base-tiny" in text and "2 things are missing" in text


def fill_cache(tmp_path, kind, repository, revision):
    folder = tmp_path / "hf/hub" / f"{kind}s--{repository.replace('/', '--')}"
    commit = revision if len(revision) == 40 else "0" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    if commit != revision:
        (folder / "refs").mkdir()
        (folder / "refs" / revision).write_text(commit)


def test_offline_with_a_full_cache_can_start_and_with_a_gap_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fill_cache(tmp_path, "model", MODEL, load().values["model_revision"])
    _, data = local_everything(tmp_path)
    preflight.check(load(), data, GPU)
    fill_cache(tmp_path, "dataset", "openchat/openchat_sharegpt4_dataset", "main")
    text = message(machine=GPU, data={"sharegpt-gpt35": data["sharegpt-gpt35"]})
    assert "HF_HUB_OFFLINE" in text and "AgentInstruct" in text
    assert MODEL not in text and "sharegpt4" not in text


@pytest.fixture
def own_cards(tmp_path, monkeypatch):
    """A repository of its own, with the cards and a place for their lock file."""
    shutil.copytree(REPOSITORY / "data_cards", tmp_path / "own/data_cards", ignore=shutil.ignore_patterns("lock.json"))
    monkeypatch.setattr(recipe.Recipe, "root", tmp_path / "own")
    monkeypatch.setattr(recipe.Recipe, "accelerate_config", REPOSITORY / "accelerate_configs/fsdp2.yaml")
    return tmp_path / "own/data_cards"


def test_the_locked_commit_of_a_source_is_what_must_be_there(tmp_path, monkeypatch, own_cards):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    override, data = local_everything(tmp_path)
    del data["sharegpt-gpt4"]
    name, commit = "openchat/openchat_sharegpt4_dataset", "a" * 40
    fill_cache(tmp_path, "dataset", name, "main")
    preflight.check(load(override), data, GPU)
    entry = {"hub_id": name, "revision": "main", "commit": commit}
    (own_cards / "lock.json").write_text(json.dumps({"sharegpt-gpt4": entry}))
    assert f"the cache lacks {name}" in message(override, data=data, machine=GPU), "main may have moved on"
    fill_cache(tmp_path, "dataset", name, commit)
    preflight.check(load(override), data, GPU)
    (own_cards / "lock.json").write_text(json.dumps({"sharegpt-gpt4": {**entry, "revision": "v2"}}))
    shutil.rmtree(tmp_path / "hf/hub")
    fill_cache(tmp_path, "dataset", name, "main")
    preflight.check(load(override), data, GPU)


def test_a_damaged_lock_is_found_before_training_and_told_once(tmp_path, own_cards):
    override, data = local_everything(tmp_path)
    (own_cards / "lock.json").write_text("{")
    text = message(override, data={"agentinstruct": data["agentinstruct"]}, machine=GPU)
    assert "1 thing is missing" in text and f"lock file: {own_cards / 'lock.json'} cannot be read" in text
    preflight.check(load(override), data, GPU)  # local files and pinned commits need no lock


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine that answers with `status` and remembers what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status, seen = 200, []

        def do_HEAD(self):
            Handler.seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(Handler.status)
            if Handler.status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_HEAD  # what urllib makes of a redirected HEAD

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield Handler
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_once_with_the_token_at_the_revision(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    preflight.check(load(), {}, GPU)
    revision = load().values["model_revision"]
    assert hub.seen == [(f"/{MODEL}/resolve/{revision}/config.json", "Bearer hf_canary")]
    hub.status = 302
    preflight.check(load(), {}, GPU)
    assert len(hub.seen) == 2, "a redirect was followed, and the token with it"


@pytest.mark.parametrize(("status", "words"), [(403, "accept the licence"), (401, "refuses"), (404, "at revision")])
def test_what_the_hub_refuses_is_explained(hub, monkeypatch, status, words):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    hub.status = status
    text = message(machine=GPU)
    assert words in text and str(status) in text and "hf_canary" not in text


def test_without_a_token_a_gated_model_is_not_asked_for(hub):
    assert "Hub token" in message(machine=GPU)
    assert hub.seen == []


def test_a_look_up_that_hangs_is_given_up(monkeypatch):
    def hang(*_):
        time.sleep(30)
        raise OSError

    monkeypatch.setattr(preflight.socket, "create_connection", hang)
    start = time.monotonic()
    assert not preflight.reachable("https://hub.invalid")
    assert time.monotonic() - start < 2


def test_a_proxy_is_what_must_be_reachable(hub, monkeypatch):
    import os

    proxy = os.environ["HF_ENDPOINT"]
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("https_proxy", proxy)
    assert preflight.reachable("https://hub.invalid")


def test_a_wrong_accelerate_config_stops_it(tmp_path):
    with pytest.raises(UserError, match="no accelerate config"):
        preflight.check(load("launch.accelerate_config=fspd2"), {}, GPU)
