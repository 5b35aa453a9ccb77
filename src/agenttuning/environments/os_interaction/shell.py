r"""The shell that the model types into: one `bash --login` on a pseudo-terminal for a whole episode.

The original (AgentBench.old, src/tasks/os_interaction/task.py) reads such a terminal, and its observations are what a
terminal shows: lines that end in \r\n, colours, and the prompt with its title escape at the end. AgentLM was trained on
them, so they are kept. Two of its habits are not: it takes whatever looks like a prompt for the end of the output, so
that a script of two lines is answered with the output of the first, and it echoes. Here a script is handed over as one
command, between two marks that carry a fresh random number. Who prints a mark himself deceives nobody but himself: the
output he gets ends early.

As in the original, output is read until the prompt or until QUIET_S seconds without a sign; what came is given then,
and the command goes on. When it still runs at the next command, it is given QUIET_S seconds more, and then Ctrl-C. Both
are needed only for commands that wait for input or work for long.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import secrets
import select
import subprocess
import termios
import time

QUIET_S = 5.0  # AgentBench.old: sock.settimeout(5)
TOTAL_S = 30.0  # of one command that never falls silent; the original would wait for ever
MAX_BYTES = 16 * 2**20  # of one command's output; the model is shown 800 characters
STALE_S = 0.3
KEPT_BYTES = 2**16
LINE = 3000  # bytes; the kernel's terminal takes 4,095 in one line

# In an interactive bash every `\[..\]` is an escape of no width. The prompt function puts the mark back when PS1 is set
# anew, as by `source ~/.bashrc`.
_SETUP = r"""stty -echo; HISTCONTROL=ignoreboth; unset HISTFILE; __mark=; __prompt() { printf '\e]779;%s\a' "$__mark"; case $PS1 in *'$__mark'*) ;; *) PS1="$PS1"'\[\e]778;$__mark\a\]';; esac; }; __start() { __mark=$1; [ -z "$__code" ] || history -s -- "$__code"; printf '\e]777;%s\a' "$1"; return "$2"; }; PROMPT_COMMAND=__prompt; history -c"""  # noqa: E501
_AT_PROMPT = re.compile(rb"\x1b\]778;[0-9a-f]*\x07\Z")
_PROMPT, _ASKED = re.compile(rb"\x1b\]778;[0-9a-f]*\x07"), re.compile(rb"\x1b\]779;[0-9a-f]*\x07")
_ESCAPES = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class ShellGone(RuntimeError):
    """The terminal could not be started or typed into."""


class Shell:
    """A terminal with bash in it; `argv` starts bash there. `text` is what the last command showed, `plain` the same
    without prompt, escapes and carriage returns.
    """

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.argv, self.environment = argv, environment
        self.text = self.plain = ""
        self.master: int | None = None
        self.process: subprocess.Popen | None = None
        self.pending: str | None = None  # the mark of a command that has not come back
        self._open()

    def _open(self) -> None:
        self.master, slave = pty.openpty()
        try:
            settings = termios.tcgetattr(slave)
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, settings)
            os.set_blocking(self.master, False)
            self.process = subprocess.Popen(
                self.argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=self.environment,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(slave)
        mark = secrets.token_hex(8)
        lines = [_SETUP, *_typed("", mark)]
        if not self._type("".join(f" {line}\n" for line in lines)) or self._read(mark, 30.0, 30.0)[1] != "prompt":
            self._shut()
            raise ShellGone("bash did not start in the sandbox")

    def run(self, code: str, quiet_s: float = QUIET_S, total_s: float = TOTAL_S) -> str:
        """Run a script and give what the terminal showed of it. A shell that has ended is replaced by a new one first.

        Raises ShellGone when none can be started.
        """
        self._settle(quiet_s)
        mark = secrets.token_hex(8)
        if not self._type("".join(f" {line}\n" for line in _typed(code, mark))):
            self._replace()
            raise ShellGone("the terminal does not take what is typed")
        data, how = self._read(mark, quiet_s, total_s)
        self.pending = None if how == "prompt" else mark
        if how == "flood":
            self._interrupt(mark)
        elif how == "gone":
            self._shut()
        shown, told = _between(data, mark)
        self.text = _decode(shown)
        self.plain = _ESCAPES.sub("", _decode(told)).strip("\n")
        return self.text

    def _settle(self, quiet_s: float) -> None:
        """A prompt before the next command is typed."""
        if self.master is not None and self.pending is not None:
            how = self._read(self.pending, quiet_s, quiet_s)[1]
            if how != "prompt":
                self._interrupt(self.pending)
        if self.master is None:
            self._open()

    def _interrupt(self, mark: str) -> None:
        """Ctrl-C, and a new shell where that does not help."""
        self.pending = None
        for _ in range(2):
            if self._type("\x03") and self._read(mark, 1.0, 3.0)[1] == "prompt":
                break
        else:
            self._replace()
            return
        if self._noise():
            self._replace()  # something in the background goes on writing

    def _noise(self) -> bool:
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        return bool(poll.poll(100))

    def _replace(self) -> None:
        self._shut()
        self._open()

    def _type(self, text: str) -> bool:
        data, deadline = text.encode("utf-8", "replace"), time.monotonic() + 10.0
        poll = select.poll()
        poll.register(self.master, select.POLLOUT)
        while data:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return False
            try:
                data = data[os.write(self.master, data) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    def _read(self, mark: str, quiet_s: float, total_s: float) -> tuple[bytes, str]:
        """What came, and why reading ended: "prompt", "quiet", "flood" (too much or too long) or "gone"."""
        begin, end = (f"\x1b]{kind};{mark}\x07".encode() for kind in (777, 778))
        head, tail, size = bytearray(), b"", 0
        deadline = time.monotonic() + total_s
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or size > MAX_BYTES:
                return bytes(head), "flood"
            # After an open quote bash shows its prompt as it was before, with the mark of the command before.
            stale = begin in head and _AT_PROMPT.search(tail) is not None
            if not poll.poll(min(left, STALE_S if stale else quiet_s) * 1000):
                return bytes(head), "prompt" if stale else "quiet"
            try:
                piece = os.read(self.master, 65536)
            except BlockingIOError:
                continue
            except OSError:  # Linux's word for the end of a terminal
                piece = b""
            if not piece:
                return bytes(head), "gone"
            size += len(piece)
            head += piece[: max(0, KEPT_BYTES - len(head))]
            tail = (tail + piece)[-len(piece) - len(end) :]
            if end in tail:
                if size > KEPT_BYTES:
                    head += tail  # the prompt, which is cut off for the model, but ends the output
                return bytes(head), "prompt"

    def _shut(self) -> None:
        if self.master is not None:
            os.close(self.master)  # hangs up
            self.master = None
        self.pending = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None

    @property
    def gone(self) -> bool:
        """True after a command that ended the shell."""
        return self.master is None

    def close(self) -> None:
        """Hang up."""
        self._shut()


def _typed(code: str, mark: str) -> list[str]:
    """The lines to type. `$?` of the script before is what the new one finds, as at a terminal."""
    pieces, line = [], ""
    for character in code.replace("\0", ""):
        written = _quoted(character)
        if len((line + written).encode("utf-8", "replace")) > LINE:
            pieces.append(line)
            line = ""
        line += written
    pieces.append(line)
    first, *rest = pieces
    lines = [f"__status=$? __code=$'{first}'", *(f"__code+=$'{piece}'" for piece in rest)]
    return [*lines, f'__start {mark} $__status; builtin eval "$__code"']


def _quoted(character: str) -> str:
    # What is special in $'..', and what a terminal acts on instead of passing it through.
    if character in "\\'":
        return "\\" + character
    return f"\\x{ord(character):02x}" if character < " " or character == "\x7f" else character


def _between(data: bytes, mark: str) -> tuple[bytes, bytes]:
    """(what was shown from the start mark to the end mark, the part of it before the prompt)."""
    _, _, shown = data.rpartition(f"\x1b]777;{mark}\x07".encode())
    shown = _PROMPT.split(shown, maxsplit=1)[0]
    *told, prompt = _ASKED.split(shown)
    return (b"".join(told) + prompt, b"".join(told)) if told else (shown, shown)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")
