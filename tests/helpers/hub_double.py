"""A Hub on this machine, as far as a push of a dataset needs one: repositories, preupload, LFS, commits.

It follows what huggingface_hub sends, and refuses what the Hub refuses: a commit of a file that never arrived, on top
of another commit than the newest, with a card whose header is no YAML. `fail(method, path)` may answer for it: a
status, "die" (the connection breaks), or "late" (it breaks after the work was done); None lets the request through.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import yaml

TOKEN = "hf_" + "doubleTOKENdoubleTOKENdoubleTOKEN12"


class Hub:
    """The state. repositories: {id: {"private": bool, "commits": [(sha, message, {path: content})]}}."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploads: list[str] = []  # oids in the order of arrival
        self.fail: Callable[[str, str], int | str | None] = lambda method, path: None
        self.says = "no"
        self.url = ""

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name]["commits"][-1][2]

    def messages(self, name: str) -> list[str]:
        return [message for _, message, _ in self.repositories[name]["commits"]]

    def download(self, name: str, folder: Path) -> Path:
        for path, content in self.files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def make(self, name: str, private: bool, files: dict[str, bytes] | None = None) -> None:
        self.repositories[name] = {"private": private, "commits": []}
        self.add(name, "initial commit", files or {".gitattributes": b"*.parquet filter=lfs\n"})

    def add(self, name: str, message: str, files: dict[str, bytes]) -> str:
        commits = self.repositories[name]["commits"]
        sha = hashlib.sha1(f"{name} {len(commits)} {message}".encode()).hexdigest()
        commits.append((sha, message, files))
        return sha

    def info(self, name: str) -> dict:
        sha, _, files = self.repositories[name]["commits"][-1]
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"id": name, "sha": sha, "private": self.repositories[name]["private"], "siblings": siblings}


def oid(path: str, content: bytes) -> str:
    """As the Hub names a file: sha256 if it is a large one, git's own hash if not."""
    if path.endswith(".parquet"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def answer(self, status: int, content: object = None) -> None:
        body = json.dumps(content if content is not None else {"error": self.hub.says}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        failure = self.hub.fail(self.command, path)
        if isinstance(failure, int):
            return self.answer(failure)
        if failure == "die":
            return self.connection.close()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/storage/"):
            return self.answer(401)
        status, content = self.handle_request(path, body)
        if failure == "late":
            return self.connection.close()
        return self.answer(status, content)

    do_GET = do_POST = do_PUT = serve

    def handle_request(self, path: str, body: bytes) -> tuple[int, object]:
        hub = self.hub
        if self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/storage/")
            hub.blobs[path.removeprefix("/storage/")] = body
            hub.uploads.append(path.removeprefix("/storage/"))
            return 200, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            assert asked["type"] == "dataset"
            if name in hub.repositories:
                return 409, {"error": "You already created this dataset repo", "url": f"{hub.url}/datasets/{name}"}
            hub.make(name, asked["visibility"] == "private")
            return 200, {"url": f"{hub.url}/datasets/{name}"}
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if found := re.fullmatch(r"/datasets/(.+)\.git/info/lfs/objects/batch", path):
            return 200, self.batch(json.loads(body)["objects"])
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(preupload|commit|revision)/main)?", path)
        if not found or found[1] not in hub.repositories:
            return 404, {"error": "Repository not found"}
        if found[2] == "preupload":
            return 200, {"files": [self.mode(found[1], file) for file in json.loads(body)["files"]]}
        if found[2] == "commit":
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        return 200, hub.info(found[1])

    def validate(self, content: str) -> tuple[int, object]:
        try:
            header = yaml.safe_load(content.split("---\n", 2)[1])
            wrong = [] if header.get("license") else [{"message": '"license" is required'}]
        except (IndexError, yaml.YAMLError) as error:
            wrong = [{"message": str(error)}]
        return (400 if wrong else 200), {"errors": wrong, "warnings": []}

    def batch(self, objects: list[dict]) -> dict:
        answers = []
        for one in objects:
            need = {"upload": {"href": f"{self.hub.url}/storage/{one['oid']}?signature=canary"}}
            answers.append(one if one["oid"] in self.hub.blobs else {**one, "actions": need})
        return {"transfer": "basic", "objects": answers}

    def mode(self, name: str, file: dict) -> dict:
        there = self.hub.files(name).get(file["path"])
        mode = "lfs" if file["path"].endswith(".parquet") else "regular"
        known = {} if there is None else {"oid": oid(file["path"], there)}
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known}

    def commit(self, name: str, lines: list[dict]) -> tuple[int, object]:
        header, files = lines[0]["value"], dict(self.hub.files(name))
        if header.get("parentCommit") not in (None, self.hub.info(name)["sha"]):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return 400, {"error": "LFS pointer to a file that does not exist"}
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        sha = self.hub.add(name, header["summary"], files)
        return 200, {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{sha}", "commitOid": sha, "success": True}

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_double():
    """A running Hub; its `url` is what HF_ENDPOINT should hold."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
