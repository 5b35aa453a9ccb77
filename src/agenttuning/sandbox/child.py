"""The inside of the sandbox: a script, started by __init__.py, that gives up its rights and then runs foreign code.

stdin: marshal of (code, name, list of argument tuples, modules, limits). stdout: one line `ready GUARDS`, written
before the foreign code is even compiled, then one JSON object, {"values": [...]} or {"error": text, "case": number}.
The values which are wanted never come here, so there is nothing to copy. Only cheap imports: this file runs once a
sample.
"""

import marshal
import os
import resource
import struct
import sys

# Calls that computing needs and that reach nothing outside: read write close fstat lseek mmap mprotect munmap brk
# rt_sigaction rt_sigprocmask rt_sigreturn mremap sched_yield madvise getpid exit sigaltstack gettid futex
# clock_gettime exit_group getrandom. Numbers from the kernel's syscall tables; the first is AUDIT_ARCH_*.
ALLOWED = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 39, 60, 131, 186, 202, 228, 231, 318),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 124, 216, 233, 172, 93, 132, 178, 98, 113, 94, 278),
    ),
}
# linux/prctl.h, linux/seccomp.h
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
SIGKILL = 9
ALLOW, EPERM = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
DEPTH, LENGTH = 50, 2**16  # nesting of a value that is written, characters of a text in it


def limit(limits):
    """The kernel's limits on this process; the hard ones cannot be raised again. False if some were refused."""
    wanted = {"CPU": limits["cpu_s"], "AS": limits["memory_bytes"], "FSIZE": 0, "CORE": 0, "NPROC": 0, "NOFILE": 0}
    refused = 0
    for name, value in wanted.items():
        try:
            # one second between the signal that ends a loop and the one that cannot be ignored
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value + (name == "CPU")))
        except (AttributeError, ValueError, OSError):  # macOS has no limit on memory
            refused += 1
    return not refused


def drop(uid):
    """From root to a user that owns nothing, inside an empty folder as the file system's root; False if refused."""
    try:
        os.chroot(".")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container that took these rights from root
        return False
    return True


def program(arch, numbers):
    """The seccomp filter (bytes of struct sock_filter, their number): these calls, and EPERM for all others."""
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, arch), (RETURN, 0, 0, EPERM), (LOAD, 0, 0, 0)]
    for place, number in enumerate(numbers):
        steps.append((EQUAL, len(numbers) - place, 0, number))
    steps += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps), len(steps)


def prepare_filter():
    """A function that installs the filter, or None where this system has none. It may need files: call it early."""
    try:
        import ctypes

        arch, numbers = ALLOWED[os.uname().machine]
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        steps, count = program(arch, numbers)
        buffer = ctypes.create_string_buffer(steps)
        unsigned = ctypes.c_ulong
    except (ImportError, KeyError, OSError, AttributeError, struct.error):
        return None

    def install():
        # code that waits for a lock for ever uses no CPU: without this it would outlive a parent that was killed
        prctl(PR_SET_PDEATHSIG, unsigned(SIGKILL), unsigned(0), unsigned(0), unsigned(0))
        if prctl(PR_SET_NO_NEW_PRIVS, unsigned(1), unsigned(0), unsigned(0), unsigned(0)):
            return False
        # struct sock_fprog; `buffer` is used here and not above so that it lives until the kernel has read it
        head = ctypes.create_string_buffer(struct.pack("HP", count, ctypes.addressof(buffer)))
        filter_at = ctypes.c_void_p(ctypes.addressof(head))
        return prctl(PR_SET_SECCOMP, unsigned(SECCOMP_MODE_FILTER), filter_at, unsigned(0), unsigned(0)) == 0

    return install


def audit(event, _):
    """Refuse what reaches outside. A hurdle, no wall: code that takes the interpreter apart gets past it."""
    if event == "open" or event.startswith(
        ("os.", "socket.", "subprocess.", "ctypes.", "shutil.", "signal.", "mmap.", "fcntl.", "_thread.", "gc.")
    ):
        raise PermissionError(event)


class Nowhere:
    """A stream that forgets: what the code prints is no part of its answer."""

    def write(self, text):
        return len(text)

    def flush(self):
        pass


def dump(value, depth=0):
    """JSON text of plain values by their exact types; tuples become lists. Anything else raises TypeError."""
    kind = type(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind in (int, float):
        return repr(value)
    if kind is str and len(value) <= LENGTH:
        return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else escape(c) for c in value) + '"'
    if depth >= DEPTH:
        raise TypeError("the value is nested too deeply")
    if kind in (list, tuple):
        return "[" + ",".join([dump(entry, depth + 1) for entry in value]) + "]"
    if kind is dict and all(type(key) is str for key in value):
        return "{" + ",".join([f"{dump(k)}:{dump(entry, depth + 1)}" for k, entry in value.items()]) + "}"
    raise TypeError(f"a value of type {kind.__name__[:40]} is no plain data, or too long")


def escape(character):
    point = ord(character)
    if point < 0x10000:
        return f"\\u{point:04x}"
    point -= 0x10000
    return f"\\u{0xD800 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"


def answer(code, name, arguments):
    """Run the code, call its function on each tuple of arguments; the JSON text of what came out."""
    case = None
    try:
        space = {"__name__": "answer"}
        exec(compile(code, "answer", "exec"), space)  # noqa: S102 - this process exists to run it
        function = space[name]
        values = []
        for case, given in enumerate(arguments):  # noqa: B007 (read when an answer fails)
            values.append(dump(function(*given)))
        return '{"values":[' + ",".join(values) + "]}"
    except BaseException as error:
        text = f"{type(error).__name__}"[:60]
        return f'{{"error":{dump(text)},"case":{dump(case)}}}'


def say(text):
    data = text.encode("ascii")
    while data:
        data = data[os.write(1, data) :]


def build_walls(modules, limits):
    """Import these modules, then give up all rights; the guards, as `sandbox.Verdict` names them."""
    for module in modules:
        __import__(module)
    install = prepare_filter()
    sys.stdout = sys.stderr = Nowhere()
    dropped = limits["uid"] is not None and drop(limits["uid"])
    guards = ["limits" if limit(limits) else "fewer"] + ["user"] * dropped
    if install is not None and install():
        guards.append("syscalls")
    else:
        sys.addaudithook(audit)
        guards.append("audit")
    return "+".join(guards)


def main():
    code, name, arguments, modules, limits = marshal.loads(sys.stdin.buffer.read())
    say(f"ready {build_walls(modules, limits)}\n")
    say(answer(code, name, arguments))
    os._exit(0)  # no exit handler of foreign code


if __name__ == "__main__":
    main()
