"""What foreign code can do in the sandbox, and that no trick but the right values makes it pass."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agenttuning import sandbox
from agenttuning.sandbox import Limits, SandboxError, run_functions, same

CASES = [[0, 2], [1, 5], [12, 38]]  # x * 3 + 2
LEVELS = ["as started", "ordinary user", "no syscall filter"]
PATHS = [str(Path.home()), "/etc/passwd", __file__, "/proc/self/environ", ".", "/dev/null"]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch, tmp_path) -> str:
    """Each level of protection that a machine may have."""
    if request.param == "ordinary user":
        monkeypatch.setattr(sandbox, "user_id", lambda: None)
    if request.param == "no syscall filter":
        child = tmp_path / "child.py"
        source = sandbox.CHILD.read_text()
        assert source.count('"x86_64": (') == source.count('"aarch64": (') == 1
        child.write_text(source.replace('"x86_64": (', '"x": (').replace('"aarch64": (', '"a": ('))
        monkeypatch.setattr(sandbox, "CHILD", child)
    return request.param


def one(code: str, cases=CASES, **limits) -> sandbox.Verdict:
    return run_functions([(code, "f", cases)], 1, Limits(**limits))[0]


def value_of(body: str) -> sandbox.Verdict:
    """Of a function without arguments that is to return "yes"."""
    return one("def f():\n" + "".join(f"    {line}\n" for line in body.splitlines()), [["yes"]])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("def f(x): return x * 3 + 2", "passed"),
        ("f = lambda x: 2 + 3 * x", "passed"),
        ("def f(x): return float(x * 3 + 2)", "passed"),
        ("import math\nfrom collections import Counter\ndef f(x): return math.floor(x * 3 + 2.5)", "passed"),
        ("def f(x): return x * 3 + 1", "wrong"),
        ("def f(x): return str(x * 3 + 2)", "wrong"),
        ("def f(x): return x * 3 + 2 if x < 9 else 0", "wrong"),
        ("def f(x): return None", "wrong"),
        ("def f(x): return 1 // 0", "error"),
        ("def g(x): return x * 3 + 2", "error"),
        ("f = 3", "error"),
        ("def f(x) return 2", "error"),
        ("", "error"),
        ("\ud800", "error"),
        ("\0", "error"),
        ("(" * 100_000, "error"),
        ("def f(x): return object()", "error"),
        ("def f(x): return f(x)", "error"),
        ("def f(x): return 10 ** 5000", "error"),
        ("def f(x): return 10 ** 400", "wrong"),
        ("def f(x): return float('nan')", "output"),
        ("def f(x):\n y = []\n y.append(y)\n return y", "error"),
    ],
)
def test_verdicts(code, status) -> None:
    assert one(code).status == status
    assert one(code).passed == (status == "passed")


def test_a_batch_keeps_its_order_and_states_the_guards() -> None:
    jobs = [(f"def f(x): return x + {k % 3}", "f", [[1, 1]]) for k in range(9)]
    verdicts = run_functions(jobs, workers=3)
    assert [verdict.passed for verdict in verdicts] == [k % 3 == 0 for k in range(9)]
    assert {verdict.guards.split("+")[0] for verdict in verdicts} == {"limits"}
    if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
        assert all(verdict.guards.endswith("syscalls") for verdict in verdicts)
    assert ("user" in verdicts[0].guards) == (os.geteuid() == 0)


@pytest.mark.parametrize(
    "code",
    [
        "print('passed', flush=True)\nimport sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import os\nos.write(1, b'{\"values\":[true,true,true]}')\nos._exit(0)",
        "import os\nos.write(1, b'ready limits\\n{\"values\":[1,1,1]}')\nos._exit(0)",
        'import os\nos.write(1, b\'{"passed":true,"status":"passed"}\')\nos._exit(0)',
        "import os\nos.close(1)\ndef f(x): return 3",
        "class A(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef f(x): return A(1)",
        "class A:\n  def __eq__(s, o): return True\ndef f(x): return A()",
        "class A(list):\n  def __len__(s): return 3\ndef f(x): return A()",
        "import builtins\nbuiltins.repr = lambda v: '2'\nbuiltins.type = lambda v: int\ndef f(x): return 7",
        "import sys\nm = sys.modules['__main__']\nm.dump = lambda *a: '[2,5,38]'\ndef f(x): return 7",
        "import sys\nm = sys.modules['__main__']\nm.same = m.answer = lambda *a: True\ndef f(x): return 7",
        "def f(x):\n  import sys\n  g = sys._getframe(1).f_locals\n  return g.get('wanted') or g.get('cases') or 7",
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "def f(x): raise GeneratorExit",
    ],
)
def test_no_verdict_is_forged(code, level) -> None:
    assert not one(code).passed


def test_the_wanted_values_never_reach_the_child(monkeypatch) -> None:
    seen = []
    exchange = sandbox._exchange
    monkeypatch.setattr(sandbox, "_exchange", lambda payload, limits: seen.append(payload) or exchange(payload, limits))
    assert one("def f(x): return 'the wanted value'", [[1, "the wanted value"], [2, "another"]]).status == "wrong"
    assert seen and b"another" not in seen[0]


@pytest.mark.parametrize("body", ["while True: pass", "for _ in iter(int, 1): x = 2 ** 100_000"])
def test_an_infinite_loop_ends(body, level) -> None:
    start = time.monotonic()
    assert one(f"def f(x):\n  {body}", cpu_s=1).status == "timeout"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("body", ["import signal\n  signal.signal(signal.SIGXCPU, signal.SIG_IGN)", "pass"])
def test_ignoring_the_signal_does_not_help(body) -> None:
    start = time.monotonic()
    verdict = one(f"def f(x):\n  {body}\n  while True: pass", cpu_s=1)
    assert (verdict.passed, time.monotonic() - start < 6) == (False, True)


def test_a_child_that_waits_is_ended_by_the_clock(level) -> None:
    source = "import time\ndef f(x):\n  time.sleep(60)\n  return x * 3 + 2"
    start = time.monotonic()
    # the filter refuses to sleep
    assert one(source, wall_s=1.0).status == ("timeout" if level == "no syscall filter" else "error")
    assert time.monotonic() - start < 4


def test_a_memory_bomb_ends(level) -> None:
    verdict = one("def f(x):\n  y = 'a' * 4_000_000_000\n  return x * 3 + 2")
    assert (verdict.status, verdict.detail) == ("error", "MemoryError")
    assert not one("def f(x):\n  y = [0]\n  while True: y = y + y", cpu_s=5).passed


def test_a_fork_bomb_is_refused(level) -> None:
    attempts = "try:\n  while True: os.fork()\nexcept OSError: pass\nelse: return 'forked'"
    assert value_of(f"import os\n{attempts}\nreturn 'yes'").passed
    threads = (
        "import _thread\ntry:\n  _thread.start_new_thread(print, ())\nexcept (RuntimeError, OSError): return 'yes'"
    )
    assert value_of(threads).passed


def test_nothing_of_the_environment_is_seen(level, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    assert value_of("import os\nreturn 'no' if 'SECRET_TOKEN' in os.environ or 'HOME' in os.environ else 'yes'").passed


def _reads(path: str) -> sandbox.Verdict:
    """Passes when no way of opening `path` works."""
    tries = "lambda: open(p).read(), lambda: os.listdir(p), lambda: os.open(p, 0), lambda: os.close(0) or os.open(p, 0)"
    body = f"import os\np = {path!r}\nfor attempt in ({tries}):\n  try: attempt()\n  except OSError: continue"
    return value_of(f"{body}\n  return 'no'\nreturn 'yes'")


@pytest.mark.parametrize("path", PATHS)
def test_no_file_is_read(path, level) -> None:
    assert _reads(path).passed


@pytest.mark.parametrize("path", PATHS)
def test_the_limits_alone_let_no_file_be_opened(path, monkeypatch, tmp_path) -> None:
    child = tmp_path / "child.py"
    source = sandbox.CHILD.read_text()
    child.write_text(source.replace('"x86_64": (', '"x": (').replace("sys.addaudithook(audit)", "pass"))
    monkeypatch.setattr(sandbox, "CHILD", child)
    monkeypatch.setattr(sandbox, "user_id", lambda: None)
    assert _reads(path).passed


def test_no_file_is_changed(level, tmp_path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    tmp_path.chmod(0o777)
    tries = "lambda: os.unlink(p), lambda: os.rename(p, p + 'x'), lambda: os.truncate(p, 0), lambda: os.mkdir(p + 'd')"
    tries += ", lambda: open(p, 'w').write('x'), lambda: os.chmod(p, 0)"
    body = f"import os\np = {str(target)!r}\nfor attempt in ({tries}):\n  try: attempt()\n  except OSError: continue"
    assert value_of(f"{body}\n  return 'no'\nreturn 'yes'").passed
    assert target.read_text() == "mine"


def test_no_other_process_is_reached(level) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        tries = f"lambda: os.kill({other.pid}, 9), lambda: os.kill({os.getpid()}, 0), lambda: os.kill(os.getppid(), 0)"
        body = f"import os\nfor attempt in ({tries}):\n  try: attempt()\n  except OSError: continue\n  return 'no'"
        assert value_of(f"{body}\nreturn 'yes'").passed
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_there_is_no_network(level) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # `_socket` is compiled into some interpreters, so that importing it needs no file
        body = "try:\n  import _socket\n  s = _socket.socket(2, 1, 0)\nexcept (OSError, ImportError): return 'yes'"
        assert value_of(f"{body}\ns.connect(('127.0.0.1', {port}))\nreturn 'connected'").passed
        assert not value_of("import socket\nreturn 'yes'").passed


def test_a_call_by_number_is_refused_too() -> None:
    """ctypes is in the child, because the filter was made with it; the filter is what holds."""
    if not one("def f(x): return x", [[1, 1]]).guards.endswith("syscalls"):
        pytest.skip("no syscall filter here")
    numbers = {"socket": (41, 198), "openat": (257, 56), "clone": (56, 220), "kill": (62, 129)}
    column = 0 if os.uname().machine == "x86_64" else 1
    calls = ", ".join(f"({row[column]}, 2, 1, 0)" for row in numbers.values())
    body = "import sys\nc = sys.modules['ctypes']\nlibc = c.CDLL(None, use_errno=True)"
    loop = f"for call in ({calls}):\n  if libc.syscall(*call) != -1 or c.get_errno() != 1: return call[0]"
    assert value_of(f"{body}\n{loop}\nreturn 'yes'").passed


def test_too_much_output_is_cut_and_never_passes(level) -> None:
    start = time.monotonic()
    flood = "import os\ndef f(x):\n  for _ in range(160): os.write(1, b'x' * 65536)\n  return x * 3 + 2"
    assert one(flood).status == "output"
    assert one("def f(x): return ['x' * 60_000] * 3").status == "output"
    assert one("def f(x): return 'x' * 10_000_000").status == "error"
    assert time.monotonic() - start < 5


def test_printing_is_no_part_of_the_answer(level) -> None:
    chatty = "import sys\ndef f(x):\n  print('x' * 10_000_000)\n  print('no', file=sys.stderr)\n  return x * 3 + 2"
    assert one(chatty).passed


@pytest.mark.parametrize("text", [b"[" * 60_000, b'{"values":[' + b"9" * 60_000 + b"]}", b"\xff", b"", b"[]", b"3"])
def test_a_hostile_reply_is_no_value(text) -> None:
    assert sandbox._judge(text, "exit", CASES)[:2] == (False, "output")


def test_a_sandbox_that_fails_is_no_wrong_answer(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "child.py"
    broken.write_text("raise OSError('no such luck')\n")
    monkeypatch.setattr(sandbox, "CHILD", broken)
    with pytest.raises(SandboxError, match="before it was ready"):
        one("def f(x): return x * 3 + 2")
    with pytest.raises(ValueError, match="without cases"):
        one("def f(x): return x", [])


@pytest.mark.parametrize(
    ("value", "wanted", "equal"),
    [
        (1, 1, True), (1, 1.0, True), (True, 1, False), (1, True, False), (True, True, True), ("1", 1, False),
        (None, None, True), (None, 0, False), ([1, [2]], (1, (2,)), True), ([1], [1, 2], False), ({}, [], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"a": 2}, False), ({"a": 1, "b": 2}, {"a": 1}, False), ("", [], False),
    ],
)  # fmt: skip
def test_equality_of_plain_values(value, wanted, equal) -> None:
    assert same(value, wanted) is equal


def test_values_travel_unchanged() -> None:
    values = ["", 'a"\\\n\x7f é 日本 \U0001f511 \ud800', -1.5e-300, 10**300, [[], {}], {"k": [None, True]}, False]
    assert one("def f(x): return x", [[value, value] for value in values]).passed


def test_nothing_is_left_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    run_functions([("while True: pass", "f", CASES)], 1, Limits(cpu_s=1))
    assert not list(tmp_path.iterdir())


def test_a_sample_takes_less_than_40_ms_of_one_core() -> None:
    jobs = [("def f(x): return x * 3 + 2", "f", CASES)] * 40
    before = _cpu_seconds()
    run_functions(jobs, workers=1)
    assert (_cpu_seconds() - before) / len(jobs) < 0.040


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
