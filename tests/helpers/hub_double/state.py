"""What the Hub holds: repositories with their commits, tags and branches, large files, collections; who may do what."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

TOKEN = "hf_" + "doubleTOKENdoubleTOKENdoubleTOKEN12"  # may write, everywhere but in `closed`
READER = "hf_" + "doubleREADERdoubleREADERdoubleREADE"  # may read what TOKEN may
STRANGER = "hf_" + "doubleSTRANGERdoubleSTRANGERdoubleS"  # an account that was let in nowhere
ROLES = {TOKEN: "write", READER: "read", STRANGER: "write"}
# what the Hub writes into a new repository, shortened
ATTRIBUTES = b"".join(
    b"*.%s filter=lfs diff=lfs merge=lfs -text\n" % kind for kind in (b"parquet", b"safetensors", b"bin", b"arrow")
)
LARGEST_PLAIN = 10 * 2**20  # bytes (hf.co/docs/hub/repositories-getting-started)
DATE = "2026-01-02T03:04:05.000Z"


class Large(bytes):
    """The content of a file that is stored as a pointer to a large file."""


class Repositories(dict):
    """Models by "owner/name", datasets by "datasets/owner/name", and by "owner/name" where no model has that name."""

    def __missing__(self, name: str) -> dict:
        if name.startswith("datasets/"):
            raise KeyError(name)
        return self[f"datasets/{name}"]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. store: whether it came to the store's port."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    body: bytes
    store: bool


class Hub:
    """The state. repositories: {key: {"private", "gated", "commits": [(sha, message, {path: content})], "tags": {name:
    sha}, "branches": {name: commits}}}; the commits are those of main.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = Repositories()
        self.collections: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # {upload id: {number: bytes}}
        self.requests: list[tuple[str, str]] = []
        self.log: list[Seen] = []
        self.uploads: list[str] = []  # oids in the order of arrival
        self.fail: Callable = lambda method, path: None
        self.says = "no"
        self.url = self.store = ""
        self.verify_at = ""  # where large files are verified, if not at the Hub
        self.closed = {"forbidden"}  # namespaces that nobody may write to
        self.multipart = 64 << 20  # bytes: larger files are sent in parts of `chunk`
        self.chunk = 16 << 20
        self.lock = threading.RLock()
        self.over = threading.Event()

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name]["commits"][-1][2]

    def messages(self, name: str) -> list[str]:
        return [message for _, message, _ in self.repositories[name]["commits"]]

    def download(self, name: str, folder: Path) -> Path:
        for path, content in self.files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def make(self, name: str, private: bool, files: dict[str, bytes] | None = None, kind: str = "dataset") -> None:
        """A new repository, "owner/name", with a first commit."""
        key = name if kind == "model" else f"datasets/{name}"
        self.repositories[key] = {"private": private, "gated": False, "commits": [], "tags": {}, "branches": {}}
        self.add(key, "initial commit", files or {".gitattributes": ATTRIBUTES})

    def add(self, name: str, message: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit with exactly these files."""
        repository = self.repositories[name]
        commits = repository["commits"] if branch == "main" else repository["branches"][branch]
        sha = hashlib.sha1(f"{name} {branch} {len(commits)} {message}".encode()).hexdigest()
        commits.append((sha, message, files))
        return sha

    def history(self, key: str, revision: str) -> list[tuple] | None:
        """The commits up to a branch, tag or commit, the newest last; None when there is no such revision."""
        repository = self.repositories[key]
        lines = {"main": repository["commits"], **repository["branches"]}
        if revision in lines:
            return lines[revision]
        sha = repository["tags"].get(revision, revision)
        for commits in lines.values():
            for place, (known, *_) in enumerate(commits):
                if known == sha:
                    return commits[: place + 1]
        return None

    def sent(self) -> bytes:
        """Everything that clients sent but the Authorization headers to the Hub itself, to look for secrets in."""
        parts = []
        for one in self.log:
            hidden = () if one.store else ("authorization",)
            headers = "".join(f"{key}: {value}\n" for key, value in one.headers.items() if key not in hidden)
            parts.append(f"{one.method} {one.target}\n{headers}\n".encode() + one.body)
        return b"\n".join(parts)


def git_oid(content: bytes) -> str:
    """git's own name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(content: bytes) -> bytes:
    """What git holds in place of a large file (git-lfs.com, spec of the pointer)."""
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def described(path: str, content: bytes) -> dict:
    """A file as tree and paths-info tell it."""
    if not isinstance(content, Large):
        return {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": len(pointer(content))}
    return {"type": "file", "oid": git_oid(pointer(content)), "size": len(content), "path": path, "lfs": lfs}


def is_large(path: str, sample: bytes, size: int, attributes: bytes) -> bool:
    """Whether the Hub wants a file as a large one: by .gitattributes, by its length, or because it is no text."""
    lines = (line.split() for line in attributes.decode().splitlines())
    patterns = [words[0] for words in lines if "filter=lfs" in words]
    named = any(fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
    return size > 0 and (named or size > LARGEST_PLAIN or b"\0" in sample)
