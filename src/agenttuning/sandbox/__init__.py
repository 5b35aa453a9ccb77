"""Run untrusted Python functions against test cases, each in a process of its own, and compare what they return here.

The verdict is made in this process: the child gets the arguments, never the wanted values, and sends back JSON, which
is compared by plain types. Printing "passed", exiting with 0, or an object with its own `__eq__` proves nothing; a
forger would have to write the right values, which is what was asked of it.

What holds a child, in the words of `Verdict.guards`:

    limits    Fresh interpreter (-I -S -B), empty environment, own folder, own process group, which is killed
              at the end; rlimits on CPU, memory, file size, processes (0) and open files (0, so that neither a file
              nor a socket can be opened, by the kernel's word). Cap on output, wall-clock limit. `fewer` in its place
              where the system refused one of the rlimits.
    user      when started as root: a user id that owns nothing, without groups, in an empty folder as root directory.
    syscalls  Linux on x86_64 or aarch64: a seccomp filter that allows computing (23 calls: memory, locks, clock, the
              two pipes) and refuses all others. No network, file, process, thread, signal or tracing, whoever runs it.
    audit     where `syscalls` cannot be had, instead of it: Python's audit hook. Enough for accidents; code written to
              break out, started by an ordinary user, could reach that user's files by path and processes by signal.

Not guaranteed at any level: protection from faults of the kernel, and fair sharing of the CPU among children. A
function can see all its arguments at once, so a test must not be answerable from the arguments alone. Tests that are
programs themselves go through dialogue.py.
"""

from __future__ import annotations

import itertools
import json
import marshal
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
READY = re.compile(rb"ready ([a-z+]{1,60})\n")
# Imported before the walls go up when a line with an import names them; everything else cannot be imported.
MODULES = (
    "abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "itertools",
    "json", "keyword", "math", "numbers", "operator", "pprint", "queue", "random", "re", "statistics", "string",
    "textwrap", "time", "types", "typing", "unicodedata", "zlib",
)  # fmt: skip
LATER = {"datetime": ["_strptime"], "time": ["_strptime"]}  # what a module imports when it is used
# A range that neither Debian nor systemd gives to anyone; one for each child, so that children cannot reach each other.
USERS = itertools.cycle(range(60706, 61184))


class SandboxError(RuntimeError):
    """The sandbox itself failed; it says nothing about the code and must never be counted as a wrong answer."""


@dataclass(frozen=True)
class Limits:
    """Of one child: CPU seconds, wall-clock seconds, bytes of address space, bytes of output."""

    cpu_s: int = 2
    wall_s: float = 10.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**16


@dataclass(frozen=True)
class Verdict:
    """`passed` is true when every case came out right. `status` says how it ended: passed, wrong, error (the code
    raised), timeout, output (too much of it, or no values), crash. `detail` names the case or the exception's type.
    """

    passed: bool
    status: str
    detail: str
    guards: str


def run_functions(
    jobs: Sequence[tuple[str, str, Sequence[Sequence[Any]]]], workers: int = 2, limits: Limits | None = None
) -> list[Verdict]:
    """One verdict for each (code, name, cases), in their order; `workers` children at a time.

    A case is [argument, ..., wanted]: the function `name`, which `code` defines, is called with the arguments. They
    and the wanted value are JSON data; numbers are equal by value, true is not 1, a returned tuple counts as a list.
    Raises SandboxError when a child could not be set up, ValueError for a job without cases.
    """
    if any(not cases or not all(cases) for _, _, cases in jobs):
        raise ValueError("a job without cases, or a case without a wanted value, would pass whatever it does")
    limits = limits or Limits()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda job: _run(*job, limits), jobs))


