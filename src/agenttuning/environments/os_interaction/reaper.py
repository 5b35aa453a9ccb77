"""What a runner that was killed left behind is found by its records and removed at the next start.

A sandbox ends by itself when its runner dies; what stays is its control groups, and at worst a process that has not
noticed. Every sandbox has a record that names its runner, its processes, each with its start time (a process id alone
may by now be somebody else's), and its control groups.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments.os_interaction.limits import Group


def folder() -> Path:
    """Where the records of this user lie. Raises OSError when somebody else owns it."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    path = Path(base) / f"agenttuning-os-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    return path


def _process_ids() -> int:
    """The namespace in which process ids mean what they mean here: a container may share the folder, not the ids."""
    return Path("/proc/self/ns/pid").stat().st_ino


def identity(pid: int) -> list | None:
    """[id, start time in clock ticks, boot] of a process: no two processes share it. None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else [pid, fields[19], boot]


PREFIX = "agenttuning-os-"  # of the control groups' names


@dataclass
class Record:
    """The record of one sandbox, on disk from the moment it has something to leave behind."""

    name: str
    groups: list[Path]

    def __post_init__(self) -> None:
        self.path = folder() / f"{self.name}.json"
        self.write()

    def write(self, *pids: int) -> None:
        """Name the sandbox's processes."""
        content = {
            "name": self.name,
            "ids of": _process_ids(),
            "runner": identity(os.getpid()),
            "processes": [identity(pid) for pid in pids],
            "groups": [str(group) for group in self.groups],
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.replace(self.path)

    def remove(self) -> None:
        """The sandbox has left nothing."""
        self.path.unlink(missing_ok=True)


def reap() -> int:
    """Remove what dead runners of this user left; the number of sandboxes that were found."""
    found = 0
    for path in sorted(folder().glob("*.json")):
        try:
            content = json.loads(path.read_text())
            runner, processes, groups = content["runner"], content["processes"], content["groups"]
            name, space = content["name"], content["ids of"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if space != _process_ids() or runner is None or identity(runner[0]) == runner:
            continue
        found += 1
        for process in processes:
            if process is not None:
                _kill(process)
        group = Group([Path(path) for path in groups if Path(path).name == f"{PREFIX}{name}"])
        group.kill()
        if group.remove():
            path.unlink(missing_ok=True)
    return found


def _kill(process: list) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process[0])
        try:
            # The descriptor holds the process; that it is the one of the record is asked after it was opened.
            if identity(process[0]) == process:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
