"""Folders that are whole or not there: one builder at a time, and the finished folder in place of the old one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttuning.errors import UserError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time build in a folder; a second one says so and waits. The lock ends with its process,
    however that ends. Where the file system has no locks (some network ones), nothing is locked, and that is said.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process builds in {folder}; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            print(f"{folder} cannot be locked ({error.strerror}): build there with one process only", file=sys.stderr)
        yield
    finally:
        os.close(handle)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well. Raises UserError where `out` holds something, and
    in place of an OSError.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there and not empty; it would have been overwritten; name another folder")
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"{out} could not be written: {error.strerror or error}; nothing was exported; make room or take another"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_claimed: dict[tuple[int, Path], int] = {}  # by process, since a fork inherits this table and no lock


def claim(folder: Path) -> None:
    """Make `folder` this process's own until it ends, however it ends. Raises UserError when another one has it.

    A POSIX lock on `folder`/.lock: processes forked later do not share it, and network file systems pass it on.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), folder.resolve())
    if key in _claimed:
        return
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        who = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        raise UserError(
            f"{folder} belongs to another run that is still going ({who or 'it did not say which'}); both would write "
            "to the same checkpoints; wait for it, stop it, or take another --run-dir"
        ) from error
    except OSError as error:
        print(f"{folder} cannot be locked ({error.strerror}): let one run at a time write there", file=sys.stderr)
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
    _claimed[key] = handle  # closing it, or any other handle of this file, would give the lock up


def keyed(folder: Path, key: str) -> Path:
    """`folder`, emptied unless it was made for this key."""
    file = folder / "key"
    if not file.is_file() or file.read_text(encoding="ascii", errors="replace") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file.write_text(key, encoding="ascii")
    return folder


def swap(partial: Path, folder: Path, *markers: str, what: str = "a prepared mixture") -> None:
    """Put a finished folder in place of the old one by renaming. Raises UserError when the one there has none of the
    `markers`, files that `what` has: it is somebody's, and never replaced.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed below
    if folder.exists() and any(folder.iterdir()) and not any((folder / marker).exists() for marker in markers):
        raise UserError(f"{folder} holds files that are not {what}; they would be lost; choose another folder")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlive a power cut: syncing a file does not sync its name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
