"""AgentBench's os_interaction: a problem on a Linux machine, solved at its terminal.

environment.py says what the actions are, checks.py how an episode is judged, records.py how AgentBench's items are
read, practice.py what our own are. Backends:

    docker    containers of AgentBench's own images; the real thing
    sandbox   bubblewrap over a root file system of rootfs.py: no daemon, 20 ms a start

Options of `serve`: `rootfs` (a folder built by rootfs.py), `docker` (the command), `network` (of its containers: none
unless named, and without one a few items cannot be won), `limits`, `slots`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttuning.environments import Backend, Missing, Room, backend_of
from agenttuning.environments.os_interaction import containers, installed, reaper, records, rootfs, sandbox
from agenttuning.environments.os_interaction.containers import Container
from agenttuning.environments.os_interaction.environment import Environment
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.practice import items
from agenttuning.environments.os_interaction.sandbox import Sandbox
from agenttuning.errors import UserError

__all__ = ["BACKENDS", "BENCHMARK", "NAME", "Environment", "items", "load", "missing", "playable", "serve"]

NAME = "os"
BENCHMARK = "AgentBench os_interaction"
BACKENDS = (
    Backend("docker", "AgentBench's docker images, with a network (os.network=bridge) as theirs", comparable=True),
    Backend("sandbox", "bubblewrap sandbox on a Debian root file system", comparable=False),
)
MAX_SLOTS = 64  # a machine in use has five processes and 3 MB of its own; it may use 512 MB


def load(path: str | Path, checkout: str | Path | None = None) -> list[dict]:
    """AgentBench's items from a file, a folder or a checkout; `checkout` has the scripts when `path` has not.

    An item whose scripts are not there has `unplayable`, the reason; see `playable`. Raises UserError for no items.
    """
    return records.load(Path(path), None if checkout is None else Path(checkout))


# `limits`, a Limits, is for callers in Python.
OPTIONS = {"docker": ("docker", "network", "slots"), "sandbox": ("rootfs", "slots")}


def playable(loaded: list[dict]) -> tuple[list[dict], dict[str, str]]:
    """The items that can be played, and {id: reason} of those that cannot, to be reported with every score."""
    return [i for i in loaded if "unplayable" not in i], {i["id"]: i["unplayable"] for i in loaded if "unplayable" in i}


def missing(backend: str, **where) -> list[Missing]:
    """What this machine lacks for a backend. Raises UserError for an unknown backend."""
    if backend_of(NAME, BACKENDS, backend).name == "docker":
        return [Missing(*lack) for lack in containers.lacking(where.get("docker", "docker"))]
    if sys.platform != "linux":
        return [Missing("Linux, whose namespaces the sandbox is made of", "use the docker backend")]
    lacks = [Missing(f"the command {tool}", "make system-packages") for tool in sandbox.lacking()]
    if not Path("/proc/self/ns/user").exists():
        lacks.append(Missing("user namespaces", "a kernel that has them, or the docker backend"))
    named = where.get("rootfs")
    if not lacks and _tree(named) is None and (named is not None or not installed.usable()):
        where_to = "" if named is None else f" {named}"
        lacks.append(Missing("a root file system", f"python -m agenttuning.environments.os_interaction{where_to}"))
    return lacks


def _tree(where: str | Path | None) -> rootfs.Rootfs | None:
    """The root file system to use: the one that is named, else Debian's from the cache, else this machine's."""
    if where is not None:
        return rootfs.find(Path(where))
    return rootfs.find(rootfs.place("debian")) or rootfs.find(rootfs.place("host"))


@contextmanager
def serve(backend: str, **where) -> Iterator[Room]:
    """The room of a backend. When no root file system is named and none was built, one is made of this machine's
    packages, which takes some seconds once.

    Raises UserError when the machine lacks something, and for an unknown option.
    """
    chosen = backend_of(NAME, BACKENDS, backend)
    if unknown := set(where) - {*OPTIONS[backend], "limits"}:
        raise UserError(f"os in {backend} has no option {min(unknown)!r}; it would have no effect; remove it")
    if lacks := missing(backend, **where):
        needs = "; ".join(f"{lack.what}: {lack.command}" for lack in lacks)
        raise UserError(f"the os task cannot be played with {backend}, as this machine lacks {needs}")
    limits, slots = where.get("limits") or Limits(), _slots(where.get("slots"))
    if chosen.name == "docker":
        docker, network = where.get("docker", "docker"), containers.network_of(where.get("network"))
        containers.reap(docker)
        label = f"AgentBench's docker images, network {network}"
        if network == containers.NO_NETWORK:
            label += ": items that install packages cannot be won"
        chosen = replace(chosen, label=label, comparable=network != containers.NO_NETWORK)
        yield _room(chosen, lambda image, host: Container(image, limits, docker, host, network), slots)
        return
    reaper.reap()
    tree = _tree(where.get("rootfs")) or rootfs.build(rootfs.place("host"), "host")
    try:
        probe = Sandbox(tree.root, limits)
    except sandbox.SandboxError as error:
        raise UserError(
            f"this machine does not let a sandbox start: {error}; the os task cannot be played; allow user namespaces "
            "(sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu), or use the docker backend"
        ) from error
    try:
        origin = "a minimal Debian" if tree.source == "debian" else "packages of this machine"
        chosen = replace(chosen, label=f"bubblewrap sandbox on {origin}: {probe.guards}")
    finally:
        probe.close()
    yield _room(chosen, lambda _image, host: Sandbox(tree.root, limits, host), slots)


def _room(backend: Backend, boot: Callable[[str, str], Any], slots: int) -> Room:
    return Room(NAME, backend, lambda item: Environment(item, boot), "thread", slots)


def _slots(asked: int | str | None) -> int:
    """Machines at once; unasked 16 a processor: an episode keeps its machine while it waits for the model."""
    if asked is None:
        return min(MAX_SLOTS, 16 * len(os.sched_getaffinity(0)))
    if not str(asked).isdecimal() or int(asked) < 1:
        raise UserError(f"slots of the os task is {asked!r}; no machine could be started; give a number from 1 on")
    return int(asked)
