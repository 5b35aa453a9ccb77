"""The original's machines: docker containers of AgentBench's own images, through the `docker` command.

The images are the user's, built from an AgentBench checkout (data/os_interaction/res/dockerfiles). A container has the
limits of limits.py. The original's have docker's usual network, which some items need to install packages; here a model
gets one only where the user names it.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid

from agenttuning.environments.os_interaction import reaper
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.sandbox import Ran, SandboxError, run_host
from agenttuning.environments.os_interaction.shell import Shell
from agenttuning.errors import UserError

PREFIX = "local-os"  # AgentBench: configs/tasks/os.yaml, docker_config.localhost
IMAGES = ("default", "packages", "ubuntu")
LABEL = "agenttuning-os"
START_S = 120.0
NO_NETWORK = "none"
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def environment() -> dict[str, str]:
    """What the docker command needs of our environment, and nothing else of it."""
    names = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
    return {name: os.environ[name] for name in (*names, "XDG_RUNTIME_DIR") if name in os.environ} | {"TERM": "xterm"}


def network_of(asked: object) -> str:
    """The name of a docker network. Raises UserError for what is none, and for this machine's own."""
    name = NO_NETWORK if asked is None else str(asked)
    if name == "host" or not _NETWORK.fullmatch(name):
        raise UserError(
            f"network of the os task is {name!r}; a model's commands would reach this machine's own services, or no "
            "container would start; name a network of docker's, such as bridge"
        )
    return name


def _runner() -> str:
    return "/".join(map(str, reaper.identity(os.getpid()) or []))


def reap(docker: str = "docker") -> int:
    """Remove the containers whose runner on this machine has died; how many were found."""
    form = '--format={{.ID}} {{.Label "' + LABEL + '"}}'
    listed = run_host([docker, "ps", "--all", f"--filter=label={LABEL}", form], environment(), START_S).output
    found = 0
    for line in listed.splitlines():
        container, _, runner = line.partition(" ")
        pid, _, rest = runner.partition("/")
        boot = rest.rpartition("/")[2]
        # Another machine may use the same daemon: its runners have another boot id.
        if not pid.isdecimal() or boot != _runner().rpartition("/")[2]:
            continue
        if "/".join(map(str, reaper.identity(int(pid)) or [])) != runner:
            run_host([docker, "rm", "--force", container], environment(), START_S)
            found += 1
    return found


class Container:
    """A running container. Raises SandboxError when docker does not give one."""

    def __init__(
        self,
        image: str,
        limits: Limits | None = None,
        docker: str = "docker",
        host: str = "localhost",
        network: str = NO_NETWORK,
    ) -> None:
        limits = limits or Limits()
        self.docker = docker
        self.name = f"{LABEL}-{uuid.uuid4().hex[:12]}"
        limited = [
            f"--pids-limit={limits.pids}",
            f"--memory={limits.memory_bytes}",
            f"--memory-swap={limits.memory_bytes}",
            f"--ulimit=fsize={limits.disk_bytes}",
            f"--network={network}",
            f"--hostname={host}",
        ]
        self._docker(
            [
                "run",
                "--detach",
                "--rm",
                "--interactive",
                "--tty",
                f"--name={self.name}",
                f"--label={LABEL}={_runner()}",
            ]
            + [*limited, image if "/" in image else f"{PREFIX}/{image}"],
            "no container was started",
        )

    def _docker(self, arguments: list[str], lost: str) -> str:
        try:
            ran = run_host([self.docker, *arguments], environment(), START_S)
        except OSError as error:
            raise SandboxError(f"{lost}: {error}") from error
        if ran.code != 0:
            raise SandboxError(f"{lost}: docker {arguments[0]} ended with {ran.code}: {ran.output.strip()[-300:]}")
        return ran.output

    def run(self, command: list[str], timeout_s: float) -> Ran:
        """Run a fresh command in the container; raises SandboxError when the container is gone."""
        ran = run_host([self.docker, "exec", self.name, *command], environment(), timeout_s)
        if ran.code != 0 and not self.alive():
            raise SandboxError(f"the container {self.name} died during {command[0]}")
        return ran

    def shell(self) -> Shell:
        """A terminal in the container."""
        return Shell([self.docker, "exec", "-it", self.name, "bash", "--noediting", "--login"], environment())

    def alive(self, patience_s: float = 0.0) -> bool:
        """True while docker says that the container runs; it knows at once."""
        try:
            ran = run_host([self.docker, "inspect", "--format={{.State.Running}}", self.name], environment(), START_S)
        except OSError:
            return False
        return ran.code == 0 and ran.output.strip() == "true"

    def close(self) -> None:
        """Remove the container and what runs in it. Raises SandboxError when docker refuses."""
        self._docker(["rm", "--force", self.name], f"the container {self.name} may still run")


def lacking(docker: str = "docker") -> list[tuple[str, str]]:
    """(what, command that supplies it): the command, the daemon, AgentBench's images."""
    try:
        run = subprocess.run(
            [docker, "image", "ls", "--format={{.Repository}}"],
            capture_output=True, text=True, timeout=30, env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        return [("the docker command", "install Docker (docs.docker.com/engine/install)")]
    except (OSError, subprocess.TimeoutExpired) as error:
        return [(f"a docker that answers ({error})", "start the Docker daemon")]
    if run.returncode != 0:
        return [(f"a Docker daemon ({run.stderr.strip()[:200]})", "start the Docker daemon")]
    here = set(run.stdout.split())
    folder = "data/os_interaction/res/dockerfiles"
    return [
        (
            f"the image {PREFIX}/{name}",
            f"docker build -f {folder}/{name} {folder} --tag {PREFIX}/{name}  # in AgentBench",
        )
        for name in IMAGES
        if f"{PREFIX}/{name}" not in here
    ]