def _run(code: str, name: str, cases: Sequence[Sequence[Any]], limits: Limits) -> Verdict:
    arguments = [tuple(case[:-1]) for case in cases]
    payload = marshal.dumps((code, name, arguments, modules_named(code), rights(limits)))
    for last in (False, True):
        output, ended = _exchange(payload, limits)
        ready = READY.match(output)
        if ready:
            guards = ready[1].decode()
            return Verdict(*_judge(output[ready.end() :], ended, cases), guards)
        if last:
            raise SandboxError(f"a sandbox process ended before it was ready ({ended}): {output[:200]!r}")
    raise AssertionError("unreachable")


def modules_named(code: str) -> list[str]:
    """The modules that a child has to import for this code before its walls go up."""
    lines = [line for line in code.replace("\\\n", " ").splitlines() if "import" in line]
    words = set(re.findall(r"\w+", "\n".join(lines)))
    return [found for module in MODULES if module in words for found in (module, *LATER.get(module, ()))]


def rights(limits: Limits) -> dict[str, int | None]:
    """What a child is to give itself: its limits, and as root a user id of its own."""
    return {"cpu_s": limits.cpu_s, "memory_bytes": limits.memory_bytes, "uid": user_id()}


def user_id() -> int | None:
    """A user id for one child; None where this process may not give one."""
    return next(USERS) if os.geteuid() == 0 else None


def _exchange(payload: bytes, limits: Limits) -> tuple[bytes, str]:
    """Start a child, read what it writes; the bytes, and how it ended: "exit", "timeout", "output" or "crash"."""
    # a file, not a pipe: a child that does not read must not be able to block this process
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as question:
        question.write(payload)
        question.seek(0)
        process = start(CHILD, question, folder)
        try:
            return _listen(process, time.monotonic() + limits.wall_s, limits.output_bytes)
        finally:
            process.stdout.close()
            kill(process)


def start(script: Path, stdin: Any, folder: str) -> subprocess.Popen:
    """A child in `folder`, with nothing of this process but a pipe to it. Raises SandboxError."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(script)],
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"a sandbox process could not be started: {error}") from error


def _listen(process: subprocess.Popen, deadline: float, most: int) -> tuple[bytes, str]:
    pipe, received = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(1000 * left):
            continue
        part = os.read(pipe, 2**16)
        received += part
        if len(received) > most:
            return received[:most], "output"
        if not part:
            return received, how_it_ended(process, deadline)
    return received, "timeout"


def how_it_ended(process: subprocess.Popen, deadline: float) -> str:
    """Of a child that has closed its pipe: "exit" (status 0), "crash" or "timeout"."""
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "timeout"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    return "exit" if status == 0 else "crash"


def kill(process: subprocess.Popen) -> None:
    """End a child, and all that it may have started."""
    if process.returncode is None:  # its group cannot have gone to somebody else: nobody has waited for it
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _judge(text: bytes, ended: str, cases: Sequence[Sequence[Any]]) -> tuple[bool, str, str]:
    if ended != "exit":
        return False, ended, ""
    try:
        reply = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, a number of a million digits, a million brackets
        return False, "output", "no values came back"
    if not isinstance(reply, dict) or not isinstance(values := reply.get("values"), list):
        error = reply.get("error") if isinstance(reply, dict) else None
        return False, *(("error", error[:60]) if isinstance(error, str) else ("output", "no values came back"))
    if len(values) != len(cases):
        return False, "output", f"{len(values)} values for {len(cases)} cases"
    for number, (value, case) in enumerate(zip(values, cases, strict=True)):
        if not same(value, case[-1]):
            return False, "wrong", f"case {number}"
    return True, "passed", ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def same(value: Any, wanted: Any) -> bool:
    """Equality of JSON data: numbers by value, true and 1 differ, lists and objects entry by entry."""
    if isinstance(wanted, list | tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(wanted, dict):
        return (
            isinstance(value, dict) and value.keys() == wanted.keys() and all(same(value[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, bool) or isinstance(value, bool) or not isinstance(wanted, int | float):
        return type(value) is type(wanted) and value == wanted
    return isinstance(value, int | float) and value == wanted
