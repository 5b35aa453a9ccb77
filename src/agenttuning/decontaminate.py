"""The paper's check (its appendix B): how much of each evaluation example stands in the training data, and where.

Training texts are the turns of the conversations that a recipe reads. data/against.py reads the examples,
data/ngrams.py has the rule, data/contamination.py judges, report/contamination.py writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.data.contamination import KINDS, Check, Matches, Verdict, judge

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe

CHUNK = 256  # conversations whose tokens are held at once
RULE = "Llama-2: 10 equal tokens, then up to 4 that differ; dirty above 0.8 of the tokens, clean below 0.2"
Place = tuple[str, str, int]  # source, id of the conversation, number of the turn


def decontaminate(
    recipe: Recipe,
    against: Sequence[str],
    data_paths: Mapping[str, str | Path] | None = None,
    fields: Sequence[str] = (),
) -> dict:
    """Compare the sources of `recipe` with the examples of `against` (data/against.py), print the counts, return the
    report, and write it to <run_dir>/contamination.json and .md. Nothing is dropped: the report names the conversations
    that hold a part of a dirty example. Raises UserError for what the examples and the sources raise.
    """
    from agenttuning.chat import load_for
    from agenttuning.data.against import read_against
    from agenttuning.report.contamination import table, write

    wanted = read_against(against, fields)
    tokenizer = load_for(recipe)
    check = Check(wanted.examples, tokenizer, wanted.sources)
    counts = {"conversations": 0, "malformed": 0, "turns": 0, "tokens": 0}
    training = _conversations(recipe, data_paths or {}, counts)
    spans, names, best = [], [], Longest(check)
    while chunk := list(islice(training, CHUNK)):
        matches = check.matches([messages for _, _, messages in chunk])
        counts["tokens"] += matches.tokens
        spans += matches.by_row(len(chunk))
        names += [(source, row_id) for source, row_id, _ in chunk]
        best.keep(matches, [(source, row_id) for source, row_id, _ in chunk])
    verdict = judge(check, spans)
    report = {
        "recipe": recipe.name,
        "rule": RULE,
        "check": check.identity(),
        "training": counts | {"with_part_of_dirty": len(verdict.dropped)},
        "suites": _suites(check, verdict, best),
        "not_compared": wanted.missing,
        "with_part_of_dirty": [{"source": names[row][0], "id": names[row][1]} for row in verdict.dropped],
    }
    write(recipe.run_dir, report)
    print(table(report))
    print(f"written: {recipe.run_dir / 'contamination.json'}, {recipe.run_dir / 'contamination.md'}", flush=True)
    return report


class Longest:
    """The longest span found of each text of the examples: its first token, its length and the turn that holds it."""

    def __init__(self, check: Check) -> None:
        import numpy

        self.starts = check.texts.starts
        self.length = numpy.zeros(len(check.lengths), dtype=numpy.int64)
        self.start = numpy.zeros(len(check.lengths), dtype=numpy.int64)
        self.place: dict[int, Place] = {}

    def keep(self, matches: Matches, rows: Sequence[tuple[str, str]]) -> None:
        """Take the spans that are longer than those so far; `rows` names the conversations as (source, id)."""
        import numpy

        pieces = numpy.searchsorted(self.starts, matches.tested, "right") - 1
        longer = numpy.nonzero(matches.lengths > self.length[pieces])[0]
        order = longer[numpy.lexsort((matches.turns[longer], -matches.lengths[longer], pieces[longer]))]
        found, first = numpy.unique(pieces[order], return_index=True)
        self.length[found] = matches.lengths[order[first]]
        self.start[found] = matches.tested[order[first]]
        for piece, turn in zip(found.tolist(), matches.turns[order[first]].tolist(), strict=True):
            row, number = matches.places[turn][0]
            self.place[piece] = (*rows[row], number)


def _conversations(
    recipe: Recipe, paths: Mapping[str, str | Path], counts: dict[str, int]
) -> Iterator[tuple[str, str, list[dict]]]:
    """(source, id, messages) of every conversation of every source; `counts` is kept up to date."""
    from tqdm import tqdm

    from agenttuning.data.lock import LOCK, pin
    from agenttuning.data.quarantine import Quarantine, rows
    from agenttuning.data.sources import load_card

    for name in recipe.mixture.sources:
        cards = recipe.root / "data_cards"
        card, aside = pin(load_card(name, cards), paths.get(name), lock=cards / LOCK), Quarantine(name)
        bar = tqdm(rows(card, paths.get(name), aside), desc=name, unit=" rows", disable=not sys.stderr.isatty())
        for row in bar:
            counts["conversations"] += 1
            counts["turns"] += len(row["messages"])
            yield name, row["id"], row["messages"]
        counts["malformed"] += len(aside.records)
        aside.check(recipe.mixture.max_quarantined)


def _suites(check: Check, verdict: Verdict, best: Longest) -> dict[str, dict]:
    suites: dict[str, dict] = {}
    for number, (example, kind) in enumerate(zip(check.examples, verdict.kinds, strict=True)):
        tokens, bad = int(verdict.tokens[number]), int(verdict.contaminated[number])
        suite = suites.setdefault(
            example.suite, dict.fromkeys(("examples", *KINDS, "tokens", "contaminated_tokens"), 0) | {"found": []}
        )
        for key, more in (("examples", 1), (kind, 1), ("tokens", tokens), ("contaminated_tokens", bad)):
            suite[key] += more
        if kind in ("between", "dirty"):
            longest = max(check.pieces[number].tolist(), key=lambda piece: best.length[piece])
            begin, length = int(best.start[longest]), int(best.length[longest])
            source, row, turn = best.place[longest]
            span = check.texts.tokens[begin : begin + length].tolist()
            suite["found"].append(
                {
                    "id": example.id,
                    "share": bad / tokens,
                    "kind": kind,
                    "span_tokens": length,
                    "span": check.tokenizer.decode(span),
                    "training": {"source": source, "id": row, "turn": turn},
                }
            )
    for suite in suites.values():
        suite["found"].sort(key=lambda one: (-one["share"], one["id"]))
    return suites
