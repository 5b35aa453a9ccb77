"""A Hub that breaks: what a push does then, and that the second one completes the first."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttuning.errors import UserError
from agenttuning.hub import wire
from agenttuning.hub.upload import upload
from helpers.hub_double import TOKEN, Fault, first, hub_double, later, without_waiting

NAME, TAG = "someone/model", "v1"
CARD = b"---\nlicense: mit\n---\n# A model\n"
PART = 128 << 10  # bytes
STEPS = {
    "create": "/api/repos/create",
    "look": f"/api/models/{NAME}",
    "refs": "/refs",
    "validate": "/api/validate-yaml",
    "preupload": "/preupload/main",
    "batch": "/objects/batch",
    "plain content": "/storage/",
    "a part": "/parts/",
    "all parts": "/complete_multipart",
    "verify": "/lfs/verify",
    "commit": "/commit/main",
    "check": "/paths-info/",
    "tag": "/tag/",
}


@pytest.fixture
def hub(monkeypatch):
    with hub_double() as double:
        double.multipart, double.chunk = 2 * PART, PART
        double.waits = without_waiting(monkeypatch, double)
        yield double


@pytest.fixture
def folder(tmp_path):
    """A model as an upload sees it: two large files, one of them sent in parts, and small ones."""
    draw = random.Random(0)
    files = {
        "README.md": CARD,
        "config.json": b'{"model_type": "llama"}\n',
        "model-00001-of-00002.safetensors": draw.randbytes(PART),
        "model-00002-of-00002.safetensors": draw.randbytes(3 * PART + 5),
        ".eval_results/gsm8k.yaml": b"- value: 1\n",
        "empty.txt": b"",
    }
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def push(folder: Path, **options):
    known = {"repo_type": "model", "owned": lambda name: name.startswith("model-"), "tag": TAG}
    return upload(folder, NAME, True, "A push", **known | options)


def refused(folder: Path, **options) -> str:
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        push(folder, **options)
    text = str(caught.value)
    assert contents(folder) == before, "the local result was changed"
    assert (
        TOKEN not in text and "signature" not in text and len(text.splitlines()) == 1 and caught.value.__cause__ is None
    )
    return text


def whole(hub, folder: Path, commits: int = 2) -> None:
    """Everything arrived, once, in one commit after the first, which the tag marks."""
    files = dict(hub.files(NAME))
    files.pop(".gitattributes")
    assert files == contents(folder)
    assert len(hub.messages(NAME)) == commits and hub.messages(NAME)[-1] == "A push"
    assert hub.repositories[NAME]["tags"] == {TAG: hub.repositories[NAME]["commits"][-1][0]}
    assert len(hub.uploads) == len(set(hub.uploads)), "a file was sent twice"


def asked(hub, part: str, method: str | None = None) -> int:
    return sum(part in path and method in (None, how) for how, path in hub.requests)


def test_a_push_is_one_commit_and_the_next_one_none(hub, folder):
    done = push(folder)
    whole(hub, folder)
    assert done.changed and done.url == f"{hub.url}/{NAME}" and hub.repositories[NAME]["commits"][-1][0] == done.commit
    assert hub.repositories[NAME]["private"] is True and asked(hub, "/parts/") == 4 and hub.waits == []
    hub.requests.clear()
    again = push(folder)
    assert (again.commit, again.changed) == (done.commit, False)
    whole(hub, folder)
    assert not any(asked(hub, STEPS[step]) for step in ("preupload", "batch", "commit", "tag"))


def test_stale_files_go_if_an_earlier_push_made_them(hub, folder):
    push(folder, tag=None)
    hub.add(NAME, "by hand", {**hub.files(NAME), "notes.md": b"mine", "model-00003-of-00003.safetensors": b"old"})
    (folder / "config.json").write_text("{}")
    push(folder, tag=None)
    assert set(hub.files(NAME)) == {*contents(folder), ".gitattributes", "notes.md"}


def test_a_repository_made_by_other_means_is_left_alone(hub, folder):
    (folder / "export.json").write_text("{}")
    push(folder, tag=None, repo_type="dataset")  # the name is another repository there
    hub.add(f"datasets/{NAME}", "by hand", {"README.md": b"mine", "notes.md": b"mine"})
    push(folder, tag=None, repo_type="dataset", mark="export.json")  # what it replaces is a card alone
    assert "notes.md" in hub.files(f"datasets/{NAME}")
    others = {"config.json": b"mine", "model-00009-of-00009.safetensors": b"mine", "notes.md": b"mine"}
    push(folder, tag=None)
    hub.add(NAME, "by hand", others)
    text = refused(folder, tag=None, mark="export.json")
    assert "2 of its files would be replaced or deleted (config.json, model-00009" in text and hub.files(NAME) == others
    hub.add(NAME, "by hand", {**others, "export.json": b"{}"})
    push(folder, tag=None, mark="export.json")
    assert set(hub.files(NAME)) == {*contents(folder), "notes.md"}


def test_a_dataset_has_a_place_of_its_own(hub, folder):
    push(folder)
    (folder / "rows.parquet").write_bytes(b"rows")
    done = push(folder, repo_type="dataset")
    assert done.url == f"{hub.url}/datasets/{NAME}" and "rows.parquet" in hub.files(f"datasets/{NAME}")
    assert "rows.parquet" not in hub.files(NAME)


@pytest.mark.parametrize("step", STEPS)
def test_a_burst_is_waited_out(hub, folder, step):
    statuses = [503, 500, 502]
    hub.fail = lambda method, path: statuses.pop() if STEPS[step] in path and statuses else None
    push(folder)
    whole(hub, folder)
    assert statuses == [] and sum(hub.waits) == 1 + 2 + 4


@pytest.mark.parametrize("step", STEPS)
def test_trouble_that_stays_is_told_after_a_bounded_wait(hub, folder, step):
    hub.fail = lambda method, path: 503 if STEPS[step] in path else None
    text = refused(folder)
    assert "it answers 503" in text and "run it again" in text
    files = 2 if step == "verify" else 1  # two at a time; each has its own patience
    assert asked(hub, STEPS[step]) == 6 * files, "asked again by two at once"
    assert sum(hub.waits) == 23 * files and NAME in text and hub.url in text
    hub.fail = lambda method, path: None
    push(folder)
    whole(hub, folder)


@pytest.mark.parametrize("step", ["look", "a part", "commit"])
def test_the_hubs_own_hint_is_followed_up_to_its_window(hub, folder, step):
    limit = {"RateLimit": '"api";r=0;t=33', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'}
    hub.fail = first(1, STEPS[step], Fault(status=429, headers=limit))
    push(folder)
    hub.fail = first(1, STEPS["look"], Fault(status=503, headers={"Retry-After": "7"}))
    push(folder)
    assert hub.waits == [34, 8]
    whole(hub, folder)
    (folder / "config.json").write_text("{}")
    (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(3 * PART))
    hub.fail = lambda method, path: Fault(status=429, headers={"Retry-After": "3600"}) if STEPS[step] in path else None
    before = asked(hub, STEPS[step])
    assert "it asks to wait 3601 s" in refused(folder, tag=None)
    assert hub.waits == [34, 8] and asked(hub, STEPS[step]) == before + 1


REFUSALS = {
    401: "hf auth login",
    402: "billing",
    403: "write token",
    404: "no such place",
    413: "more than the Hub takes",
}


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("step", ["look", "batch", "plain content", "commit"])
def test_a_refusal_is_not_asked_again(hub, folder, status, step):
    hub.says = f"quota \x1b[31m {TOKEN}"
    hub.fail = lambda method, path: status if STEPS[step] in path else None
    text = refused(folder)
    assert REFUSALS[status] in text and "quota" in text and "\x1b" not in text
    assert asked(hub, STEPS[step]) == 1 and hub.waits == []


def test_a_place_that_is_closed_to_the_token_is_told(hub, folder):
    hub.closed.add("someone")
    assert "it answers 403" in refused(folder) and "billing" not in refused(folder)
    hub.closed.clear()
    hub.make(NAME, private=False, kind="model")
    assert "is public and the recipe asks for a private one" in refused(folder)
    assert hub.uploads == []


@pytest.mark.parametrize("step", ["create", "look", "plain content", "a part", "commit", "check", "tag"])
@pytest.mark.parametrize("what", ["cut", "hang", "late", "truncated"])
def test_a_broken_connection_is_made_anew(hub, folder, monkeypatch, step, what):
    if what == "hang":
        monkeypatch.setitem(wire.TIMEOUTS, "read", 0.5)
    fault = {"cut": Fault(cut=PART // 2), "hang": Fault(hang=20.0), "late": Fault(late=True),
             "truncated": Fault(truncate=1)}[what]  # fmt: skip
    hub.fail, begun = first(1, STEPS[step], fault), time.monotonic()
    push(folder)
    assert time.monotonic() - begun < 20, "it waited for an answer"
    assert len(hub.uploads) - len(set(hub.uploads)) == (step == "plain content" and what == "late")
    hub.uploads = list(set(hub.uploads))
    whole(hub, folder)
    assert asked(hub, STEPS["commit"]) == 1 + (step == "commit" and what in ("cut", "hang"))


@pytest.mark.parametrize("step", ["plain content", "a part", "commit"])
def test_a_line_that_stays_down_loses_nothing_that_arrived(hub, folder, step):
    hub.fail = lambda method, path: Fault(cut=PART // 2) if STEPS[step] in path else None
    assert "check the network and run it again" in refused(folder)
    assert hub.messages(NAME) == ["initial commit"] and set(hub.files(NAME)) == {".gitattributes"}
    hub.fail = lambda method, path: None
    push(folder)
    whole(hub, folder)


def test_a_commit_is_found_when_the_last_answer_is_lost_too(hub, folder):
    ways = [*[Fault(cut=0)] * 5, Fault(late=True)]
    hub.fail = lambda method, path: ways.pop(0) if STEPS["commit"] in path else None
    push(folder)
    whole(hub, folder)
    assert ways == []


def test_half_of_the_parts_is_no_file(hub, folder):
    """A part's answer names another checksum: the Hub does not put them together, and the next push sends them."""
    hub.fail = first(1, "/parts/", Fault(replace={"ETag": '"0"'}))
    assert "InvalidPart" in refused(folder)
    push(folder)
    whole(hub, folder)


