"""The paper's check (its appendix B): how much of each evaluation example stands in the training data, and where.

Training texts are the turns of the conversations that a recipe reads, each different turn once; evaluation texts are
the string fields of a user's rows, or the test items of one of our own suites. data/ngrams.py has the rule. An example
is dirty above 80 % contaminated tokens and clean below 20 %, as in the paper.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.ngrams import Index, Texts
    from agenttuning.recipe import Recipe

DIRTY, CLEAN = 0.8, 0.2  # Zeng et al. 2023, appendix B
KINDS = ("clean", "between", "dirty", "too_short")
BATCH = 4096  # turns whose tokens are held at once
SHOWN = 20  # examples of a suite in the Markdown report; the JSON has all that are not clean


@dataclass(frozen=True)
class Example:
    """One evaluation example: its suite, its id and its texts."""

    suite: str
    id: str
    texts: tuple[str, ...]


@dataclass
class Best:
    """The longest span found for each evaluation text: its place, length and the turn that holds it."""

    length: numpy.ndarray
    start: numpy.ndarray
    turn: dict[int, tuple[str, str, int]] = field(default_factory=dict)


def decontaminate(
    recipe: Recipe,
    against: Sequence[str],
    data_paths: Mapping[str, str | Path] | None = None,
    fields: Sequence[str] = (),
) -> dict:
    """Compare the sources of `recipe` with the examples of `against`, print the counts, return the report, and write it
    to <run_dir>/contamination.json and .md.

    against: NAME=FILE (JSONL, JSON or Parquet rows, or a folder of them; `fields` names their text fields, by default
    every string in a row counts) or the name of a suite in evaluation/suites/. Raises UserError for an unreadable
    file, a suite without examples, and what reading the sources raises.
    """
    import numpy

    from agenttuning.chat import load_for
    from agenttuning.data.ngrams import Index, Texts, add

    tokenizer = load_for(recipe)
    examples = [example for name in against for example in _examples(name, recipe, fields)]
    pieces = list(dict.fromkeys(text for example in examples for text in example.texts))
    texts = Texts.of(_ids(tokenizer, pieces))
    index = Index(texts)
    marks = numpy.zeros(len(texts.tokens) + 1, dtype=numpy.int64)
    best = Best(numpy.zeros(len(pieces), dtype=numpy.int64), numpy.zeros(len(pieces), dtype=numpy.int64))
    counts = {"conversations": 0, "malformed": 0, "turns": 0, "different_turns": 0, "tokens": 0}
    training = _turns(recipe, data_paths or {}, counts)
    while turns := list(islice(training, BATCH)):
        batch = Texts.of(_ids(tokenizer, [text for _, text in turns]))
        counts["tokens"] += len(batch.tokens)
        spans = index.spans(batch)
        add(marks, spans)
        _keep_longest(best, index, batch, spans, [place for place, _ in turns])
    hit = numpy.cumsum(marks)[:-1] > 0
    report = {
        "recipe": recipe.name,
        "rule": "Llama-2: 10 equal tokens, then up to 4 that differ; dirty above 0.8 of the tokens, clean below 0.2",
        "training": counts,
        "suites": _judged(examples, pieces, texts, hit, best, tokenizer),
    }
    _write(recipe.run_dir, report)
    print(table(report))
    print(f"written: {recipe.run_dir / 'contamination.json'}, {recipe.run_dir / 'contamination.md'}", flush=True)
    return report


def _examples(name: str, recipe: Recipe, fields: Sequence[str]) -> list[Example]:
    suite, equals, path = name.partition("=")
    found = _rows_of(suite, Path(path), fields) if equals else _own(suite, recipe)
    if not found:
        raise UserError(f"{name} holds no text; nothing would be compared with it and all would look clean; check it")
    return found


def _rows_of(suite: str, path: Path, fields: Sequence[str]) -> list[Example]:
    from agenttuning.data.convert import Unreadable
    from agenttuning.data.sources import SourceCard, read

    if not path.exists():
        raise UserError(f"{path} does not exist; {suite} would not be compared; check the path")
    found = []
    for number, (split, row) in enumerate(read(SourceCard(suite, "messages", path=str(path)), path)):
        if isinstance(row, Unreadable):
            raise UserError(f"{path}: {row.reason}; an example would be left out of the check; repair the file")
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise UserError(
                f"{path}: row {number} has no field {missing[0]!r}; its text would be left out; see --fields"
            )
        values = [row[name] for name in fields] if fields else row
        texts = tuple(text for text in _strings(values) if text.strip())
        if texts:
            found.append(Example(suite, f"{split}_{number}", texts))
    return found


def _strings(value: object, depth: int = 20) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()  # a lone surrogate has no tokens
    elif isinstance(value, dict | list | tuple) and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, depth - 1)


def _own(name: str, recipe: Recipe) -> list[Example]:
    from agenttuning.environments import TASKS
    from agenttuning.miniature.lm_eval_docs import documents
    from agenttuning.suites import FOLDER, load

    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no suite {name!r}; nothing would be compared; give NAME=FILE, or one of: {known}")
    suite, found = load(path), []
    for task, rules in suite.protocol.tasks.items():
        for item in TASKS[task].items("test", rules.n, rules.seed):
            environment = TASKS[task].Environment(item)
            try:
                found.append(Example(task, item["id"], (environment.reset(),)))
            finally:
                environment.close()
    for task, rules in suite.general.items():
        for document in documents(task, rules.n, rules.seed):
            found.append(Example(task, document["id"], (document["question"], document["answer"])))
    return found


def _turns(
    recipe: Recipe, paths: Mapping[str, str | Path], counts: dict[str, int]
) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Each different turn once, as ((source, conversation's id, number of the turn), text)."""
    import hashlib

    from tqdm import tqdm

    from agenttuning.data.lock import LOCK, pin
    from agenttuning.data.quarantine import Quarantine, rows
    from agenttuning.data.sources import load_card

    seen: set[bytes] = set()
    for name in recipe.mixture.sources:
        cards = recipe.root / "data_cards"
        card, aside = pin(load_card(name, cards), paths.get(name), lock=cards / LOCK), Quarantine(name)
        bar = tqdm(rows(card, paths.get(name), aside), desc=name, unit=" rows", disable=not sys.stderr.isatty())
        for row in bar:
            counts["conversations"] += 1
            for number, message in enumerate(row["messages"]):
                counts["turns"] += 1
                digest = hashlib.blake2b(message["content"].encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    counts["different_turns"] += 1
                    yield (name, row["id"], number), message["content"]
        counts["malformed"] += len(aside.records)
        aside.check(recipe.mixture.max_quarantined)


def _ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    from agenttuning.chat.tokenizer import encode_texts

    return encode_texts(tokenizer, texts) if texts else []


def _keep_longest(best: Best, index: Index, batch: Texts, spans, places: list[tuple[str, str, int]]) -> None:
    import numpy

    pieces = numpy.searchsorted(index.texts.starts, spans.tested, "right") - 1
    turns = numpy.searchsorted(batch.starts, spans.trained, "right") - 1
    for place in numpy.argsort(-spans.lengths, kind="stable"):
        piece = int(pieces[place])
        if spans.lengths[place] > best.length[piece]:
            best.length[piece] = spans.lengths[place]
            best.start[piece] = spans.tested[place]
            best.turn[piece] = places[int(turns[place])]


def _judged(examples: list[Example], pieces: list[str], texts: Texts, hit, best: Best, tokenizer) -> dict[str, dict]:
    from agenttuning.data.ngrams import N

    number = {text: place for place, text in enumerate(pieces)}
    suites: dict[str, dict] = {}
    for example in examples:
        places = [number[text] for text in example.texts]
        spans = [slice(texts.starts[place], texts.starts[place + 1]) for place in places]
        tokens, bad = (sum(map(int, one)) for one in ([s.stop - s.start for s in spans], [hit[s].sum() for s in spans]))
        share = bad / tokens if tokens else 0.0
        kind = "dirty" if share > DIRTY else "clean" if share < CLEAN else "between"
        if all(one.stop - one.start < N for one in spans):
            kind = "too_short"  # no window of it can be found, which makes it neither clean nor dirty
        suite = suites.setdefault(
            example.suite,
            dict.fromkeys(("examples", *KINDS, "tokens", "contaminated_tokens"), 0) | {"found": []},
        )
        for key, more in (("examples", 1), (kind, 1), ("tokens", tokens), ("contaminated_tokens", bad)):
            suite[key] += more
        if kind in ("between", "dirty"):
            longest = max(places, key=lambda place: best.length[place])
            begin, length = int(best.start[longest]), int(best.length[longest])
            source, row, turn = best.turn[longest]
            suite["found"].append(
                {
                    "id": example.id,
                    "share": share,
                    "kind": kind,
                    "span_tokens": length,
                    "span": tokenizer.decode(texts.tokens[begin : begin + length].tolist()),
                    "training": {"source": source, "id": row, "turn": turn},
                }
            )
    for suite in suites.values():
        suite["found"].sort(key=lambda one: (-one["share"], one["id"]))
    return suites


def table(report: dict) -> str:
    """The counts, one line a suite."""
    from agenttuning.chat.show import escape
    from agenttuning.scoring.compare import table as aligned

    rows = [["suite", "examples", *(kind.replace("_", " ") for kind in KINDS), "contaminated tokens"]]
    for name, suite in report["suites"].items():
        counts = [f"{suite[key]:,}" for key in ("examples", *KINDS)]
        rows.append([escape(name), *counts, f"{suite['contaminated_tokens'] / max(1, suite['tokens']):.2%}"])
    training = report["training"]
    return "\n".join(
        [
            f"{training['conversations']:,} conversations ({training['malformed']:,} more are malformed), "
            f"{training['different_turns']:,} different turns of {training['turns']:,}, {training['tokens']:,} tokens "
            "compared",
            *aligned(rows),
        ]
    )


def _write(run_dir: Path, report: dict) -> None:
    from agenttuning.chat.show import escape

    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "contamination.json").write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")
    lines = [f"# Contamination: {report['recipe']}", "", report["rule"] + ".", "", "```", table(report), "```", ""]
    for name, suite in report["suites"].items():
        lines += [f"## {escape(name)}", ""] if suite["found"] else []
        for one in suite["found"][:SHOWN]:
            place = one["training"]
            where = escape(f"{place['source']} {place['id']} turn {place['turn']}")
            lines += [
                f"- {escape(one['id'])}: {one['kind']}, {one['share']:.0%}; {one['span_tokens']} tokens in {where}"
            ]
            lines += ["", *(f"      {line}" for line in escape(one["span"]).splitlines()), ""]
        if len(suite["found"]) > SHOWN:
            lines += [f"and {len(suite['found']) - SHOWN:,} more in contamination.json", ""]
    (run_dir / "contamination.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8", errors="replace")
