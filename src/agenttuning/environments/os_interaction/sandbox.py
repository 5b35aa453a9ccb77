"""One small Linux in a sandbox: bubblewrap over an overlay, whose writes live in memory and end with it.

How it is built, in two user namespaces, so that root inside is nobody outside and cannot unbuild it:

    outer   made by `unshare`; owns the mounts, the process ids and the (empty) network. The overlay is mounted here
            over the read-only root file system, then bubblewrap makes the rest and starts process 1, which waits for
            the end of a line that the runner holds: when the runner dies, however it dies, so does everything inside.
    inner   where process 1 and all commands run, as its root: it may chown, useradd and kill inside, and has no power
            over mounts and network, which belong to the outer one. Further namespaces cannot be made.

When the runner is root, root inside is user BASE outside, one of a range of ids that nobody has, so that `useradd`
works. Else root inside is the runner's own user id, the only one there is: files of other owners cannot be made, and
the file system alone keeps the runner's files away. Commands enter with `nsenter`, so that their exit status is the
kernel's word, not that of a process inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from agenttuning.environments.os_interaction import reaper
from agenttuning.environments.os_interaction.limits import Group, Limits, open_group
from agenttuning.environments.os_interaction.shell import Shell

BASE, IDS = 0x00500000, 65536  # above the ranges of Debian's useradd (from 100000, 65536 each) for 80 users
TOOLS = ("bwrap", "unshare", "nsenter", "setpriv", "mount", "sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "TERM": "xterm"}
SHELL = ("setsid", "-c", "bash", "--noediting", "--login")  # setsid: a session of its own, for Ctrl-C
BOOT_S = 30.0
OUTPUT_BYTES = 100_000  # of one fresh command; it may become an argument of the next, and the kernel takes 128 KiB
SHM_BYTES = 16 * 2**20

# Until `read` returns, the runner writes the id maps. The working directory is the root file system: the ids inside may
# not be allowed to walk to it. bubblewrap is not exec'd: what it dies with has to be this script, not the thread of the
# runner that happened to start it.
_ENTER = 'echo; read _; exec setpriv --reuid=0 --regid=0 "$0" sh -c "$@"'
_BUILD = """set -e
mount -t tmpfs -o size=$1,nr_inodes=$2,mode=755 tmpfs /tmp
mkdir /tmp/upper /tmp/work /tmp/root
mount -t overlay -o lowerdir=.,upperdir=/tmp/upper,workdir=/tmp/work,userxattr overlay /tmp/root
ulimit -p $9  # of the one who makes a user namespace: holds all users in it together
unshare --user sh -c 'echo; exec sleep 100' > /tmp/ready &
while ! [ -s /tmp/ready ]; do kill -0 $!; sleep 0.001; done
echo "0 0 $3" > /proc/$!/uid_map
echo "0 0 $3" > /proc/$!/gid_map
cd /proc/sys/user
for kind in user cgroup time; do echo 0 > max_${kind}_namespaces; done
for kind in pid net ipc uts; do echo 1 > max_${kind}_namespaces; done
echo $8 > max_mnt_namespaces
exec 9< /proc/$!/ns/user
kill $!
bwrap --die-with-parent --bind /tmp/root / --proc /proc --size 4096 --tmpfs /proc/tty --remount-ro /proc/tty \
  --dev /dev --size $4 --tmpfs /dev/shm --remount-ro /dev \
  --unshare-pid --unshare-net --unshare-ipc --unshare-uts --hostname $5 --clearenv --setenv PATH "$6" --chdir / \
  --info-fd $7 --as-pid-1 nsenter --user=/proc/self/fd/9 --preserve-credentials sh -c 'exec bash 9<&-'
exit $?
"""


class SandboxError(RuntimeError):
    """The sandbox itself failed: nothing is said about the model."""


@dataclass(frozen=True)
class Ran:
    """A fresh command's exit status (None: it ran past its time) and the beginning of stdout and stderr together."""

    code: int | None
    output: str


def id_map() -> tuple[int, int]:
    """(first id outside, number of ids) that are ids 0, 1, ... inside."""
    return (BASE, IDS) if os.geteuid() == 0 else (os.geteuid(), 1)


