"""Mind2Web's `scores_all_data.pkl` made into a text file of ranks, without unpickling it.

A pickle is a program: to load one is to run it. `read_pickle` is a reader of the few instructions that dictionaries of
texts and numbers are written with; it calls nothing, imports nothing, and refuses every other instruction. Run once:

    python -m agenttuning.environments.mind2web.scores scores_all_data.pkl FOLDER-OF-THE-PAGES/ranks.jsonl

The file is a dictionary `scores` and one `ranks`: step ("annotation_id_action_uid") -> element id -> number.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from agenttuning.errors import UserError

# osunlp/Mind2Web, scores_all_data.pkl at revision 17ece8eb89862368edc0cc806acee6fca5163474, as inspect-evals pins it
SHA256 = "884c97cd9ae0544485d21ea39e0d46422aee0291969a7324e56df3a84466dbd7"
MAX_BYTES = 1 << 29  # of the pickle; the real one has 245,190,981
MAX_TEXT = 10_000  # bytes of one text; a key has less than 100
KEPT = 50  # ranks below this are written; the tournament asks for ten
_MARK, _DTYPE, _SCALAR, _DICT, _FACTORY = (object() for _ in range(5))
# The only names that may stand in the file, and what stands for them here: nothing is imported.
_NAMES = {
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("collections", "defaultdict"): _DICT,
    ("collections", "OrderedDict"): _DICT,
    ("builtins", "dict"): _DICT,
    ("builtins", "float"): _FACTORY,  # of a defaultdict
    ("builtins", "int"): _FACTORY,
}
_NUMPY = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}  # dtype -> struct
_FIXED = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
_TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q", b"B": "<I", b"C": "<B", b"\x8e": "<Q"}
_PLACES = {b"q": "<B", b"r": "<I", b"h": "<B", b"j": "<I"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}


def convert(source: str | Path, target: str | Path, sha256: str = SHA256) -> int:
    """Write the ranks of a pickle, a JSON line for each step, {"step": str, "ranks": {element id: rank}}; give their
    number. About 3 GB of memory for the real file.

    Raises UserError when the file is too large, is not the one with this `sha256`, or holds anything but numbers.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise UserError(f"{source} is not a file; there are no ranks to write; download scores_all_data.pkl")
    size = source.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{source} has {size:,} bytes, more than {MAX_BYTES:,}; it is not scores_all_data.pkl")
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UserError(
                f"{source} has the sha256 {found}, not {sha256}; its ranks would be of other candidates, or it was "
                "tampered with; download it again from osunlp/Mind2Web"
            )
        file.seek(0)
        try:
            ranks = _ranks(read_pickle(file))
        except (pickle.UnpicklingError, struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{source} was refused: {error}; nothing of it was run; it is not a table of ranks"
            ) from None
    part = target.with_name(target.name + ".part")
    with part.open("w", encoding="utf-8") as out:
        for step, table in ranks.items():
            kept = {identity: int(rank) for identity, rank in table.items() if rank < KEPT}
            out.write(json.dumps({"step": step, "ranks": kept}) + "\n")
    part.replace(target)
    return len(ranks)


