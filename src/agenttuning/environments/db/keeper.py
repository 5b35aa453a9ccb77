"""Keeps one server process: ends it, and removes its folder, as soon as the process that asked for it is gone.

Run as `python keeper.py FOLDER PARENT_PID COMMAND...` with a pipe on stdin. A runner that was killed with -9 closes its
end of the pipe too; where a child of the runner still holds it open, the runner's pid tells. Standard library only.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# A last resort against a full disk: InnoDB aborts when it cannot grow a file, and all episodes end as errors. Fifteen
# statements of five seconds write less.
FILE_BYTES = 16 * 2**30
POLL_S = 0.5


def main(folder: str, parent: int, command: list[str]) -> int:
    """Run `command` until it ends, stdin closes or the parent changes. Returns its exit status, 0 when it was ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which then ends us
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    with Path(folder, "log").open("ab") as log:
        # Python ignores SIGXFSZ; so does the server then, and can say in its log what happened
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, restore_signals=False, cwd=folder
        )
    try:
        while server.poll() is None:
            readable, _, _ = select.select([0], [], [], POLL_S)
            if os.getppid() != parent or (readable and not os.read(0, 1)):
                return 0
        return server.returncode
    finally:
        server.kill()  # nothing of it is kept, so nothing has to be written out
        server.wait()
        if os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
