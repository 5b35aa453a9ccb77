"""The inside of a pair of sandboxes: a script, started twice by dialogue.py, for a test and for foreign code.

stdin: frames, each 8 bytes of length and so many of marshal. The first names the modules and the limits; the code, or
the test, comes in the second, when the walls are up. stdout: `ready GUARDS`, then lines of JSON as values.py
has them. Foreign code says ["defined"] and then answers every call with ["value", value], with ["value", value,
arguments, named] if it changed its arguments, with ["error", type, builtin type] or ["strange", type]. A test says
["call", arguments, named], and in the end ["passed"] or ["failed", type, "test" or "candidate"]. Each speaks only when
it is asked.
"""

import builtins
import marshal
import os
import sys
from _collections import deque
from itertools import islice

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is dear to import
import child as walls  # noqa: E402

sys.path.pop()
SMALL = 10**15  # an integer below it is written in digits; far below the length at which int() and str() refuse
MUTABLE = (list, dict, set, bytearray)
STEERING = (StopIteration, StopAsyncIteration, GeneratorExit)  # they end loops and generators without a word


def receive():
    """The content of the next frame; the process ends where there is none."""
    return marshal.loads(read(int.from_bytes(read(8), "big")))


def read(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def dump(value, depth=0):
    """A value in the format of values.py, whatever a subclass says of itself. TypeError: it is not plain."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        if -SMALL < int(value) < SMALL:
            return int.__repr__(value)
        return '{"int":"' + int.__format__(value, "#x") + '"}'
    if isinstance(value, float):
        text = float.__repr__(value)
        return '{"float":"' + text + '"}' if text in ("nan", "inf", "-inf") else text
    if isinstance(value, str):
        return quote(str.__str__(value))
    if depth >= walls.DEPTH:
        raise TypeError("nested too deeply")
    if isinstance(value, list):
        return "[" + joined(list.__iter__(value), depth) + "]"
    if isinstance(value, dict):
        pairs = [f"[{dump(key, depth + 1)},{dump(entry, depth + 1)}]" for key, entry in dict.items(value)]
        return '{"dict":[' + ",".join(pairs) + "]}"
    for kind in (tuple, set, frozenset, deque):
        if isinstance(value, kind):
            return f'{{"{kind.__name__}":[' + joined(kind.__iter__(value), depth) + "]}"
    return dump_rare(value, depth)


def dump_rare(value, depth):
    for kind in (bytes, bytearray):
        if isinstance(value, kind):
            return f'{{"{kind.__name__}":"{kind.hex(value)}"}}'
    if isinstance(value, complex):
        return f'{{"complex":[{dump(value.real)},{dump(value.imag)}]}}'
    if isinstance(value, range):
        return f'{{"range":[{dump(value.start)},{dump(value.stop)},{dump(value.step)}]}}'
    if isinstance(value, made_by("decimal", "Decimal")) and value.is_finite():
        return f'{{"decimal":"{value}"}}'
    if isinstance(value, made_by("fractions", "Fraction")):
        return f'{{"fraction":[{dump(value.numerator)},{dump(value.denominator)}]}}'
    if hasattr(type(value), "__next__") or isinstance(value, (type({}.keys()), type({}.values()), type({}.items()))):
        entries = list(islice(value, walls.LENGTH + 1))
        if len(entries) > walls.LENGTH:
            raise TypeError("an iterator without an end")
        return '{"iterator":[' + joined(entries, depth) + "]}"
    raise TypeError(f"a value of type {type(value).__name__[:40]}")


def made_by(module, name):
    return getattr(sys.modules.get(module), name, ())


def joined(entries, depth):
    return ",".join([dump(entry, depth + 1) for entry in entries])


def quote(text):
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join([c if " " <= c <= "~" and c not in '"\\' else walls.escape(c) for c in text]) + '"'


def build(tree):
    """The value of a tree, see values.py."""
    if type(tree) is list:
        return [build(entry) for entry in tree]
    return BUILDERS[tree[0]](tree[1]) if type(tree) is tuple else tree


BUILDERS = {
    "tuple": lambda tree: tuple(build(tree)),
    "set": lambda tree: set(build(tree)),
    "frozenset": lambda tree: frozenset(build(tree)),
    "deque": lambda tree: deque(build(tree)),
    "iterator": lambda tree: iter(build(tree)),
    "dict": lambda tree: {build(key): build(value) for key, value in tree},
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda tree: complex(*build(tree)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda tree: range(*build(tree)),
    "decimal": lambda text: made_by("decimal", "Decimal")(text),
    "fraction": lambda tree: made_by("fractions", "Fraction")(*build(tree)),
}


def serve(code, name):
    """Be the foreign code: define it, then answer calls."""
    try:
        space = {"__name__": "answer"}
        exec(compile(code, "answer", "exec"), space)  # noqa: S102 - this process exists to run it
        function = space[name]
        reply = '["defined"]'
    except BaseException as error:
        reply = failure(error)
    while True:
        walls.say(reply + "\n")
        _, given, named = receive()
        reply = answer(function, given, named)


def answer(function, given, named):
    try:
        arguments, keywords = build(given), dict(build(named))
        before = dump_arguments(build(given), dict(build(named)))
        value = function(*arguments, **keywords)
    except BaseException as error:
        return failure(error)
    try:
        text = dump(value)
    except BaseException as error:
        kind = "RecursionError" if isinstance(error, RecursionError) else str(error)[:60]
        return f'["strange",{quote(kind)}]'
    try:
        after = dump_arguments(arguments, keywords)
    except BaseException:
        after = before  # what it put into them cannot travel
    return f'["value",{text}]' if after == before else f'["value",{text},{after}]'


def dump_arguments(given, named):
    return f"{dump(list(given))},{dump([list(pair) for pair in named.items()])}"


def failure(error):
    """The type's name, and the builtin type nearest to it that can be made without arguments."""
    for kind in type(error).__mro__:
        try:
            if kind.__module__ == "builtins" and not issubclass(kind, STEERING) and kind():
                return f'["error",{quote(type(error).__name__[:60])},{quote(kind.__name__)}]'
        except TypeError:
            continue
    return f'["error",{quote(type(error).__name__[:60])},"RuntimeError"]'


def examine(prompt, test, name):
    """Be the test: the function that it checks lives in the other process."""
    last = None

    def candidate(*given, **named):
        nonlocal last
        try:
            line = f'["call",{dump_arguments(given, named)}]\n'
        except TypeError as error:
            walls.say(f'["unsendable",{quote(str(error)[:60])}]\n')
            os._exit(0)
        walls.say(line)
        reply = receive()
        if reply[0] == "error":
            last = stand_in(reply[2])
            raise last
        if reply[2:]:
            after = [*reply[2], *(new for _, new in reply[3])]
            for old, new in zip([*given, *named.values()], after, strict=True):
                restore(old, build(new))
        return build(reply[1])

    try:
        space = {"__name__": "test"}
        exec(compile(prompt, "prompt", "exec"), space)  # noqa: S102 - helpers that the test may use
        space[name] = candidate  # some tests call the function by its own name
        exec(compile(test, "test", "exec"), space)  # noqa: S102
        if "random" in sys.modules:
            sys.modules["random"].seed(0)  # a test that draws its cases draws the same ones every time
        space["check"](candidate)
    except BaseException as error:
        who = "candidate" if error is last else "test"
        walls.say(f'["failed",{quote(type(error).__name__[:60])},"{who}"]\n')
    else:
        walls.say('["passed"]\n')


def stand_in(name):
    kind = getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, STEERING)
    return kind() if known else RuntimeError()


def restore(old, new):
    """Do to an argument what the function did to its copy; a list in a list stays the list it was."""
    if type(old) is not type(new):
        return
    if isinstance(old, list) and len(old) == len(new):
        for place, (mine, theirs) in enumerate(zip(old, new, strict=True)):
            if type(mine) is type(theirs) and isinstance(mine, MUTABLE):
                restore(mine, theirs)
            else:
                old[place] = theirs
    elif isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)


def main():
    modules, limits = receive()
    walls.say(f"ready {walls.build_walls(modules, limits)}\n")
    sys.stdin = None  # the questions come that way
    role, *arguments = receive()
    {"test": examine, "candidate": serve}[role](*arguments)
    os._exit(0)  # no exit handler of foreign code


main()
