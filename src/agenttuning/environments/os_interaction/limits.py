"""How much a sandbox may use, and who holds it to that: control groups where the machine has them, rlimits besides.

Control groups count a sandbox as a whole; an rlimit counts one process (memory, file size, CPU seconds) or one user id
inside it (processes). Without control groups many processes together may use more memory than `memory_bytes`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """Of one sandbox: processes, bytes of memory (files of the sandbox count, they live in it), bytes and number of
    files it may write, CPU seconds of one process. Not stated by the original, whose containers have none; we chose.
    """

    pids: int = 128
    memory_bytes: int = 512 * 2**20
    disk_bytes: int = 256 * 2**20
    files: int = 65536
    cpu_s: int = 120

    def rlimits(self, group: Group) -> str:
        """The rlimits as commands of dash, which are inherited; hard limits, which root of a user namespace cannot
        raise. An address space is mostly air: it gets four times the memory where a group counts the memory itself.
        """
        address_kb = self.memory_bytes // 1024 * (4 if "memory" in group.holds else 1)
        blocks = self.disk_bytes // 512
        return (
            f"ulimit -c 0; ulimit -t {self.cpu_s}; ulimit -v {address_kb}; ulimit -f {blocks}; ulimit -n 1024; "
            f"ulimit -p {self.pids}; "
        )


@dataclass(frozen=True)
class Group:
    """The control groups of one sandbox; none of them where the machine gives us none."""

    folders: list[Path] = field(default_factory=list)
    holds: frozenset[str] = frozenset()

    @property
    def join(self) -> str:
        """Commands of a shell which move it into the groups; what it starts from then on is born in them."""
        return "".join(f"echo 0 > {shlex.quote(str(folder / 'cgroup.procs'))} || exit 1; " for folder in self.folders)

    def kill(self) -> None:
        """Kill whatever is in the groups: only what the sandbox started can be."""
        for folder in self.folders:
            for pid in _members(folder):
                with contextlib.suppress(OSError):
                    descriptor = os.pidfd_open(pid)
                    try:
                        # The descriptor holds the process; that it is in the group is asked after that.
                        if pid in _members(folder):
                            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    finally:
                        os.close(descriptor)

    def remove(self, patience_s: float = 2.0) -> bool:
        """Remove the groups, whose processes must have been killed. False when one is still in use after the wait."""
        gone = [_remove(folder, patience_s) for folder in self.folders]  # each of them, also after one that failed
        return all(gone)


def open_group(name: str, limits: Limits) -> Group:
    """New control groups called `name` with the limits set, as far as the machine and our rights go."""
    folders: list[Path] = []
    holds: set[str] = set()
    for parent, settings in _places(limits):
        folder = parent / name
        try:
            folder.mkdir()
        except OSError:
            continue
        folders.append(folder)
        for guard, file, value in settings:
            with contextlib.suppress(OSError):
                (folder / file).write_text(str(value))
                holds.add(guard)
    return Group(folders, frozenset(holds))


def _places(limits: Limits) -> list[tuple[Path, list[tuple[str, str, int]]]]:
    """Folders in which a group may be made, and what is written into it, as (guard, file, value)."""
    if (CGROUPS / "cgroup.controllers").is_file():
        # Version 2: one tree; a group with processes of its own can pass no controller on, the root can.
        return [(CGROUPS, [("pids", "pids.max", limits.pids), ("memory", "memory.max", limits.memory_bytes)])]
    own = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path)
    places = []
    for guard, file, value in (
        ("pids", "pids.max", limits.pids),
        ("memory", "memory.limit_in_bytes", limits.memory_bytes),
    ):
        if guard in own and (CGROUPS / guard).is_dir():
            inside = CGROUPS / guard / own[guard].lstrip("/")
            places.append((inside if inside.is_dir() else CGROUPS / guard, [(guard, file, value)]))
    return places


def _members(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _remove(folder: Path, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            folder.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            # Killed processes leave their group a moment later.
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
