"""Show what a model would be trained on: supervised tokens green, the rest dim, and the counts per source.

Content is other people's output: control characters (the os rows hold terminal escapes) are shown, not obeyed.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.encode import IGNORE
from agenttuning.chat.tokenizer import load_for, piece_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

GREEN, DIM, RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"
# Control characters, invisible formatting (some of it reorders text), line separators, surrogates.
HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def show_cli(recipe: Recipe, data_paths: Mapping[str, str | Path], n: int) -> tuple[Prepared, PreTrainedTokenizerFast]:
    """Print `n` conversations of each source of the recipe's mixture as they would be trained, then the counts per
    source. Returns what it showed and the tokenizer, for the page.

    The mixture is prepared in <run_dir>/data if it is not there yet. Raises what `data.prepare.prepare` raises.
    """
    from agenttuning.data.prepare import prepare
    from agenttuning.data.table import mixture_table

    tokenizer = load_for(recipe)
    prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
    rows = prepared.load()
    colour = wants_colour()
    names = rows["source"][:]
    shown = [
        place for name in sorted(set(names)) for place in [i for i, other in enumerate(names) if other == name][:n]
    ]
    for row in map(rows.__getitem__, shown):
        trained = sum(label != IGNORE for label in row["labels"])
        print(f"--- {escape(row['source'])} {escape(row['id'])}: {len(row['input_ids'])} tokens, {trained} supervised")
        print(render(row["input_ids"], row["labels"], tokenizer, colour), end="\n\n")
    print(mixture_table(prepared.mixture))
    return prepared, tokenizer


def wants_colour() -> bool:
    """Colour on a terminal or when FORCE_COLOR is set, never when NO_COLOR is."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def stretches(input_ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerFast) -> list[tuple[bool, str]]:
    """The text of the ids, cut wherever supervision begins or ends: (supervised, text), safe to print."""
    table = piece_bytes(tokenizer)
    return [
        (trained, escape(b"".join(table[token] for token, _ in group).decode("utf-8", "replace")))
        for trained, group in groupby(zip(input_ids, labels, strict=True), key=lambda pair: pair[1] != IGNORE)
    ]


def render(input_ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerFast, colour: bool) -> str:
    """Text of the ids with supervised stretches in green (or between « and ») and the rest dim, safe to print."""
    parts = []
    for trained, text in stretches(input_ids, labels, tokenizer):
        if colour:
            parts.append(f"{GREEN if trained else DIM}{text}{RESET}")
        else:
            parts.append(f"«{text}»" if trained else text)
    return "".join(parts)


def escape(text: str) -> str:
    """Replace every character that a terminal might obey, but newline and tab, by its Python escape."""
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if char not in "\n\t" and unicodedata.category(char) in HIDDEN
        else char
        for char in text
    )
