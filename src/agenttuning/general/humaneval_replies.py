"""From a reply to a program: the prompt's function with the body that a model gave it. Text rules only.

A reply is hostile input; it is never parsed or compiled outside the sandbox, so what is code here is decided by how
lines look. What cannot be read stays in the program, where it is a syntax error, and so a wrong answer.
"""

from __future__ import annotations

import re

MOST = 20_000  # characters of a reply that are read, and
LONG = 500  # of a line that is looked at: four times what 1024 tokens of code hold, and nothing a regex is slow on
FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)  # may stand nowhere but in a file's first line
# How a line of Python looks that is no line of prose.
TARGET = r"[\w.]+(?:\[[^\]]*\])?"
CODE = re.compile(
    r"\s|@\w|#|[)\]}]|\"\"\"|'''"
    r"|(?:async )?def \w+ ?\(|class \w+.*:|from [\w.]+ import ."
    r"|import [\w.]+(?: as \w+)?(?:, ?[\w.]+(?: as \w+)?)*\s*(?:#.*)?$"
    r"|(?:return|raise|assert|yield|pass|break|continue|global|nonlocal|del)\b"
    r"|(?:if|elif|else|for|while|try|except|finally|with)\b.*:\s*(?:\S.*)?$"
    rf"|{TARGET}(?:, ?{TARGET})*(?:: ?{TARGET})? ?(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)"
    r"|[\w.]+\((?:.*[\[({,]|.*\)[\w.\[\]()]*)?\s*(?:#.*)?$"
)


def program(prompt: str, name: str, reply: str) -> str:
    """`prompt` completed by what `reply`, the answer of a chat model, says of the function `name`.

    The reply goes on where the chat form's beginning of the answer ends: in an open fence, behind the prompt. It may
    give the body, the whole function, the prompt once more, a fenced block, and prose around each of these.
    """
    code = _cut_prose(_code(reply[:MOST].replace("\r\n", "\n"), name))
    if _defines(code, name):  # the prompt has its imports and helpers; the second definition counts
        return f"{prompt}\n{FUTURE.sub('', code)}\n"
    return f"{prompt}{_indented(code)}\n"


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b|^{re.escape(name)} ?=", code, re.MULTILINE) is not None


def _code(reply: str, name: str) -> str:
    head, *blocks = FENCE.split(reply)
    blocks = blocks[::2]  # what is in a fence; between two of them is prose
    first = next((line for line in head.splitlines() if line.strip()), "")
    if _defines(head, name) or _is_code(first):
        return head
    whole = [block for block in blocks if _defines(block, name)]
    bodies = [block for block in blocks if block.strip() and _is_code(block.lstrip("\n"))]
    return (whole or bodies or [head])[0]


def _is_code(text: str) -> bool:
    line = text.partition("\n")[0]
    return len(line) > LONG or CODE.match(line) is not None


def _cut_prose(code: str) -> str:
    """Without the lines of prose before the first line of code, and from the first one after it."""
    kept: list[str] = []
    quoted = ""
    for line in code.splitlines():
        if not quoted and line.strip() and not _is_code(line):
            if kept:
                break
            continue
        if line.strip() or kept:
            kept.append(line)
        for mark in re.findall(r"\"\"\"|'''", line):
            quoted = "" if mark == quoted else quoted or mark
    return "\n".join(kept)


def _indented(body: str) -> str:
    """A function's body four spaces deep. A tokenizer may drop a reply's first spaces, a model those of all lines."""
    lines = body.splitlines()
    if not lines:
        return body
    base = _depth(lines[0])
    inside = []
    for line in lines[1:]:
        if line.strip() and not _depth(line):
            break
        inside += [_depth(line)] * bool(line.strip())
    if base >= 4 or lines[0].startswith("\t"):
        return body
    opens = lines[0].rstrip().endswith(":")
    if inside and min(inside) >= 4 and not (opens and inside[0] <= 4):
        return "\n".join(["    " + lines[0].lstrip(), *lines[1:]])
    return "\n".join(" " * (4 - base) + line if line.strip() else line for line in lines)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
