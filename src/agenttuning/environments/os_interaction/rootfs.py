"""Builds the root file system that sandboxes show: `python -m agenttuning.environments.os_interaction --help`.

    debian   mmdebstrap: a fresh minimal Debian or Ubuntu from this machine's own package sources, half a minute and the
             network
    host     the same kind of tree from packages that are installed on this machine: seconds, no network; what is in it
             depends on the machine. No installed file outside of packages, no configuration and no key gets in.

Both are unpacked inside the user namespace whose root will own them, so that nothing in it belongs to this machine's
root, set-user-id programs included. A tree is built beside its place and moved there whole, with a manifest.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from agenttuning.environments.os_interaction import installed
from agenttuning.environments.os_interaction.sandbox import groups_option, id_map, write_maps
from agenttuning.errors import UserError

VERSION = 1  # of what is built; an older tree is built anew
MANIFEST, TREE = "manifest.json", "root"
# What AgentBench's images add to a bare system (data/os_interaction/res/dockerfiles/default), without pip, and what its
# example scripts call. `installed` takes those of them that the machine has.
NEEDED = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils", "diffutils", "findutils",
    "grep", "gzip", "hostname", "libc-bin", "login", "mawk", "ncurses-base", "ncurses-bin", "passwd", "perl-base",
    "procps", "python3", "sed", "tar", "util-linux",
)  # fmt: skip
WANTED = ("tree", "zip", "unzip", "curl", "wget", "file", "bsdextrautils", "less", "adduser", "vim-tiny", "sudo", "git")
HOST_WANTED = ("tree", "zip", "unzip", "file", "bsdextrautils", "adduser")
SKIPPED = (
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/share/info",
    "/var/cache",
    "/usr/share/lintian",
)
# In our words, after what Ubuntu's root has: title, prompt and colours are in the observations AgentLM was trained on.
BASHRC = r"""[ -z "$PS1" ] && return
PS1='\[\e]0;\u@\h: \w\a\]\u@\h:\w\$ '
if command -v dircolors > /dev/null; then
    eval "$(dircolors -b)"
    alias ls='ls --color=auto' grep='grep --color=auto' egrep='egrep --color=auto' fgrep='fgrep --color=auto'
fi
alias ll='ls -alF' la='ls -A' l='ls -CF'
"""


@dataclass(frozen=True)
class Rootfs:
    """A built tree: `root` is its folder, `source` one of "debian" and "host"."""

    root: Path
    source: str


def cache() -> Path:
    """The user's folder for what can be built again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agenttuning"


def place(source: str) -> Path:
    """Where a tree lies when nobody says where. The owner's ids are part of it: others could not use it."""
    return cache() / f"os-{source}-v{VERSION}-{id_map()[0]}"


def find(folder: Path) -> Rootfs | None:
    """The tree in `folder`, None when there is none. Raises UserError for one that this user's sandboxes cannot own."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if manifest.get("version") != VERSION or not (folder / TREE / "usr").is_dir():
        return None
    if tuple(manifest.get("ids", ())) != id_map():
        raise UserError(
            f"{folder} belongs to ids {manifest.get('ids')}, the sandboxes of this user have {list(id_map())}; root "
            "inside would own none of its files; build one as this user: "
            "python -m agenttuning.environments.os_interaction FOLDER"
        )
    return Rootfs(folder / TREE, manifest["source"])


def build(folder: Path, source: str = "debian", mirrors: tuple[str, ...] = ()) -> Rootfs:
    """Build a tree into `folder`, or take the one that is there. Safe to call from several processes at once.

    `mirrors` are mmdebstrap's: sources files, `deb` lines or addresses; empty: this machine's own. Raises UserError
    when the packages cannot be had.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := find(folder)) is not None:
            return found
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(part, source, mirrors)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Rootfs(folder / TREE, source)


def _fill(part: Path, source: str, mirrors: tuple[str, ...]) -> None:
    part.chmod(0o755)
    tree = part / TREE
    tree.mkdir()
    if id_map()[1] > 1:
        os.chown(tree, id_map()[0], id_map()[0])
    if source == "debian":
        packages = (*NEEDED, *WANTED)
        archive = part / "packages.tar"
        _mmdebstrap(archive, packages, mirrors)
        with archive.open("rb") as stream:
            unpack(stream, tree)
        archive.unlink()
    else:
        packages = installed.closure(NEEDED, HOST_WANTED)
        unpack(installed.archive(packages, SKIPPED), tree)
    unpack(_extra(), tree)
    manifest = {"version": VERSION, "source": source, "ids": list(id_map()), "packages": list(packages)}
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _mmdebstrap(archive: Path, packages: tuple[str, ...], mirrors: tuple[str, ...]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise UserError("mmdebstrap is not here; without it no Debian tree can be built; run `make system-packages`")
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    suite = release.get("VERSION_CODENAME", "stable")
    skip = [f"--dpkgopt=path-exclude={path}/*" for path in SKIPPED]
    run = subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", *skip, suite, str(archive)]
        + list(mirrors or _sources(suite)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if run.returncode != 0:
        said = run.stdout.decode(errors="replace").strip()[-600:]
        raise UserError(
            f"mmdebstrap ended with status {run.returncode}; there is no tree to run the os task in; it said:\n{said}\n"
            "Give other package sources with --mirror, or take the packages of this machine with --source host."
        )


def _sources(suite: str) -> list[str]:
    """This machine's files of package sources that speak of its own release, and not of some other vendor's."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    word = re.compile(rf"(?<![\w-]){re.escape(suite)}(?![\w-])")
    named = [file for file in files if file.suffix in (".list", ".sources") and file.is_file()]
    return [str(file) for file in named if word.search(file.read_text(errors="replace"))]


def _extra() -> BytesIO:
    """What no package brings."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in (("root/.bashrc", BASHRC),):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, BytesIO(text.encode()))
    stream.seek(0)
    return stream


def unpack(stream, folder: Path) -> None:
    """Unpack a tar archive as root of the sandboxes' user namespace. Raises UserError when that is not possible."""
    owners = [] if id_map()[1] > 1 else ["--no-same-owner"]
    tar = ["tar", "-xpf", "-", "--numeric-owner", "--exclude=./dev/*", "--exclude=dev/*", *owners]
    enter = 'echo; read _; exec setpriv --reuid=0 --regid=0 "$@"'
    process = subprocess.Popen(
        ["unshare", "--user", "--keep-caps", "sh", "-c", enter, "sh", groups_option(), *tar],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    try:
        if process.stdout.readline():
            write_maps(process.pid)
            process.stdin.write(b"\n")
            process.stdin.flush()
            shutil.copyfileobj(stream, process.stdin, 1 << 20)
    except OSError:
        pass  # it has ended early; why, it says on stderr
    errors = process.communicate()[1].decode(errors="replace").strip()
    if process.returncode != 0:
        raise UserError(f"the root file system could not be unpacked into {folder}: {errors[-600:]}")
