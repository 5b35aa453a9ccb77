"""Files on their way out: lists, single files with ranges, and large ones from the store."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qs

from helpers.hub_double.repos import Answer, at, closed, refused
from helpers.hub_double.state import Large, described, git_oid


def tree(asked) -> Answer:
    commit, wrong = at(asked)
    if wrong:
        return wrong
    below = f"{asked.words['path']}/" if asked.words["path"] else ""
    everything = asked.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    told, folders = [], set()
    for path, content in sorted(commit[2].items()):
        if not path.startswith(below):
            continue
        inner = path.removeprefix(below).split("/")
        for depth in range(1, len(inner)):
            if everything or depth == 1:
                folders.add(below + "/".join(inner[:depth]))
        if everything or len(inner) == 1:
            told.append(described(path, content))
    if below and not told and not folders:
        return refused(404, "EntryNotFound", f"{below} does not exist on this revision")
    told += [_folder(path) for path in sorted(folders)]
    return 200, told, {}


def _folder(path: str) -> dict:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def paths_info(asked) -> Answer:
    commit, wrong = at(asked)
    if wrong:
        return wrong
    if "json" in asked.headers.get("content-type", ""):
        wanted = asked.json["paths"]
    else:
        wanted = parse_qs(asked.body.decode())["paths"]
    if len(wanted) > 1000:
        return refused(413, None, "too many parameters")
    files = commit[2]
    told = [described(path, files[path]) for path in wanted if path in files]
    told += [_folder(path) for path in wanted if any(name.startswith(f"{path}/") for name in files)]
    return 200, told, {}


def resolve(asked) -> Answer:
    commit, wrong = at(asked)
    if wrong := wrong or closed(asked):
        return wrong
    sha, _, files = commit
    content = files.get(asked.words["path"])
    if content is None:
        status, said, headers = refused(404, "EntryNotFound", "Entry not found")
        return status, said, headers | {"X-Repo-Commit": sha}
    headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if not isinstance(content, Large):
        return _ranged(asked, content, headers | {"ETag": f'"{git_oid(content)}"'})
    oid = hashlib.sha256(content).hexdigest()
    where = {"Location": f"{asked.hub.store}/storage/{oid}?signature=canary"}
    about = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
    return 302, b"Found", headers | where | about


def from_store(asked) -> Answer:
    content = asked.hub.blobs.get(asked.words["oid"])
    if content is None:
        return refused(404, None, "NoSuchKey")
    return _ranged(asked, content, {"ETag": f'"{asked.words["oid"]}"', "Content-Type": "application/octet-stream"})


def _ranged(asked, content: bytes, headers: dict[str, str]) -> Answer:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if not found:
        return 200, bytes(content), headers
    start, size = int(found[1]), len(content)
    end = min(int(found[2] or size - 1), size - 1)
    if start > end:
        return 416, b"", headers | {"Content-Range": f"bytes */{size}"}
    return 206, bytes(content[start : end + 1]), headers | {"Content-Range": f"bytes {start}-{end}/{size}"}
