"""Files on their way in: which are large, where their bytes go, and the commit that makes all of them visible."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import PurePosixPath

from helpers.hub_double.repos import Answer, at, card_problems, refused, unwritable
from helpers.hub_double.state import Large, git_oid, is_large

AT_ONCE = 256  # files of one question


def preupload(asked) -> Answer:
    commit, wrong = at(asked)
    if wrong := unwritable(asked) or wrong:
        return wrong
    files, wanted = commit[2], asked.json["files"]
    if len(wanted) > AT_ONCE:
        return refused(413, None, "too many files")
    ignored = asked.json.get("gitIgnore", files.get(".gitignore", b"").decode()).split()
    told = []
    for one in wanted:
        sample, path = base64.b64decode(one["sample"]), one["path"]
        large = is_large(path, sample, one["size"], files.get(".gitattributes", b""))
        there = files.get(path)
        name = hashlib.sha256(there).hexdigest() if isinstance(there, Large) else git_oid(there or b"")
        known = {} if there is None else {"oid": name}
        mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": path in ignored}
        told.append({"path": path, **mode, **known})
    return 200, {"files": told}, {}


def batch(asked) -> Answer:
    if wrong := unwritable(asked):
        return wrong
    hub, base = asked.hub, f"{asked.hub.url}/{asked.key}.git/info/lfs"
    answers = []
    for one in asked.json["objects"]:
        if one["oid"] in hub.blobs:
            answers.append(one)
            continue
        upload = {"href": f"{hub.store}/storage/{one['oid']}?signature=canary"}
        if one["size"] > hub.multipart:
            identity = f"upload{len(hub.parts)}"
            hub.parts[identity] = {}
            count = -(-one["size"] // hub.chunk)
            places = {
                f"{number:05d}": f"{hub.store}/parts/{identity}/{number}?signature=canary"
                for number in range(1, count + 1)
            }
            header = {"chunk_size": str(hub.chunk), **places}
            upload = {
                "href": f"{hub.url}/api/complete_multipart?uploadId={identity}&signature=canary",
                "header": header,
            }
        answers.append({**one, "actions": {"upload": upload, "verify": {"href": f"{hub.verify_at or base}/verify"}}})
    return 200, {"transfer": "basic", "objects": answers}, {}


def verify(asked) -> Answer:
    if wrong := unwritable(asked):
        return wrong
    blob = asked.hub.blobs.get(asked.json["oid"])
    if blob is None or len(blob) != asked.json["size"]:
        return refused(404, None, "this file did not arrive whole")
    return 200, {}, {}


def put(asked) -> Answer:
    return _arrived(asked, asked.words["oid"], asked.body)


def put_part(asked) -> Answer:
    asked.hub.parts[asked.words["upload"]][int(asked.words["number"])] = asked.body
    return 200, b"", {"ETag": f'"{hashlib.md5(asked.body).hexdigest()}"'}


def complete(asked) -> Answer:
    parts = asked.hub.parts.get(asked.query["uploadId"][0], {})
    told = [(one["partNumber"], one["etag"]) for one in asked.json["parts"]]
    if told != [(number, f'"{hashlib.md5(part).hexdigest()}"') for number, part in sorted(parts.items())]:
        return refused(400, None, "InvalidPart")
    return _arrived(asked, asked.json["oid"], b"".join(part for _, part in sorted(parts.items())))


def _arrived(asked, oid: str, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != oid:
        return refused(400, None, "the content is not what its name says")
    asked.hub.blobs[oid] = content
    asked.hub.uploads.append(oid)
    return 200, b"", {}


def commit(asked) -> Answer:
    newest, wrong = at(asked)
    if wrong := unwritable(asked) or wrong:
        return wrong
    lines = [json.loads(line) for line in asked.body.splitlines()]
    if not lines or lines[0]["key"] != "header" or not lines[0]["value"].get("summary"):
        return refused(400, None, "the first line is the header, with a summary")
    if lines[0]["value"].get("parentCommit") not in (None, newest[0]):
        return refused(412, None, "A commit has happened since. Please refresh and try again.")
    files = dict(newest[2])
    for line in lines[1:]:
        if wrong := _apply(asked, files, line["key"], line["value"]):
            return wrong
    if errors := card_problems(files.get("README.md", b"").decode())[0]:
        return refused(400, None, errors[0])
    sha = asked.hub.add(asked.key, lines[0]["value"]["summary"], files, asked.words["revision"])
    address = f"{asked.hub.url}/{asked.key}/commit/{sha}"
    return 200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""}, {}


def _apply(asked, files: dict[str, bytes], key: str, value: dict) -> Answer | None:
    """One line of a commit; what is wrong with it, if anything."""
    path = value["path"]
    if path.startswith("/") or {"..", ".git", ""} & set(path.rstrip("/").split("/")):
        return refused(400, None, f"Invalid path: {path}")
    if key == "file":
        content = base64.b64decode(value["content"])
        if is_large(path, content, len(content), files.get(".gitattributes", b"")):
            return refused(400, None, f"{path} must be sent as a large file")
        files[path] = content
    elif key == "lfsFile":
        blob = asked.hub.blobs.get(value["oid"])
        if blob is None or len(blob) != value.get("size", len(blob)):
            return refused(400, None, f"LFS pointer pointed to a file that does not exist: {path}")
        files[path] = Large(blob)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            return refused(404, "EntryNotFound", "A file with this name doesn't exist")
    elif key == "deletedFolder":
        for name in [name for name in files if PurePosixPath(path) in PurePosixPath(name).parents]:
            del files[name]
    else:
        return refused(400, None, f"no such operation: {key}")
    return None
