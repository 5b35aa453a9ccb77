"""The docker backend: over a stand-in for the docker command that keeps what it was asked, and over a real daemon."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agenttuning.environments import os_interaction as task
from agenttuning.environments.os_interaction import containers, reaper
from agenttuning.environments.os_interaction.containers import Container
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.sandbox import SandboxError
from agenttuning.errors import UserError

# Runs what it is told to run in a container here, in a folder of its own: the tests give it harmless commands only.
STAND_IN = """#!{python} -S
import json, os, sys
home = os.path.dirname(os.path.abspath(__file__))
with open(home + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if os.path.exists(home + "/refuses") and open(home + "/refuses").read() in sys.argv[1:3]:
    sys.stderr.write("refused"); sys.exit(125)
verb, rest = sys.argv[1], sys.argv[2:]
if verb == "image":
    print(open(home + "/images").read())
elif verb == "ps":
    print(open(home + "/listed").read() if os.path.exists(home + "/listed") else "")
elif verb == "inspect":
    print("false" if os.path.exists(home + "/dead") else "true")
elif verb == "exec":
    words = rest[2:] if rest[0] == "-it" else rest[1:]
    os.chdir(home)
    os.environ["HOME"] = home
    os.execvp(words[0], words)
"""
IMAGES = "local-os/default\nlocal-os/packages\nlocal-os/ubuntu"


@pytest.fixture
def docker(tmp_path):
    program = tmp_path / "docker"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "images").write_text(IMAGES)
    return program


def _calls(docker: Path) -> list[list[str]]:
    return [json.loads(line) for line in (docker.parent / "calls").read_text().splitlines()]


def test_an_item_is_played(docker):
    item = {"id": "x", "description": "How many?", "image": "packages", "start": None, "match": None, "labels": []}
    item |= {"init": [["bash", "mkdir d && touch d/a d/b"]], "example": ["bash", "ls d | wc -l"]}
    item["check"] = [None, ["python", "import sys; sys.exit(sys.argv[1].strip() != sys.argv[2].strip())"]]
    with task.serve("docker", docker=str(docker), limits=Limits(pids=50)) as room:
        assert (room.backend.name, room.backend.comparable, room.isolation) == ("docker", False, "thread")
        assert "cannot be won" in room.backend.label
        environment = room.make(item)
        environment.reset()
        observation = environment.step(environment.oracle().action).observation
        assert observation.startswith("The output of the OS:\n\n2\r\n")
        assert environment.oracle().action == "answer: 2"
        assert environment.step("answer: 2").done
        assert environment.score() == 1.0
        environment.close()
    image, ps, run, *execs, rm = _calls(docker)
    assert (image[0], ps[0], run[0], rm[:2]) == ("image", "ps", "run", ["rm", "--force"])
    assert run[-1] == "local-os/packages"
    assert {"--detach", "--rm", "--network=none", "--pids-limit=50", f"--memory={512 * 2**20}"} <= set(run)
    name = next(word.removeprefix("--name=") for word in run if word.startswith("--name="))
    assert rm[2] == name
    assert ["exec", "-it", name, "bash", "--noediting", "--login"] in execs
    assert ["exec", name, "bash", "-c", "mkdir d && touch d/a d/b"] in execs


def test_a_network_is_the_users_word_and_never_this_machines_own(docker):
    """Three items of AgentBench's 6/new.json install sudo: without a network nobody wins them."""
    item = {"id": "x", "description": "?", "image": "default", "start": None, "init": []}
    with task.serve("docker", docker=str(docker), network="bridge") as room:
        assert room.backend.comparable and room.backend.label.endswith("network bridge")
        environment = room.make(item)
        environment.reset()
        environment.close()
    assert "--network=bridge" in next(call for call in _calls(docker) if call[0] == "run")
    for bad in ("host", "container:x", "-v", ""):
        with pytest.raises(UserError, match="no container would start"):
            task.serve("docker", docker=str(docker), network=bad).__enter__()


def test_the_environment_of_the_runner_stays_out(docker, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    container = Container("default", docker=str(docker))
    assert "canary" not in container.run(["env"], 10).output
    container.close()


def test_what_is_missing(docker, tmp_path):
    assert task.missing("docker", docker=str(docker)) == []
    (docker.parent / "images").write_text("local-os/default")
    packages, ubuntu = task.missing("docker", docker=str(docker))
    assert packages.what == "the image local-os/packages"
    assert ubuntu.command.startswith("docker build -f data/os_interaction/res/dockerfiles/ubuntu ")
    (docker.parent / "refuses").write_text("image")
    [daemon] = task.missing("docker", docker=str(docker))
    assert "refused" in daemon.what
    [command] = task.missing("docker", docker=str(tmp_path / "none"))
    assert command.what == "the docker command"
    with pytest.raises(UserError, match="docker command"), task.serve("docker", docker=str(tmp_path / "none")):
        pass


def test_a_docker_that_fails_is_an_error_of_the_environment(docker):
    (docker.parent / "refuses").write_text("run")
    with pytest.raises(SandboxError, match="refused"):
        Container("default", docker=str(docker))
    (docker.parent / "refuses").write_text("rm")
    container = Container("default", docker=str(docker))
    with pytest.raises(SandboxError, match="may still run"):
        container.close()
    (docker.parent / "dead").touch()
    assert container.run(["true"], 5).code == 0
    with pytest.raises(SandboxError, match="died"):
        container.run(["false"], 5)


def test_containers_of_dead_runners_are_removed(docker):
    boot = reaper.identity(os.getpid())[2]
    alive = "/".join(map(str, reaper.identity(os.getpid())))
    lines = [f"a 1/0/{boot}", f"b {alive}", "c 1/0/another-machine", "d ", f"e x/0/{boot}", f"f 4194305/9/{boot}"]
    (docker.parent / "listed").write_text("\n".join(lines))
    assert containers.reap(str(docker)) == 2
    assert [call[2] for call in _calls(docker) if call[0] == "rm"] == ["a", "f"]


def _daemon() -> bool:
    if shutil.which("docker") is None:
        return False
    listed = subprocess.run(["docker", "image", "ls", "-q", "local-os/default"], capture_output=True, text=True)
    return listed.returncode == 0 and bool(listed.stdout.strip())


@pytest.mark.skipif(not _daemon(), reason="no Docker daemon with the image local-os/default")
def test_a_real_container():
    container = Container("default")
    try:
        shell = container.shell()
        shell.run("cd /etc; export A=1")
        shell.run("pwd; echo $A")
        assert shell.plain == "/etc\n1"
        assert container.run(["bash", "-c", 'echo "$1"; exit 3', "--", "x"], 20).code == 3
        shell.close()
    finally:
        container.close()
    assert not container.alive()
