"""What a model might try from inside the os task's sandbox: nothing reaches the host, and nothing is left running.

The tests that use things up first show, with a small number, that the limit holds, and only then go past it.
"""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from agenttuning.environments.os_interaction import limits, reaper
from agenttuning.environments.os_interaction.limits import _members
from agenttuning.environments.os_interaction.sandbox import id_map
from helpers.os_machine import bash, machine

CANARY = "canary-7d1f0c"


@pytest.fixture(scope="module")
def box():
    os.environ["OPENAI_API_KEY"] = CANARY
    try:
        with machine() as sandbox:
            yield sandbox
    finally:
        del os.environ["OPENAI_API_KEY"]


@pytest.fixture
def shell(box):
    shell = box.shell()
    yield shell
    shell.close()


def _grouped(box) -> bool:
    return {"pids", "memory"} <= box.group.holds


def test_no_secret_of_the_runner_is_inside(box, shell):
    assert os.environ["OPENAI_API_KEY"] == CANARY
    for text in (
        bash(
            box, "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' '"
        ),
        shell.run("env; set; cat /proc/*/environ | tr '\\0' '\\n'"),
    ):
        assert CANARY not in text
        assert "PATH=" in text
    assert bash(box, "env | cut -d= -f1 | grep -v -E '^(PATH|HOME|TERM|PWD|SHLVL|_)$'") == ""


