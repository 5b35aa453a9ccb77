"""A root file system for tests of the os task, built once a session out of this machine's packages."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from agenttuning.environments.os_interaction import rootfs
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.sandbox import Sandbox


@cache
def tree() -> Path:
    """The folder of the tree, with its manifest; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="agenttuning-test-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rootfs.build(folder / "tree", "host")
    return folder / "tree"


@contextmanager
def machine(**limits):
    """A sandbox over it."""
    sandbox = Sandbox(tree() / rootfs.TREE, Limits(**limits))
    try:
        yield sandbox
    finally:
        sandbox.close()


def bash(sandbox: Sandbox, code: str, timeout_s: float = 20.0) -> str:
    """What a fresh bash in it prints."""
    return sandbox.run(["bash", "-c", code], timeout_s).output.strip()
