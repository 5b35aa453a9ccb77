"""Keeps one server: makes it ready, ends it, and removes its folder, as soon as the process that asked for it is gone.

Run as `python keeper.py FOLDER PARENT_PID COMMANDS` with a pipe on stdin; COMMANDS is a JSON list of command lines, run
one after the other, of which the last is the server. A runner that was killed with -9 closes its end of the pipe too;
where a child of the runner still holds it open, the runner's pid tells. Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# A last resort against a full disk: InnoDB aborts when it cannot grow a file, and all episodes end as errors. Fifteen
# statements of five seconds write less.
FILE_BYTES = 16 * 2**30
POLL_S = 0.5
GONE_S = 5.0  # for the processes of a command that was killed


def main(folder: str, parent: int, commands: list[list[str]]) -> int:
    """Run the commands until one fails, stdin closes or the parent changes. Returns the last exit status, 0 when it was
    ended.
    """
    # Ctrl-C, and the SIGTERM of a batch system, which all processes get, are for the runner, which then ends us
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    status = None
    try:
        for command in commands:
            status = _run(command, folder, parent)
            if status is None or status:
                break
        return status or 0
    finally:
        # Ended: the runner, where it lives, removes it too. Failed: a living runner reads the log first.
        if status is None or os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: str, parent: int) -> int | None:
    """The command's exit status, or None when it was ended; nothing of it is left running."""
    with Path(folder, "log").open("ab") as log:
        # Python ignores SIGXFSZ; so does the server then, and can say in its log what happened
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, restore_signals=False, cwd=folder,
            process_group=0,
        )  # fmt: skip
    try:
        while process.poll() is None:
            readable, _, _ = select.select([0], [], [], POLL_S)
            if os.getppid() != parent or (readable and not os.read(0, 1)):
                return None
        return process.returncode
    finally:
        # nothing of it is kept, so nothing has to be written out; the installation is a script, whose child works
        _kill_group(process.pid)
        process.wait()
        end = time.monotonic() + GONE_S
        while time.monotonic() < end and _kill_group(process.pid):  # what still dies may still write
            time.sleep(0.01)


def _kill_group(group: int) -> bool:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