def write_maps(pid: int) -> None:
    """Give the user namespace of a process its ids."""
    first, count = id_map()
    folder = Path("/proc") / str(pid)
    if count == 1:
        (folder / "setgroups").write_text("deny")
    (folder / "uid_map").write_text(f"0 {first} {count}\n")
    (folder / "gid_map").write_text(f"0 {first if count > 1 else os.getegid()} {count}\n")


def groups_option() -> str:
    """The option of setpriv that leaves no group of the runner where that can be done."""
    return "--clear-groups" if id_map()[1] > 1 else "--keep-groups"


class Sandbox:
    """A running sandbox over `rootfs` (a folder made by rootfs.py), which calls itself `host`.

    Raises SandboxError when it cannot be started.
    """

    def __init__(self, rootfs: Path, limits: Limits | None = None, host: str | None = None) -> None:
        self.limits = limits or Limits()
        self.name = uuid.uuid4().hex[:12]
        self.host = host or self.name
        self.group: Group = open_group(reaper.PREFIX + self.name, self.limits)
        self.record = reaper.Record(self.name, self.group.folders)
        self.first: int | None = None  # a descriptor of process 1
        self.process: subprocess.Popen | None = None
        # What process 1 waits on. A socket: a pipe could be opened by its path in /proc from inside, and be kept open
        # when we are dead.
        self.line, theirs = socket.socketpair()
        try:
            with theirs:
                self._start(rootfs, theirs)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | ValueError | KeyError):
                raise SandboxError(f"a sandbox over {rootfs} could not be started: {error}") from error
            raise

    def _start(self, rootfs: Path, theirs: socket.socket) -> None:
        count = id_map()[1]
        read, low = os.pipe()
        write = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 10)  # the script uses 9 itself
        os.close(low)
        numbers = (self.limits.disk_bytes, self.limits.files, count, SHM_BYTES, self.host, PATH, write)
        # The mounts of the outer namespace count as well when it is our own user who makes them.
        numbers += (1 if count > 1 else 2, self.limits.pids)
        inside = ["unshare", "--user", "--mount", "--keep-caps", "sh", "-c", _ENTER, groups_option(), _BUILD, "sh"]
        try:
            self.process = subprocess.Popen(
                ["sh", "-c", self.group.join + 'exec "$@"', "sh", *inside, *map(str, numbers)],
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=rootfs,
                env=ENVIRONMENT,
                pass_fds=[write],
                start_new_session=True,
            )
            theirs.close()
            os.close(write)
            write = None
            deadline = time.monotonic() + BOOT_S
            self._line(deadline)
            write_maps(self.process.pid)
            self._say()
            told = _until_closed(read, deadline)
            self.pid = json.loads(told)["child-pid"]
            self.first = os.pidfd_open(self.pid)
            self.record.write(self.process.pid, self.pid)
            # Process 1 reads its commands from us; that it answers says that the mounts are in place.
            self._say("echo")
            self._line(deadline)
        except (SandboxError, ValueError, OSError) as error:
            raise SandboxError(f"{error}; {self._errors()}") from error
        finally:
            os.close(read)
            if write is not None:
                os.close(write)
        with contextlib.suppress(OSError):
            # Out of memory inside shall kill what used it up.
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("-1000")

    def _say(self, line: str = "") -> None:
        self.line.sendall(line.encode() + b"\n")

    def _line(self, deadline: float) -> str:
        line = b""
        while not line.endswith(b"\n"):
            if not _ready(self.process.stdout.fileno(), deadline):
                raise SandboxError(f"not ready after {BOOT_S:.0f} s")
            byte = os.read(self.process.stdout.fileno(), 1)
            if not byte:
                raise SandboxError("it ended while it was being built")
            line += byte
        return line.decode().strip()

    def _errors(self) -> str:
        if self.process is None:
            return "nothing was started"
        stderr = self.process.stderr.fileno()
        return os.read(stderr, 2000).decode(errors="replace").strip() if _ready(stderr, time.monotonic() + 0.2) else ""

    @property
    def guards(self) -> str:
        """What holds this sandbox, in one line."""
        first, count = id_map()
        who = f"root inside is user {first} outside" if count > 1 else "root inside is the runner's user outside"
        pids = "control group" if "pids" in self.group.holds else "rlimit"
        memory = "control group" if "memory" in self.group.holds else "rlimit of each process"
        return (
            f"{who}, no network, {self.limits.pids} processes ({pids}), {self.limits.memory_bytes >> 20} MB of memory "
            f"({memory}), {self.limits.disk_bytes >> 20} MB of files"
        )

    def alive(self, patience_s: float = 0.0) -> bool:
        """True while process 1 runs, and for `patience_s` more: it is the last to be seen dead."""
        return self.first is not None and not _ready(self.first, time.monotonic() + patience_s)

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` inside as root, in a shell-free way."""
        if not self.alive():
            raise SandboxError(f"the sandbox {self.name} has died")
        enter = ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--user"]
        if id_map()[1] > 1:
            enter += ["-S", "0", "-G", "0", "--", *command]
        else:
            # Power over the outer namespace first: without it nothing of it may be entered.
            outer = ["nsenter", "-t", str(self.process.pid), "--user", "--preserve-credentials", "--"]
            enter = [*outer, *enter, "--preserve-credentials", "--", *command]
        return ["sh", "-c", self.group.join + self.limits.rlimits(self.group) + 'exec "$@"', "sh", *enter]

    def run(self, command: list[str], timeout_s: float) -> Ran:
        """Run a fresh command, without input, and wait for its end; what it leaves in the background stays.

        Raises SandboxError when the sandbox dies of it or cannot be entered.
        """
        ran = run_host(self.argv(*command), ENVIRONMENT, timeout_s)
        if not self.alive(0.5 if ran.code in (None, -signal.SIGKILL) else 0.0):
            raise SandboxError(f"the sandbox {self.name} died during {command[0]}")
        return ran

    def shell(self) -> Shell:
        """A terminal with a login shell, as a container gives it."""
        return Shell(self.argv(*SHELL), ENVIRONMENT)

    def kill(self) -> None:
        """Kill everything inside; may be called from another thread while something runs there. `close` must follow."""
        if self.first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first, signal.SIGKILL)

    def close(self) -> None:
        """Kill everything inside and remove what it held. May be called twice."""
        self.line.close()
        self.kill()
        if self.process is not None:
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
            self.process = None
        if self.first is not None:
            os.close(self.first)
            self.first = None
        self.group.kill()
        if self.group.remove():
            self.record.remove()


def run_host(argv: list[str], environment: dict[str, str], timeout_s: float) -> Ran:
    """Run a command line without input, keep the beginning of its output, kill it after `timeout_s` seconds."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    ended = os.pidfd_open(process.pid)
    kept, pipe, deadline = bytearray(), process.stdout.fileno(), time.monotonic() + timeout_s
    os.set_blocking(pipe, False)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000))
            # Its end first, then the rest of its output: a process left behind may hold the pipe open for ever.
            over = ended in ready
            if pipe in ready and not _drain(pipe, kept):
                poll.unregister(pipe)
            if over:
                while _ready(pipe, 0) and _drain(pipe, kept) and time.monotonic() < deadline:
                    pass
                return Ran(process.wait(), _text(kept))
        return Ran(None, _text(kept))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        os.close(ended)


def _drain(pipe: int, kept: bytearray) -> bool:
    try:
        piece = os.read(pipe, 65536)
    except BlockingIOError:
        return True
    kept += piece[: max(0, OUTPUT_BYTES - len(kept))]
    return bool(piece)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").replace("\0", "")


def _ready(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _until_closed(descriptor: int, deadline: float) -> bytes:
    data = b""
    while b"}" not in data:
        if not _ready(descriptor, deadline):
            raise SandboxError(f"not ready after {BOOT_S:.0f} s")
        piece = os.read(descriptor, 4096)
        if not piece:
            raise SandboxError("bubblewrap ended while it was starting")
        data += piece
    return data


def lacking() -> list[str]:
    """The tools of TOOLS that this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]
