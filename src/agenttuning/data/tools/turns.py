"""One agent's turn or reply of the environment, from its text to content, call and layout, and back.

A layout says how a text differs from the usual one of its split: "" for not at all, else `number:piece` joined by "|".
Pieces are white space, single letters and a length, never words: what is written stands in the content and the
arguments. Numbers count from 0: white space before the turn; whether the prefix stands there (y or n); white space
after it; white space before the marker; then between the words, around the arguments, and at the end; last, how many
characters of the content followed the action in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from agenttuning.chat.turns import RowError
from agenttuning.data.tools import arguments as args
from agenttuning.data.tools.arguments import SPACE
from agenttuning.data.tools.grammars import GRAMMARS, Form, Grammar


@dataclass(frozen=True)
class Turn:
    """`name` is None where the text holds no call."""

    content: str
    name: str | None = None
    arguments: dict | None = None
    layout: str = ""


def read(split: str, text: str) -> Turn:
    """Raises RowError for an action that the split's grammar does not have, or more than one."""
    grammar = GRAMMARS[split]
    lead, at = _space(text, 0)
    flag = "y" if grammar.prefix and text.startswith(grammar.prefix, at) else "n"
    after, at = _space(text, at + len(grammar.prefix)) if flag == "y" else ("", at)
    head = [lead, flag, after]
    place = _marker(grammar, text, at)
    if place < 0:
        return Turn(text[at:], layout=_layout(head, grammar, None, bool(text[at:])))
    thought = text[at:place].rstrip(SPACE)
    head.append(text[at + len(thought) : place])
    form, gaps, end = _form(grammar, text, place + len(grammar.marker))
    arguments, spelled, end = args.READERS[form.kind](form.name, text, end) if form.kind != "bare" else ({}, [], end)
    rest = text[end:]
    if _marker(grammar, rest, 0) >= 0:
        raise RowError("more than one action in a turn")
    tail, rest = (rest, "") if not rest.strip(SPACE) else ("", rest)
    pieces = [*head, *gaps, *spelled, tail, str(len(rest))]
    return Turn(thought + rest, form.name, arguments, _layout(pieces, grammar, form, bool(thought)))


def write(split: str, turn: Turn) -> str:
    """The text that `read` made the turn of. Raises RowError for a layout, tool or arguments that no text has."""
    grammar = GRAMMARS[split]
    if turn.name is None:
        lead, flag, after = _pieces(turn.layout, grammar, None, bool(turn.content))
        return lead + (grammar.prefix if flag == "y" else "") + after + turn.content
    form = next((form for form in grammar.forms if form.name == turn.name), None)
    if form is None:
        raise RowError(f"there is no tool {turn.name!r} in {split}")
    count = _changes(turn.layout).get(_length(form) - 1, "0")
    if not count.isdecimal() or int(count) > len(turn.content):
        raise RowError(f"the layout {turn.layout!r} is not one of this content")
    cut = len(turn.content) - int(count)
    thought, rest = turn.content[:cut], turn.content[cut:]
    pieces = _pieces(turn.layout, grammar, form, bool(thought))
    lead, flag, after, before, *gaps = pieces[: 4 + len(form.words) // 2]
    words = "".join(gap + word for gap, word in zip(gaps, form.words[1::2], strict=True))
    closing = {"(": ")", "[": "]"}[form.words[-1]] if form.kind == "bracket" else args.CLOSING[form.kind]
    spelled = pieces[4 + len(gaps) : -2]
    inside = args.write(form.kind, form.name, turn.arguments, spelled, closing)
    prefix = grammar.prefix if flag == "y" else ""
    return f"{lead}{prefix}{after}{thought}{before}{grammar.marker}{words}{inside}{pieces[-2]}{rest}"


def read_reply(split: str, text: str) -> Turn:
    """A reply of the environment: its content is the text without the words that announce it."""
    grammar = GRAMMARS[split]
    if not grammar.observation:
        return Turn(text)
    if not text.startswith(grammar.observation):
        return Turn(text, layout="n")
    rest = text[len(grammar.observation) :]
    number = next(number for number, gap in enumerate(grammar.after_observation) if rest.startswith(gap))
    return Turn(rest[len(grammar.after_observation[number]) :], layout=str(number or ""))


def write_reply(split: str, turn: Turn) -> str:
    """The text that `read_reply` made the turn of. Raises RowError for a layout that no text has."""
    grammar = GRAMMARS[split]
    if turn.layout == "n" or not grammar.observation and not turn.layout:
        return turn.content
    known = {str(number or ""): gap for number, gap in enumerate(grammar.after_observation)}
    if not grammar.observation or turn.layout not in known:
        raise RowError(f"the layout {turn.layout!r} is not one of a reply in {split}")
    return grammar.observation + known[turn.layout] + turn.content


def _space(text: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(text) and text[end] in SPACE:
        end += 1
    return text[at:end], end


def _marker(grammar: Grammar, text: str, at: int) -> int:
    """Where the first action begins: the first marker at the start of a line, else the first one anywhere, else -1."""
    first = place = text.find(grammar.marker, at)
    while place >= 0:
        before = place
        while before and text[before - 1] in " \t":
            before -= 1
        if not before or text[before - 1] == "\n":
            return place
        place = text.find(grammar.marker, place + 1)
    return first


def _form(grammar: Grammar, text: str, at: int) -> tuple[Form, list[str], int]:
    for form in grammar.forms:
        gaps, end = [], at
        for word in form.words[1::2]:
            gap, end = _space(text, end)
            if not text.startswith(word, end):
                break
            gaps.append(gap)
            end += len(word)
        else:
            return form, gaps, end
    raise RowError("an action that the grammar does not have")


def _length(form: Form | None) -> int:
    return 3 if form is None else 4 + len(form.words) // 2 + len(args.usual(form.kind, form.name)) + 2


def _pieces(layout: str, grammar: Grammar, form: Form | None, thought: bool) -> list[str]:
    """All pieces of a text: the usual ones, with the changes of the layout. `thought`: whether there is one."""
    changes = _changes(layout)
    flag = changes.get(1, "y" if grammar.prefix and thought and form else "n")
    pieces = ["", flag, grammar.after_prefix if flag == "y" else ""]
    if form:
        pieces += [grammar.before_marker if thought or flag == "y" else "", *form.words[::2]]
        pieces += [*args.usual(form.kind, form.name), "", "0"]
    if not set(changes) <= set(range(len(pieces))):
        raise RowError(f"the layout {layout!r} is not one of this turn")
    return [changes.get(number, piece) for number, piece in enumerate(pieces)]


def _layout(pieces: list[str], grammar: Grammar, form: Form | None, thought: bool) -> str:
    usual = _pieces(f"1:{pieces[1]}", grammar, form, thought)  # what is usual after a prefix depends on there being one
    usual[1] = _pieces("", grammar, form, thought)[1]
    changes = [f"{number}:{piece}" for number, piece in enumerate(pieces) if piece != usual[number]]
    return "|".join(changes)


def _changes(layout: str) -> dict[int, str]:
    changes = {}
    for part in layout.split("|") if layout else ():
        number, colon, piece = part.partition(":")
        if not colon or not number.isascii() or not number.isdecimal():
            raise RowError(f"the layout {layout!r} cannot be read")
        changes[int(number)] = piece
    return changes
