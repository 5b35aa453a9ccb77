"""Arguments of a call, from the text of an action and back. Nothing is evaluated; every scan is linear in the text.

A reader takes the text and the place where the arguments begin and returns (arguments, pieces, end). `pieces` is the
white space around them and how they were spelled; a writer takes arguments and pieces and gives the text back.
"""

from __future__ import annotations

import json

from agenttuning.chat.turns import RowError
from agenttuning.data.tools.schemas import PARAMETERS

SPACE = " \t\r\n"
_PAIRS = {"(": ")", "[": "]"}
_SCALARS = json.JSONDecoder(parse_constant=str)  # NaN and Infinity are kept as they are spelled
_SEPARATOR = ", "


def split_space(text: str) -> tuple[str, str, str]:
    """(white space, text without it at the ends, white space)."""
    left = text.lstrip(SPACE)
    core = left.rstrip(SPACE)
    return text[: len(text) - len(left)], core, left[len(core) :]


def read_block(name: str, text: str, at: int) -> tuple[dict, list[str], int]:
    """What stands before the next fence; the line ends next to the fences are layout."""
    fence = text.find("```", at)
    if fence < 0:
        raise RowError("the code block is not closed")
    start = at + text.startswith("\n", at)
    body_end = fence - (fence > start and text[fence - 1] == "\n")
    pieces = [text[at:start], text[body_end:fence]]
    return {PARAMETERS[name][0]: text[start:body_end]}, pieces, fence + 3


def read_bracket(name: str, text: str, at: int) -> tuple[dict, list[str], int]:
    """One or two arguments up to the closing bracket; brackets inside are counted. Two are parted at the last comma,
    since relations and attributes hold none; both variables of an intersection could, so there must be one comma.
    """
    opening = text[at - 1]
    end = _closing(text, at, opening, _PAIRS[opening])
    inside, names = text[at:end], PARAMETERS[name]
    if len(names) == 2 and (not (commas := inside.count(",")) or (name == "intersection" and commas > 1)):
        raise RowError(f"{name} needs two arguments parted by one comma")
    parts = inside.rsplit(",", 1) if len(names) == 2 else [inside]
    arguments, pieces = {}, []
    for key, part in zip(names, parts, strict=True):
        before, arguments[key], after = split_space(part)
        pieces += [before, after]
    return arguments, pieces, end + 1


def _closing(text: str, at: int, opening: str, closing: str) -> int:
    depth = 1
    for place in range(at, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if not depth:
            return place
    raise RowError(f"the bracket {opening} is not closed")


def read_line(name: str, text: str, at: int) -> tuple[dict, list[str], int]:
    """The rest of the line."""
    end = text.find("\n", at)
    before, core, after = split_space(text[at : end if end >= 0 else len(text)])
    if not core:
        raise RowError("the action is empty")
    return {PARAMETERS[name][0]: core}, [before, after], at + len(before) + len(core) + len(after)


def read_list(name: str, text: str, at: int) -> tuple[dict, list[str], int]:
    """A JSON list of scalars, each as a string: decoded where it was one, else as spelled (7.50, null).

    Pieces: the separator, and per value s (string), a (string in ASCII, with escapes) or r (anything else, raw);
    one letter where it serves for all.
    """
    values, raws, kinds, separator, place = [], [], "", None, at
    while not text.startswith("]", place):
        if values:
            found = next((item for item in (_SEPARATOR, ",") if text.startswith(item, place)), None)
            if found is None or found != (separator or found):
                raise RowError("the final answer is not a JSON list with even commas")
            separator, place = found, place + len(found)
        value, kind, end = _scalar(text, place)
        values.append(value)
        raws.append(text[place:end])
        kinds, place = kinds + kind, end
    same = next((kind for kind in "sar" if all(map(str.__eq__, (_spelled(v, kind) for v in values), raws))), kinds)
    return {PARAMETERS[name][0]: values}, [separator or _SEPARATOR, same], place + 1


def _scalar(text: str, at: int) -> tuple[str, str, int]:
    try:
        value, end = _SCALARS.scan_once(text, at)
    except (StopIteration, ValueError, RecursionError):
        raise RowError("the final answer is not a JSON list") from None
    raw = text[at:end]
    if isinstance(value, list | dict):
        raise RowError("the final answer holds a list or an object")
    if not raw.startswith('"'):
        return raw, "r", end
    for kind in ("s", "a"):
        if _spelled(value, kind) == raw:
            return value, kind, end
    raise RowError("the final answer spells a string in an uncommon way")


def _spelled(value: str, kind: str) -> str:
    return value if kind == "r" else json.dumps(value, ensure_ascii=kind == "a")


def usual(kind: str, name: str) -> list[str]:
    """The pieces that need no layout."""
    if kind in ("block", "list"):
        return ["\n", "\n"] if kind == "block" else [_SEPARATOR, "s"]
    return [["", ""], ["", "", " ", ""]][len(PARAMETERS[name]) - 1] if kind != "bare" else []


def write(kind: str, name: str, arguments: dict, pieces: list[str], closing: str) -> str:
    """The text of the arguments with what closes them. Raises RowError where they are not those of the tool."""
    if not isinstance(arguments, dict) or set(arguments) != set(PARAMETERS[name]):
        raise RowError(f"the arguments of {name} are not those of its schema")
    values = [arguments[key] for key in PARAMETERS[name]]
    items = values[0] if kind == "list" else values
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RowError(f"the arguments of {name} are not text")
    if kind == "list":
        separator, kinds = pieces
        kinds = kinds * len(items) if len(kinds) == 1 else kinds
        if len(kinds) != len(items):
            raise RowError(f"the layout is that of {len(kinds)} values, not of {len(items)}")
        return separator.join(map(_spelled, items, kinds)) + closing
    return ",".join(pieces[2 * place] + value + pieces[2 * place + 1] for place, value in enumerate(values)) + closing


READERS = {"block": read_block, "bracket": read_bracket, "line": read_line, "list": read_list}
CLOSING = {"block": "```", "line": "", "list": "]", "bare": ""}  # of a bracket: the one that closes it
