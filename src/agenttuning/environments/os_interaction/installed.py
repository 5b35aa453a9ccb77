"""A root file system out of the Debian packages that this machine has installed, as an archive.

dpkg knows which files each package brought. Files that nobody packed are not in it (nor is a machine's own
configuration: a configuration file is taken only as it came). What packages' own scripts would write is written here.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO

from agenttuning.errors import UserError

_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = (
    "dev", "proc", "sys", "run", "home", "mnt", "media", "opt", "srv", "boot", "var/tmp", "tmp", "root", "usr/local",
    "usr/local/bin", "usr/local/sbin", "usr/local/lib", "usr/local/share", "usr/local/etc",
)  # fmt: skip
# `su` and `useradd` ask PAM; in the sandbox root may, as in a container.
_PAM = "auth sufficient pam_rootok.so\nauth required pam_deny.so\n"
_PERMIT = "{kind} required pam_permit.so\n"


def closure(needed: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Installed packages: `needed`, those of `wanted` that are there, and all that they depend on.

    Raises UserError on a machine without dpkg, or without one of the needed.
    """
    known = _installed()
    missing = [name for name in needed if name not in known]
    if missing:
        raise UserError(
            f"the packages {', '.join(missing)} are not installed here as Debian packages; a root file system cannot "
            "be made of this machine's packages; build one with mmdebstrap (--source debian)"
        )
    found: set[str] = set()
    open_ = [*needed, *(name for name in wanted if name in known)]
    while open_:
        name = open_.pop()
        if name in found:
            continue
        found.add(name)
        open_ += [target for group in known[name] if (target := next((n for n in group if n in known), None))]
    return tuple(sorted(found))


def usable() -> bool:
    """True on a machine whose packages are Debian's."""
    return shutil.which("dpkg-query") is not None


def _installed() -> dict[str, list[list[str]]]:
    """Package -> its dependencies, each a list of alternatives; also under the names that packages provide."""
    if not usable():
        raise UserError(
            "this machine has no dpkg; its packages cannot be taken; build a root file system with mmdebstrap"
        )
    form = "${db:Status-Abbrev}\t${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    known: dict[str, list[list[str]]] = {}
    provided: dict[str, str] = {}
    for line in listed.splitlines():
        status, name, depends, provides = line.split("\t")
        if not status.startswith("ii"):
            continue
        known[name] = [[_bare(choice) for choice in group.split("|")] for group in depends.split(",") if group.strip()]
        provided |= {_bare(virtual): name for virtual in provides.split(",") if virtual.strip()}
    for virtual, name in provided.items():
        known.setdefault(virtual, [[name]])
    return known


def _bare(relation: str) -> str:
    return re.split(r"[\s:(]", relation.strip(), maxsplit=1)[0]


def archive(packages: Iterable[str], skipped: tuple[str, ...]) -> IO[bytes]:
    """A tar archive of the packages' files, owners by number."""
    files = _files(packages, skipped)
    stream = tempfile.TemporaryFile()  # noqa: SIM115  (the caller reads it)
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in _FOLDERS:
            _folder(tar, name, 0o1777 if name.endswith("tmp") else 0o700 if name == "root" else 0o755)
        for name in _LINKS:
            if Path("/", name).is_symlink():
                tar.add(f"/{name}", name, recursive=False)
        for path in files:
            tar.add(path, path.lstrip("/"), recursive=False, filter=_plain)
        written = {path.lstrip("/") for path in files}
        for path, text, mode in _made():
            if path not in written or path.startswith("etc/pam.d/common"):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), mode
                tar.addfile(entry, BytesIO(text.encode()))
        for path, target in _alternatives(written):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    stream.seek(0)
    return stream


def _files(packages: Iterable[str], skipped: tuple[str, ...]) -> list[str]:
    # dpkg names /bin/bash what lies in /usr/bin where the folders are merged.
    known = set(packages)
    form = "${Package}\t${db-fsys:Files}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    changed = _changed()
    found: dict[str, None] = {}
    package = ""
    for line in listed.splitlines():
        name, tab, rest = line.partition("\t")
        if tab:
            package, line = name, rest
        path = line.strip()
        if package not in known or path in ("", "/.") or path.startswith(skipped) or path in changed:
            continue
        parent, _, base = path.rpartition("/")
        found[f"{os.path.realpath(parent or '/').rstrip('/')}/{base}"] = None
    return sorted(path for path in found if os.path.lexists(path) and path.lstrip("/") not in _LINKS)


def _changed() -> set[str]:
    """Configuration files that are not as they came: they may hold what is only this machine's to know."""
    import hashlib

    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Conffiles}\n"], capture_output=True, text=True, check=True)
    changed = set()
    for path, digest in re.findall(r"^ (/\S+) ([0-9a-f]{32})", listed.stdout, re.MULTILINE):
        try:
            if hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest() != digest:
                changed.add(path)
        except OSError:
            changed.add(path)
    return changed


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
        return None
    entry.uname = entry.gname = ""
    if entry.isdir():
        entry.mode |= stat.S_IRWXU
    return entry


def _folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _made() -> list[tuple[str, str, int]]:
    """(path, text, mode) of what packages' scripts make when they are installed."""
    users = _read("/usr/share/base-passwd/passwd.master").replace("root:*:", "root:x:", 1)
    users = re.sub(r"^([^:\n]+):\*:", r"\1:x:", users, flags=re.MULTILINE)
    groups = re.sub(r"^([^:\n]+):\*:", r"\1:x:", _read("/usr/share/base-passwd/group.master"), flags=re.MULTILINE)
    names = [line.split(":")[0] for line in users.splitlines() if line]
    teams = [line.split(":")[0] for line in groups.splitlines() if line]
    made = [
        ("etc/passwd", users, 0o644),
        ("etc/group", groups, 0o644),
        ("etc/shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names), 0o640),
        ("etc/gshadow", "".join(f"{name}:*::\n" for name in teams), 0o640),
        ("etc/hosts", "127.0.0.1\tlocalhost\n", 0o644),
        ("etc/profile", _read("/usr/share/base-files/profile"), 0o644),
        ("etc/nsswitch.conf", _read("/usr/share/base-files/nsswitch.conf"), 0o644),
        ("root/.profile", _read("/usr/share/base-files/dot.profile"), 0o644),
        ("etc/pam.d/common-auth", _PAM, 0o644),
    ]
    made += [
        (f"etc/pam.d/common-{kind}", _PERMIT.format(kind=kind), 0o644) for kind in ("account", "session", "password")
    ]
    made.append(("etc/pam.d/common-session-noninteractive", _PERMIT.format(kind="session"), 0o644))
    return made


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _alternatives(written: set[str]) -> list[tuple[str, str]]:
    """(link, target) of sh, awk, and the alternatives that end at a file of the tree."""
    links = [] if "usr/bin/sh" in written else [("usr/bin/sh", "dash")]
    if "usr/bin/mawk" in written:
        links.append(("usr/bin/awk", "mawk"))  # the machine's awk may be one that is not in the tree
    for path in sorted(Path("/etc/alternatives").glob("*")):
        try:
            target = str(path.readlink())
        except OSError:
            continue
        final = os.path.realpath(target).lstrip("/")
        name = f"usr/bin/{path.name}"
        here = final in written and final.startswith("usr/bin/") and Path("/", name).is_symlink()
        if here and path.name != "awk":
            links += [(f"etc/alternatives/{path.name}", target), (name, f"/etc/alternatives/{path.name}")]
    return links
