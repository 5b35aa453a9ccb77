"""Builds the root file system of the os task: `python -m agenttuning.environments.os_interaction [FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agenttuning.environments.os_interaction import rootfs
from agenttuning.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Build a tree and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m agenttuning.environments.os_interaction",
        description="Build the root file system of the os task's sandboxes.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="default: a folder of the user's cache")
    parser.add_argument("--source", choices=("debian", "host"), default="debian", help="default: debian, by mmdebstrap")
    parser.add_argument("--mirror", action="append", default=[], help="package source, as mmdebstrap takes it")
    options = parser.parse_args(arguments)
    try:
        built = rootfs.build(options.folder or rootfs.place(options.source), options.source, tuple(options.mirror))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(built.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
