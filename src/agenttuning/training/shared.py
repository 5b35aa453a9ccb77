"""Whether the machines of a run see the same folder."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from agenttuning import launch
from agenttuning.errors import UserError

if TYPE_CHECKING:
    from trl import SFTConfig

WAIT_SECONDS = 60.0  # network file systems show a new file late: NFS keeps what it knows of a folder for up to a minute


def check_shared(run_dir: Path, settings: SFTConfig) -> None:
    """Raise UserError, on all processes, unless every machine sees what the main process writes to run_dir. Called by
    all processes of a run over several machines; does nothing on one.

    Each process writes its part of a checkpoint: on disks of their own the parts could never be put together again.
    """
    if launch.place() is None:
        return
    from accelerate.utils import broadcast_object_list, gather_object

    name = [f".shared.{uuid4().hex}"]
    if settings.process_index == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / name[0]).touch()
    broadcast_object_list(name)
    blind = gather_object([] if _appears(run_dir / name[0]) else [f"{socket.gethostname()}:{run_dir.absolute()}"])
    if settings.process_index == 0:
        (run_dir / name[0]).unlink()
    if blind:
        raise UserError(
            f"{blind[0]} is not the folder that the first machine writes to; each machine would keep a part of the "
            "checkpoints, and none could be resumed; put the repository or --run-dir on a file system that all share"
        )


def _appears(path: Path) -> bool:
    until = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        if path.parent.is_dir():
            next(path.parent.iterdir(), None)  # reading a folder brings news of it
    return True
