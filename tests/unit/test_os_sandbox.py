"""The sandbox as a machine: fresh each time, root inside, and gone when its runner is."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agenttuning.environments import os_interaction as task
from agenttuning.environments.os_interaction import limits, reaper, rootfs, sandbox
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.sandbox import Sandbox, SandboxError, run_host
from agenttuning.errors import UserError
from helpers.os_machine import bash, machine, tree

SOURCES = str(Path(rootfs.__file__).parents[3])


@pytest.fixture(scope="module")
def box():
    with machine() as sandbox:
        yield sandbox


def test_two_machines_share_nothing(box):
    before = sorted(path.name for path in (tree() / "root" / "etc").iterdir())
    bash(box, "echo changed > /etc/hosts; echo new > /etc/new; rm /usr/bin/tail; useradd bob; mkdir /a")
    with machine() as other:
        assert bash(other, "cat /etc/new; id bob; ls -d /a; command -v tail") == (
            "cat: /etc/new: No such file or directory\nid: ‘bob’: no such user\n"
            "ls: cannot access '/a': No such file or directory\n/usr/bin/tail"
        ).replace("‘", "'").replace("’", "'")
    assert sorted(path.name for path in (tree() / "root" / "etc").iterdir()) == before


def test_root_inside_can_do_what_root_does(box):
    with machine() as _, pytest.raises(SandboxError):
        Sandbox(tree() / "root", host="not a name " * 20)
    assert bash(box, "id -u; hostname; pwd; echo $HOME") == f"0\n{box.name}\n/\n/root"
    if sandbox.id_map()[1] > 1:
        assert bash(box, "useradd -m eve && touch /tmp/x && chown eve /tmp/x && stat -c %U /tmp/x") == "eve"
        assert bash(box, "su eve -c 'id -un; cat /etc/shadow'").splitlines()[0] == "eve"
    assert bash(box, "find / > /dev/null && echo quiet") == "quiet"
    assert bash(box, "kill -9 -1 2> /dev/null; kill -15 1; kill -9 1; echo $(ps -o pid= -p 1)") == "1"
    assert bash(box, "echo $$ > /dev/null; (sleep 0.05 &); sleep 0.3; ps ax | grep -c defunc[t]") == "0"


def test_status_output_and_arguments(box):
    ran = box.run(["bash", "-c", 'echo "$1"; echo err >&2; exit 7', "--", "a b\n'c'"], 10)
    assert (ran.code, ran.output) == (7, "a b\n'c'\nerr\n")
    assert box.run(["bash", "-c", "kill -9 $$"], 10).code not in (0, None)
    assert box.run(["nothing-of-this-name"], 10).code == 127
    assert box.run(["cat"], 10).output == ""  # no input


def test_a_fresh_command_ends_though_it_leaves_something_behind(box):
    started = time.monotonic()
    assert box.run(["bash", "-c", "sleep 33 & echo started"], 10).output == "started\n"
    assert time.monotonic() - started < 3
    assert bash(box, "pgrep -c -f 'sleep 3[3]'") == "1"


def test_a_fresh_command_has_its_time_and_its_room(box):
    started = time.monotonic()
    assert box.run(["sleep", "60"], 0.4).code is None
    assert time.monotonic() - started < 3
    ran = box.run(["bash", "-c", "yes | head -c 30000000; echo; exit 5"], 20)
    assert (ran.code, len(ran.output)) == (5, sandbox.OUTPUT_BYTES)
    assert box.run(["printf", "a\\000b\\377"], 10).output == "ab\ufffd"


def test_it_lives_on_when_the_thread_that_started_it_ends():
    kept = []
    thread = threading.Thread(target=lambda: kept.append(Sandbox(tree() / "root")))
    thread.start()
    thread.join()
    time.sleep(0.2)
    try:
        assert bash(kept[0], "echo alive") == "alive"
    finally:
        kept[0].close()


def test_closing_leaves_nothing():
    with machine() as box:
        shell = box.shell()
        shell.run("trap '' HUP TERM; sleep 1000 & nohup sleep 1001 > /dev/null 2>&1 &")
        bash(box, "setsid sleep 1002 > /dev/null 2>&1 &")
        groups, record, pid = box.group.folders, box.record.path, box.pid
        assert record.exists()
        shell.close()
        box.close()
        assert not any(folder.exists() for folder in groups)
        assert not record.exists()
        assert reaper.identity(pid) is None
        box.close()
        assert not box.alive()
        with pytest.raises(SandboxError, match="died"):
            box.run(["true"], 1)


def test_a_dead_machine_is_an_error(box):
    with machine() as other:
        os.kill(other.pid, signal.SIGKILL)
        with pytest.raises(SandboxError, match="died"):
            other.run(["sleep", "1"], 5)
    assert bash(box, "echo untouched") == "untouched"


def test_a_machine_that_cannot_start_says_why(tmp_path):
    before = set(reaper.folder().glob("*"))
    with pytest.raises(SandboxError, match="nowhere.*nothing was started"):
        Sandbox(tmp_path / "nowhere")
    with pytest.raises(SandboxError, match="bubblewrap ended"):
        Sandbox(tmp_path)
    assert set(reaper.folder().glob("*")) == before


RUNNER = """
import sys, time
from agenttuning.environments.os_interaction.limits import Limits
from agenttuning.environments.os_interaction.sandbox import Sandbox
from pathlib import Path
box = Sandbox(Path(sys.argv[1]))
shell = box.shell()
shell.run("nohup sleep 1000 > /dev/null 2>&1 &")
box.run(["bash", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"], 10)
print(box.pid, box.name, flush=True)
time.sleep(600)
"""


def _killed_runner() -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tree() / "root")], stdout=subprocess.PIPE, text=True, env=environment
    )
    pid, name = runner.stdout.readline().split()
    runner.kill()
    runner.wait()
    runner.stdout.close()
    return int(pid), name


def _until(true, patience_s: float = 10.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_when_the_runner_is_killed_everything_goes_and_the_rest_is_reaped():
    pid, name = _killed_runner()
    assert _until(lambda: reaper.identity(pid) is None)
    record = reaper.folder() / f"{name}.json"
    groups = [Path(group) for group in json.loads(record.read_text())["groups"]]
    assert _until(lambda: not any(limits._members(group) for group in groups))
    with machine() as alive:
        assert reaper.reap() >= 1
        assert not record.exists()
        assert not any(group.exists() for group in groups)
        assert bash(alive, "echo spared") == "spared"


def test_the_reaper_kills_what_is_left_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(reaper, "folder", lambda: tmp_path)
    left, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        ours, reused = reaper.identity(left.pid), reaper.identity(other.pid)
        content = {"name": "x", "ids of": reaper._process_ids(), "runner": [left.pid, "1", "gone"], "groups": []}
        reused[1] = str(int(reused[1]) - 1)  # the same number, another start: not the process of the record
        (tmp_path / "x.json").write_text(json.dumps({**content, "processes": [ours, reused, None]}))
        (tmp_path / "own.json").write_text(
            json.dumps({**content, "runner": reaper.identity(os.getpid()), "processes": [reaper.identity(other.pid)]})
        )
        (tmp_path / "elsewhere.json").write_text(
            json.dumps({**content, "ids of": 1, "processes": [reaper.identity(other.pid)]})
        )
        (tmp_path / "torn.json").write_text("{")
        assert reaper.reap() == 1
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert {path.name for path in tmp_path.glob("*.json")} == {"own.json", "elsewhere.json", "torn.json"}
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_without_control_groups_it_says_what_holds(monkeypatch):
    monkeypatch.setattr(limits, "CGROUPS", Path("/nowhere"))
    with machine(pids=30) as box:
        assert "processes (rlimit)" in box.guards
        assert "rlimit of each process" in box.guards
        assert bash(box, "ulimit -u") == "30"
        assert bash(box, "ulimit -v") == str(Limits().memory_bytes // 1024)
        assert bash(box, "echo ok") == "ok"


def test_the_room(tmp_path):
    with task.serve("sandbox", rootfs=tree(), slots=3) as room:
        assert (room.task, room.isolation, room.slots, room.backend.comparable) == ("os", "thread", 3, False)
        assert "packages of this machine" in room.backend.label
        assert "no network" in room.backend.label
    assert task.missing("sandbox", rootfs=tree()) == []
    with pytest.raises(UserError, match="no option 'rootsf'"), task.serve("sandbox", rootsf=tree()):
        pass
    with pytest.raises(UserError, match="slots"), task.serve("sandbox", rootfs=tree(), slots="none"):
        pass
    with pytest.raises(UserError, match="no backend"):
        task.missing("podman")
    assert [backend.name for backend in task.BACKENDS] == ["docker", "sandbox"]


def test_a_machine_without_namespaces_says_so(monkeypatch):
    monkeypatch.setattr(sandbox, "_ENTER", "echo 'not permitted' >&2; exit 1")
    with (
        pytest.raises(UserError, match=r"does not let a sandbox start.*not permitted.*docker"),
        task.serve("sandbox", rootfs=tree()),
    ):
        pass


def test_what_is_missing_is_named_with_its_command(monkeypatch, tmp_path):
    for tool in ("unshare", "nsenter", "setpriv", "mount", "sh", "dpkg-query"):
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(lack.what, lack.command) for lack in task.missing("sandbox")] == [
        ("the command bwrap", "make system-packages")
    ]
    with pytest.raises(UserError, match="make system-packages"), task.serve("sandbox"):
        pass
    (tmp_path / "bwrap").symlink_to("/bin/true")
    assert task.missing("sandbox", rootfs=tree()) == []
    [lack] = task.missing("sandbox", rootfs=tmp_path / "none")
    assert lack.command == f"python -m agenttuning.environments.os_interaction {tmp_path / 'none'}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert task.missing("sandbox") == []  # one is made of this machine's packages
    (tmp_path / "dpkg-query").unlink()
    [lack] = task.missing("sandbox")
    assert lack.command == "python -m agenttuning.environments.os_interaction"


def test_a_command_of_the_host_is_bounded_too():
    started = time.monotonic()
    assert run_host(["sleep", "60"], {"PATH": os.environ["PATH"]}, 0.2).code is None
    assert time.monotonic() - started < 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_an_ordinary_user_has_a_sandbox_as_well(tmp_path):
    # A copy, and the system's own Python: this checkout may lie where the user cannot look.
    import shutil
    import tempfile

    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    base = Path(tempfile.mkdtemp(prefix="agenttuning-user-"))
    try:
        base.chmod(0o755)
        shutil.copytree(SOURCES, base / "src", ignore=shutil.ignore_patterns("__pycache__"))
        home = base / "home"
        home.mkdir()
        os.chown(home, 60700, 60700)
        code = (
            "from agenttuning.environments.os_interaction import rootfs; from pathlib import Path\n"
            "from agenttuning.environments.os_interaction.sandbox import Sandbox\n"
            f"tree = rootfs.build(Path({str(home)!r}) / 'tree', 'host')\n"
            "box = Sandbox(tree.root); print(box.guards)\n"
            "shell = box.shell(); shell.run('id -u; touch /root/a && ls /root'); print(shell.plain)\n"
            "box.run(['bash', '-c', 'echo exit > /proc/1/fd/0; exec 7<> /proc/1/fd/0; echo exit >&7'], 10)\n"
            "print(box.run(['bash', '-c', 'unshare -m true; mount -t tmpfs x /mnt; ulimit -u'], 10).output)\n"
            "shell.close(); box.close()"
        )
        ran = subprocess.run(
            ["setpriv", "--reuid=60700", "--regid=60700", "--clear-groups", python, "-B", "-c", code],
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home), "PYTHONPATH": str(base / "src")},
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert "root inside is the runner's user outside" in ran.stdout
        assert "\n0\na\n" in ran.stdout
        assert ran.stdout.count("unshare failed") == 1
        assert "128" in ran.stdout
    finally:
        shutil.rmtree(base)


def test_control_groups_of_version_two(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    group = limits.open_group("agenttuning-os-x", Limits(pids=7, memory_bytes=4096))
    assert group.folders == [tmp_path / "agenttuning-os-x"]
    assert group.holds == {"pids", "memory"}
    assert {file.name: file.read_text() for file in group.folders[0].iterdir()} == {
        "pids.max": "7",
        "memory.max": "4096",
    }
    subprocess.run(["sh", "-c", group.join + "true"], check=True)
    assert (group.folders[0] / "cgroup.procs").read_text() == "0\n"
    assert not group.remove(patience_s=0)  # in use


def test_a_machine_that_gives_no_group_is_told_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / "agenttuning-os-x").touch()  # mkdir fails, as without rights
    assert limits.open_group("agenttuning-os-x", Limits()) == limits.Group()