def test_a_page_of_html_is_trouble_and_not_an_answer(hub, folder):
    page = Fault(status=502, body=b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"})
    hub.fail = first(2, STEPS["validate"], page)
    push(folder)
    whole(hub, folder)


def test_somebody_else_in_between_is_named_and_kept(hub, folder):
    push(folder)
    (folder / "config.json").write_text("{}")

    def meanwhile(method, path):
        if path.endswith("/commit/main") and hub.messages(NAME)[-1] != "theirs":
            hub.add(NAME, "theirs", {**hub.files(NAME), "theirs.md": b"x"})

    hub.fail = meanwhile
    text = refused(folder, tag="v2")
    assert "changed the repository at the same time" in text and "'theirs' by someone" in text
    assert hub.repositories[NAME]["commits"][-1][0][:8] in text and hub.messages(NAME)[-1] == "theirs"
    push(folder, tag="v2")
    assert hub.files(NAME)["theirs.md"] == b"x" and hub.files(NAME)["config.json"] == b"{}"
    assert hub.messages(NAME) == ["initial commit", "A push", "theirs", "A push"]


def test_a_lock_is_no_commit(hub, folder):
    hub.fail = first(1, STEPS["commit"], 409)
    assert "at the same time; run it again" in refused(folder)
    push(folder)
    whole(hub, folder)


def test_a_tag_moves_only_when_that_is_asked_for(hub, folder):
    done = push(folder)
    (folder / "config.json").write_text("{}")
    before = list(hub.uploads)
    text = refused(folder)
    assert f"its tag {TAG} marks commit {done.commit[:8]}" in text and hub.uploads == before
    assert len(hub.messages(NAME)) == 2 and hub.repositories[NAME]["tags"] == {TAG: done.commit}
    hub.fail = lambda method, path: Fault(late=True) if "/tag/" in path and method == "DELETE" else None
    push(folder, move_tag=True)
    whole(hub, folder, commits=3)


def test_a_name_that_is_not_known_is_told_at_once(hub, folder, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "its name is not known" in refused(folder) and hub.waits == []


def test_a_hub_that_never_lets_a_repository_be_made_has_an_end(hub, folder):
    busy = b'{"error": "Cannot create repo: another conflicting operation is in progress"}'
    hub.fail = lambda method, path: Fault(status=409, body=busy) if STEPS["create"] in path else None
    assert "busy with another change" in refused(folder) and len(hub.requests) <= 20


def test_a_file_that_the_hub_drops_is_missed(hub, folder):
    hub.make(NAME, private=True, files={".gitignore": b"config.json\n"}, kind="model")
    assert "lacks 1 of the files or has others in their place (config.json)" in refused(folder)
    assert hub.repositories[NAME]["tags"] == {}


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, folder, caplog):
    hub.verify_at = hub.store
    hub.fail = first(1, "/storage/", 503)
    refused(folder)
    stored = [one for one in hub.log if one.store]
    assert {one.method for one in stored} == {"PUT", "POST"} and not any(
        "authorization" in one.headers for one in stored
    )
    assert TOKEN.encode() not in hub.sent() and "503" in caplog.text
    assert "signature" not in caplog.text and TOKEN not in caplog.text


def test_the_hubs_address_may_be_written_in_other_ways(hub, folder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    hub.url = hub.url.replace("127.0.0.1", "LocalHost")
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    assert push(folder).changed
    whole(hub, folder)


CHILD = """
import signal, sys, pathlib
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background would not hear it
from agenttuning.hub.upload import upload
print("begin", flush=True)
upload(pathlib.Path(sys.argv[1]), sys.argv[2], True, "A push", repo_type="model", owned=lambda name: False, tag="v1")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_push_that_is_killed_is_completed_by_the_next(hub, folder, number):
    before = contents(folder)
    words = [sys.executable, "-c", CHILD, str(folder), NAME]
    environment = os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:

        def kill(method, path):
            if path.endswith("/parts/upload0/3"):
                os.kill(child.pid, number)
                return Fault(hang=0.5)
            return None

        hub.fail = kill
        output = child.communicate(timeout=30)
    assert child.returncode == -number, output
    assert TOKEN.encode() not in b"".join(output) and hub.messages(NAME) == ["initial commit"]
    assert len(hub.parts["upload0"]) == 2 and contents(folder) == before
    hub.fail = lambda method, path: None
    sent = len(hub.uploads)
    push(folder)
    whole(hub, folder)
    assert len(hub.uploads) == 2 and sent == 1


def test_content_goes_in_groups_and_is_counted(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr("agenttuning.hub.upload.GROUP_BYTES", PART)
    hub.fail = later(1, 99, "/objects/batch", "die")
    refused(folder)
    assert [hashlib.sha256((folder / "model-00001-of-00002.safetensors").read_bytes()).hexdigest()] == hub.uploads
    assert "131.1 kB of 524.4 kB, 5 of 6 files are ready for the commit" in capsys.readouterr().out
    hub.fail = lambda method, path: None
    push(folder)
    whole(hub, folder)
