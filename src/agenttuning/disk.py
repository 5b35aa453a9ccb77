"""A disk that is full is somebody's to mend, and not a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttuning.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def needs_room(folder: str | Path) -> Iterator[None]:
    """A context that raises UserError in place of the OSError of a full disk, which may name no file but `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"the disk of {error.filename or folder} is full ({error.strerror}); what comes next could not be written; "
            "what was written before is whole; make room and type the same command: it goes on from there"
        ) from error