def _ranks(data: Any) -> dict[str, dict[str, int | float]]:
    if not isinstance(data, dict) or not isinstance(data.get("ranks"), dict):
        raise ValueError("it has no dictionary 'ranks'")
    for step, table in data["ranks"].items():
        if not isinstance(step, str) or not isinstance(table, dict):
            raise ValueError(f"the ranks of step {step!r:.80} are no dictionary")
        if not all(isinstance(rank, int | float) and rank == rank // 1 for rank in table.values()):
            raise ValueError(f"a rank of step {step!r:.80} is not a whole number")
    return data["ranks"]


def read_pickle(file: BinaryIO) -> Any:
    """The dictionaries (by texts), tuples, texts and numbers of a pickle. Raises pickle.UnpicklingError for anything
    else, and LookupError, TypeError, ValueError, AttributeError or struct.error for a broken file.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    read = file.read

    def number(form: str) -> Any:
        return struct.unpack(form, read(struct.calcsize(form)))[0]

    def marked() -> list[Any]:
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                above = stack[place + 1 :]
                del stack[place:]
                return above
        raise ValueError("an end without a beginning")

    while True:
        code = read(1)
        if code in _TEXTS:
            length = number(_TEXTS[code])
            if length > MAX_TEXT:
                raise pickle.UnpicklingError(f"a text of {length:,} bytes")
            raw = read(length)
            stack.append(raw if code in (b"B", b"C", b"\x8e") else raw.decode())
        elif code == b"\x94":
            memo[len(memo)] = stack[-1]
        elif code in _FIXED:
            stack.append(number(_FIXED[code]))
        elif code in (b"q", b"r"):
            memo[number(_PLACES[code])] = stack[-1]
        elif code in (b"h", b"j"):
            stack.append(memo[number(_PLACES[code])])
        elif code == b"(":
            stack.append(_MARK)
        elif code == b"u":
            pairs = marked()
            _enter(stack[-1], pairs[::2], pairs[1::2])
        elif code == b"s":
            value, key = stack.pop(), stack.pop()
            _enter(stack[-1], [key], [value])
        elif code == b"}":
            stack.append({})
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in (b"t", b"\x85", b"\x86", b"\x87", b")"):
            count = {b"\x85": 1, b"\x86": 2, b"\x87": 3, b")": 0}.get(code)
            inside = marked() if count is None else [stack.pop() for _ in range(count)][::-1]
            stack.append(tuple(inside))
        elif code == b"c":
            stack.append(_named(_line(file), _line(file)))
        elif code == b"\x93":
            name, module = stack.pop(), stack.pop()
            stack.append(_named(module, name))
        elif code == b"R":
            arguments, what = stack.pop(), stack.pop()
            stack.append(_made(what, arguments))
        elif code == b"b":
            stack.pop()  # the state of a dtype; its name said everything
            if not isinstance(stack[-1], str):
                raise pickle.UnpicklingError("a state for something that has none")
        elif code == b"\x80":
            number("<B")
        elif code == b"\x95":
            number("<Q")
        elif code == b".":
            return stack.pop()
        else:
            raise pickle.UnpicklingError(f"the instruction {code!r} is none that a table of numbers needs")


def _enter(target: Any, keys: list, values: list) -> None:
    # Texts only: to look up a tuple within tuples, a hundred thousand deep, would crash the interpreter.
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError(f"an entry of a {type(target).__name__} that is not named by a text")
    target.update(zip(keys, values, strict=True))


def _line(file: BinaryIO) -> str:
    return file.readline(200).decode().rstrip("\n")


def _named(module: object, name: object) -> Any:
    if not isinstance(module, str) or not isinstance(name, str):
        raise pickle.UnpicklingError("a name that is no text")
    if (module, name) not in _NAMES:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no table of numbers needs")
    return _NAMES[module, name]


def _made(what: Any, arguments: tuple) -> Any:
    if what is _DICT:
        return {}
    if what is _DTYPE:
        return arguments[0].lstrip("<=|")
    if what is _SCALAR and isinstance(arguments[0], str):
        form, raw = arguments
        return struct.unpack("<" + _NUMPY[form], raw)[0]
    raise pickle.UnpicklingError("it calls something")


def main(arguments: list[str]) -> int:
    """`PICKLE TARGET`: convert, and print what was done."""
    if len(arguments) != 2:
        print("python -m agenttuning.environments.mind2web.scores scores_all_data.pkl ranks.jsonl", file=sys.stderr)
        return 2
    try:
        steps = convert(*arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments[0]}: sha256 {SHA256}, as pinned; the ranks of {steps:,} steps are in {arguments[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