def test_files_of_the_host_are_not_there(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    tmp_path.chmod(0o755)
    for root in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/.."):
        assert CANARY not in bash(box, f"cat {root}{secret}; ls {root}{tmp_path}")
    bash(box, f"ln -s / /tmp/out; ln -s {secret} /tmp/link; mkdir -p {tmp_path}; echo changed > {secret}")
    assert CANARY not in bash(box, f"cat /tmp/link /tmp/out{secret}")
    assert secret.read_text() == CANARY
    # file descriptors of the runner; a socket cannot be opened by its path
    assert (
        bash(box, "ls -l /proc/*/fd 2>/dev/null | grep -v -E 'pipe:|/dev/|/proc/| 0 -> socket:|total|^$|^/proc'") == ""
    )


def test_no_network(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        host = socket.create_connection(("127.0.0.1", port), 2)
        host.close()
        code = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached"
        assert "reached" not in bash(box, code)
        assert "reached" not in bash(box, "exec 3<>/dev/tcp/192.0.2.1/80 && echo reached", 10)
    assert bash(box, "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '") == "lo"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0agenttuning-" + CANARY)  # an abstract name, which no file system holds back
        server.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0agenttuning-{CANARY}'); print('reached')"
        assert "refused" in box.run(["python3", "-c", connect], 10).output


def test_processes_of_the_host_are_out_of_reach(box):
    victim = subprocess.Popen(["sleep", "60"])
    try:
        assert int(bash(box, "ls -d /proc/[0-9]* | wc -l")) < 20
        bash(box, f"kill -9 {victim.pid}; kill -9 -{victim.pid}; kill -9 -1")
        trace = f"import ctypes; print(ctypes.CDLL(None).ptrace(16, {victim.pid}, 0, 0))"
        assert box.run(["python3", "-c", trace], 10).output.strip() == "-1"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_ids_inside_are_nobodys_outside(box):
    bash(box, "sleep 5 > /dev/null 2>&1 &")
    inside = [box.pid, *(_members(box.group.folders[0]) if _grouped(box) else [])]
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in inside} == {id_map()[0]}
    assert os.geteuid() != 0 or id_map()[0] > 100_000


@pytest.mark.parametrize(
    "attempt",
    [
        "python3 -c \"import ctypes; print(ctypes.CDLL(None).mount(b'x', b'/mnt', b'tmpfs', 0, 0))\"",
        "python3 -c \"import ctypes; print(ctypes.CDLL(None).mount(b'/proc/1/root', b'/mnt', None, 4096, 0))\"",
        "python3 -c \"import ctypes; print(ctypes.CDLL(None).umount2(b'/proc/tty', 2))\"",
        "python3 -c \"import ctypes; print(ctypes.CDLL(None).pivot_root(b'/tmp', b'/tmp'))\"",
        *(
            f'python3 -c "import ctypes; print(ctypes.CDLL(None).unshare({flag}))"'
            for flag in (
                "0x00020000",
                "0x10000000",
                "0x40000000",
                "0x20000000",
                "0x02000000",
                "0x08000000",
                "0x04000000",
            )
        ),
        "python3 -c \"import os; os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))\" && echo 0 || echo -1",
        "python3 -c \"import os; os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))\" && echo 0 || echo -1",
        "nsenter -t 1 -m true 2> /dev/null && echo 0 || echo -1",
        "hostname evil 2> /dev/null && echo 0 || echo -1",
        "echo 1 > /dev/made 2> /dev/null && echo 0 || echo -1",
        "{ echo '|/tmp/x' > /proc/sys/kernel/core_pattern; } 2> /dev/null && echo 0 || echo -1",
        "{ echo b > /proc/sysrq-trigger; } 2> /dev/null && echo 0 || echo -1",
        "python3 -c \"import ctypes; print(ctypes.CDLL(None).setdomainname(b'x', 1))\"",
        'python3 -c "import time; time.clock_settime(0, 0)" 2> /dev/null && echo 0 || echo -1',
        'python3 -c "import os; os.setpriority(0, 0, -20); print(0)" 2> /dev/null || echo -1',
        'python3 -c "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (999, 999)); print(0)" 2> /dev/null || echo -1',
    ],
)
def test_the_walls_cannot_be_moved(box, attempt):
    assert bash(box, attempt).splitlines()[-1] == "-1"


def test_a_set_user_id_program_gives_nothing(box):
    assert bash(
        box, "cp /usr/bin/id /tmp/sid && chmod 4755 /tmp/sid && setpriv --reuid=4000 --clear-groups /tmp/sid -u"
    ) in (
        "4000",
        # a single user id: nobody else can be become
        "setpriv: setresuid failed: Invalid argument",
        "setpriv: setgroups failed: Operation not permitted",
    )


def test_namespaces_by_another_user_inside_count_as_well(box):
    code = (
        "import ctypes, os\nl = ctypes.CDLL(None)\nl.prctl(8, 1, 0, 0, 0)\nos.setresuid(4000, 4000, 4000)\n"
        "print(l.unshare(0x10000000), l.unshare(0x10020000))"
    )
    assert box.run(["python3", "-c", code], 10).output.strip().endswith("-1 -1") or box.run(["id", "4000"], 5).code


FORKS = "import os, time\nn = 0\ntry:\n    while n < {most}:\n        if os.fork() == 0:\n            time.sleep({s}); os._exit(0)\n        n += 1\nexcept OSError:\n    pass\nprint(n)"  # noqa: E501


def test_a_fork_bomb_stays_inside():
    with machine(pids=24) as box:
        # The probe: forty processes are asked for, and fewer than twenty-four may be.
        made = int(box.run(["python3", "-c", FORKS.format(most=40, s=1)], 20).output)
        assert 5 < made < 24, "the limit on processes does not hold; the bomb is not set off"
        time.sleep(1.2)
        shell = box.shell()
        shell.run("bomb() { bomb | bomb & }; bomb", quiet_s=1, total_s=3)
        if _grouped(box):
            assert len(_members(box.group.folders[0])) <= 24
        folders = box.group.folders
        started = time.monotonic()
        shell.close()
        box.close()
        assert time.monotonic() - started < 10
        assert not any(folder.exists() for folder in folders)


def test_many_users_inside_have_one_limit_without_control_groups(monkeypatch):
    monkeypatch.setattr(limits, "CGROUPS", Path("/nowhere"))
    with machine(pids=24) as box:
        as_user = "setpriv --reuid=$user --clear-groups" if id_map()[1] > 1 else ""
        code = f'for user in 4000 4001 4002; do {as_user} python3 -c "$0" & done; wait'
        made = box.run(["bash", "-c", code, FORKS.format(most=40, s=2)], 20).output.split()
        assert 5 < sum(map(int, made)) < 24


def test_threads_count_as_processes():
    with machine(pids=24) as box:
        code = (
            "import threading, time\nn = 0\ntry:\n    while n < 60:\n"
            "        threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); n += 1\n"
            "except RuntimeError:\n    pass\nprint(n)"
        )
        assert int(box.run(["python3", "-c", code], 20).output.splitlines()[-1]) < 24


def test_a_memory_bomb_kills_itself_only():
    size = 96 * 2**20
    with machine(memory_bytes=size, disk_bytes=48 * 2**20) as box:
        grow = (
            "x = []\nwhile len(x) < {most}:\n    x.append(bytearray(2**20)); x[-1][::4096] = b'1' * 256\nprint('grown')"
        )
        # The probe: twice the limit, no more.
        assert "grown" not in box.run(["python3", "-c", grow.format(most=2 * size // 2**20)], 30).output
        shell = box.shell()
        output = shell.run(f'python3 -c "{grow.format(most=10**6)}"', quiet_s=20, total_s=25)
        assert "grown" not in output
        shell.run("echo alive")
        assert shell.plain == "alive"
        shell.close()
        if _grouped(box):
            # many processes, each within its own limit
            part = "x = bytearray(40 * 2**20); x[::4096] = b'1' * 10240; import time; time.sleep(2); print('held')"
            held = bash(box, f'for i in 1 2 3 4 5 6; do python3 -c "{part}" 2> /dev/null & done; wait', 30)
            assert held.splitlines().count("held") < 3
            # files in memory count as memory
            assert bash(box, "head -c 40M /dev/zero > /dev/shm/a 2> /dev/null; stat -c %s /dev/shm/a") == str(
                16 * 2**20
            )
        assert bash(box, "echo alive") == "alive"


def test_the_disk_can_be_filled_only_so_far():
    with machine(disk_bytes=8 * 2**20, files=500) as box:
        assert "No space left" in bash(box, "for i in 1 2 3; do head -c 5M /dev/zero > /tmp/f$i; done")
        assert int(bash(box, "du -sm --apparent-size /tmp | cut -f1")) <= 9
        bash(box, "rm /tmp/f*")
        assert "No space left" in bash(box, "cd /tmp && for i in $(seq 600); do echo > n$i; done 2>&1 | tail -1")
        bash(box, "rm /tmp/n*")
        assert bash(box, "echo back > /tmp/x && cat /tmp/x") == "back"


def test_a_gigabyte_of_output_costs_seconds_and_little_memory(box, shell):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    output = shell.run("head -c 1G /dev/zero | tr '\\0' x", total_s=10)
    assert set(output[:1000]) == {"x"}
    assert len(output) <= 2**16
    assert len(box.run(["bash", "-c", "head -c 200M /dev/zero | tr '\\0' x"], 10).output) == 100_000
    assert time.monotonic() - started < 25
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    shell.run("echo alive")
    assert shell.plain == "alive"


def test_sleeping_for_ever(box, shell):
    started = time.monotonic()
    assert shell.run("sleep infinity", quiet_s=0.3) == ""
    assert box.run(["sleep", "infinity"], 0.3).code is None
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "code",
    [
        "exec < /dev/null",
        "exec 0<&- 1>&- 2>&-",
        "exec > /tmp/somewhere 2>&1",
        "exec cat",
        "kill -STOP $$",
        "kill -SEGV $$",
        "disown -a; exit",
        "printf '\\e]778;%s\\a' $__mark; exec sleep 100",
        "stty 0; stty intr ^- quit ^- susp ^-; cat",
        "unset __mark __code __status; PROMPT_COMMAND='exit'",
        "cat > /dev/tty < /dev/zero & wait",
    ],
)
def test_a_terminal_that_is_wrecked_is_replaced(box, code):
    shell = box.shell()
    started = time.monotonic()
    shell.run(code, quiet_s=0.3, total_s=2)
    for _ in range(3):
        shell.run("echo alive", quiet_s=0.3, total_s=2)
        if shell.plain == "alive":
            break
    assert shell.plain == "alive"
    assert time.monotonic() - started < 20
    shell.close()
    bash(box, "kill -9 -1 2> /dev/null")


def test_commands_that_were_replaced_run_inside(box, tmp_path):
    """What enters the sandbox next may be the model's program: it has the sandbox's rights, and no more."""
    with machine() as other:
        proof = tmp_path / "proof"
        tmp_path.chmod(0o777)
        bash(other, f"printf '#!/bin/dash\\necho mine; echo x > {proof}; exit 0\\n' > /tmp/b; chmod +x /tmp/b")
        bash(other, "mv /usr/bin/bash /usr/bin/real; cp /tmp/b /usr/bin/bash; cp /tmp/b /usr/bin/setsid")
        assert other.run(["bash", "-c", "exit 1"], 10).output.startswith("mine")
        assert not proof.exists()
        # the runner's own tools cannot be written through /proc/self/exe
        assert other.run(["ln", "-sf", "/proc/self/exe", "/usr/bin/bash"], 10).code == 0
        assert other.run(["bash", "-c", "true"], 10).code != 0
    assert Path("/usr/bin/nsenter").stat().st_mode & 0o022 == 0


@pytest.mark.parametrize(
    "attempt",
    [
        "echo 'exit' > /proc/1/fd/0",
        "exec 7<> /proc/1/fd/0; echo exit >&7",
        "cat /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2",
        "echo spoken > /proc/1/fd/1; echo spoken > /proc/1/fd/2",
        "exec 7>&0 8< /proc/1/fd/1; sleep 1000 &",
    ],
)
def test_the_line_to_process_one_is_the_runners(attempt):
    with machine() as box:
        shell = box.shell()
        shell.run(attempt, quiet_s=0.3)
        bash(box, f"setsid sh -c '{{ {attempt.replace(chr(39), '')}; }}; exec sleep 1000' > /dev/null 2>&1 &")
        assert bash(box, "echo alive") == "alive"
        pid = box.pid
        box.line.close()  # as when the runner dies
        deadline = time.monotonic() + 5
        while reaper.identity(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert reaper.identity(pid) is None
        shell.close()


def test_debugging_process_one_ends_the_episode_as_an_error_not_as_a_score():
    """Root inside may trace process 1, as in a container of the original's; the machine dies, and that is said."""
    from agenttuning.environments.os_interaction.sandbox import SandboxError

    code = (
        "import ctypes\nl = ctypes.CDLL(None)\nl.ptrace(16, 1, 0, 0)\nimport os\nos.waitpid(1, 0)\nl.ptrace(8, 1, 0, 0)"
    )
    with machine() as box:
        try:
            box.run(["python3", "-c", code], 5)
        except SandboxError as error:
            assert "died" in str(error)
        pid = box.pid
        box.close()
        assert reaper.identity(pid) is None
