"""The items of MMLU, GSM8K and HumanEval: official files from a folder or from the Hub at a commit, or practice items.

Whatever they come from, rows have one shape: `id`, and the official columns (MMLU: question, subject, choices, answer
0-3; GSM8K: question, answer; HumanEval: prompt, canonical_solution, test, entry_point).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agenttuning.data.convert import Unreadable
from agenttuning.data.files import SUFFIXES, read_file
from agenttuning.data.lock import LOCK, pin
from agenttuning.data.sources import SourceCard, read
from agenttuning.errors import UserError
from agenttuning.general.protocol import FOLDER
from agenttuning.recipe.yaml_io import read_mapping

LETTERS = "ABCD"
EXAMPLES = {"mmlu": "dev", "gsm8k": "train"}  # the split that examples are drawn from
# name of a file or of a folder above it -> split; HumanEval's official file is HumanEval.jsonl
SPLITS = {"test": "test", "dev": "dev", "train": "train", "humaneval": "test", "human-eval": "test"}
TEXTS = {"mmlu": ("question", "subject"), "gsm8k": ("question", "answer")}


@dataclass(frozen=True)
class Documents:
    """source: in words; revision: the Hub's commit; practice: items of our own. examples: the other split's rows."""

    task: str
    test: list[dict]
    source: str
    revision: str | None = None
    practice: bool = False
    examples: list[dict] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Of all items and examples, in hex."""
        return hashlib.sha256(json.dumps([self.test, self.examples], sort_keys=True).encode()).hexdigest()

    def cut(self, most: int | None) -> Documents:
        """The first `most` items; of MMLU the first ones of every subject, so that a part is not one subject."""
        if most is None or most >= len(self.test):
            return self
        if most < 1:
            raise UserError(f"{most} items were asked for; a score needs at least 1")
        seen: Counter[str] = Counter()
        ranked = []
        for place, row in enumerate(self.test):
            seen[row.get("subject", "")] += 1
            ranked.append((seen[row.get("subject", "")] if self.task == "mmlu" else 0, place))
        kept = sorted(place for _, place in sorted(ranked)[:most])
        return Documents(
            self.task, [self.test[p] for p in kept], self.source, self.revision, self.practice, self.examples
        )


def load(task: str, path: str | Path | None) -> Documents:
    """Official items of mmlu, gsm8k or humaneval from `path`, a file or folder, or from the Hub. Raises UserError for
    what is missing or no such items.
    """
    rows, source, revision = _local(task, Path(path)) if path is not None else _hub(task)
    if task == "humaneval":
        from agenttuning.general import humaneval

        return Documents(task, humaneval.checked([row for _, row in rows], source), source, revision)
    made: dict[str, list[dict]] = {"test": [], EXAMPLES[task]: []}
    for split, row in rows:
        if split in made:
            made[split].append(_checked(task, row, f"{source}, {split} row {len(made[split])}"))
    wanted = [split for split, found in made.items() if not found]
    if wanted:
        raise UserError(
            f"{source} holds no {' and no '.join(wanted)} rows of {task}; questions or their examples would be "
            f"missing; give a folder with the files of {_cards()[task].hub_id} (`hf download --repo-type dataset`)"
        )
    for split, found in made.items():
        for number, row in enumerate(found):
            row["id"] = f"{row['subject']}/{split}/{number}" if task == "mmlu" else f"{split}/{number}"
    return Documents(task, made["test"], source, revision, examples=made[EXAMPLES[task]])


def practice(task: str, n: int, seed: int = 0) -> Documents:
    """`n` items of our own in the official columns, for the tiny twin."""
    source = "practice items of our own"
    if task == "mmlu":
        from agenttuning.general import mmlu

        test, dev = mmlu.practice(n, seed)
        return Documents(task, test, source, practice=True, examples=dev)
    if task == "gsm8k":
        from agenttuning.general import gsm8k

        made = gsm8k.practice(n + 8, seed)
        return Documents(task, made[:n], source, practice=True, examples=made[n:])
    from agenttuning.general import humaneval

    return Documents(task, humaneval.practice(n, seed), source, practice=True)


def _cards() -> dict[str, SourceCard]:
    known = read_mapping(FOLDER / "sources.yaml")
    return {name: SourceCard(name, "messages", **facts) for name, facts in known.items()}


def _hub(task: str) -> tuple[list[tuple[str, dict]], str, str]:
    try:
        card = pin(_cards()[task], lock=FOLDER / LOCK)
        rows = list(read(card))
    except UserError as error:
        why = str(error).partition("; the source")[0]
        raise UserError(f"{why}; {task} could not be asked; give your copy: --data {task}=FOLDER") from error
    return rows, f"{card.hub_id} at {card.revision}", card.revision


def _local(task: str, path: Path) -> tuple[list[tuple[str, dict]], str, None]:
    if not path.exists():
        raise UserError(f"{path} does not exist; {task} could not be asked; check --data {task}=PATH")
    suffixes = (*SUFFIXES, ".csv", ".gz") if task != "gsm8k" else SUFFIXES
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in suffixes and f.is_file())
    if task == "mmlu" and any(file.parent.name == "all" for file in files):
        files = [file for file in files if file.parent.name == "all"]  # the subjects' own folders repeat it
    rows: list[tuple[str, dict]] = []
    for file in files:
        split = _split(file, path)
        if split is not None:
            rows += [(split, row) for row in _rows(task, file)]
    return rows, str(path.name), None


def _split(file: Path, path: Path) -> str | None:
    words = [file.name.split("-")[0].split(".")[0], file.parent.name, file.stem.rpartition("_")[2]]
    if file == path or path.is_dir():
        for word in words:
            if (split := SPLITS.get(word.lower())) is not None:
                return split
    return "test" if file == path else None


def _rows(task: str, file: Path) -> list[dict]:
    if file.suffix == ".csv":  # Hendrycks' own files: question, four choices, letter; no header
        subject = file.stem.removesuffix("_test").removesuffix("_dev").removesuffix("_val")
        with file.open(newline="", encoding="utf-8") as text:
            found = [row for row in csv.reader(text) if row]
        if any(len(row) != 6 or row[5] not in LETTERS for row in found):
            raise UserError(f"{file} has a row that is not question, four choices and a letter; repair or replace it")
        return [
            {"subject": subject, "question": row[0], "choices": row[1:5], "answer": LETTERS.index(row[5])}
            for row in found
        ]
    if task == "humaneval" and file.suffix == ".gz":
        from agenttuning.general import humaneval

        return humaneval.load(file)
    return list(read_file(file))


def _checked(task: str, row: object, where: str) -> dict:
    texts = TEXTS[task]
    good = isinstance(row, dict) and all(isinstance(row.get(name), str) and row[name].strip() for name in texts)
    if good and task == "mmlu":
        choices, answer = row.get("choices"), row.get("answer")
        answer = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
        good = isinstance(choices, list) and len(choices) == 4 and all(isinstance(one, str) for one in choices)
        good = good and isinstance(answer, int) and 0 <= answer < 4 and row["subject"].replace("_", "").isalnum()
        row = {**row, "answer": answer}
    if good and task == "gsm8k":
        from agenttuning.general import numbers

        good = numbers.gold(row["answer"]) is not None
    if not good:
        reason = row.reason if isinstance(row, Unreadable) else f"it lacks what {task} has ({', '.join(texts)}, ..)"
        raise UserError(f"{where} is no item of {task}: {reason}; its score would be wrong; repair or replace the file")
    names = (*texts, "choices", "answer") if task == "mmlu" else texts
    return {name: row[name] for name in names}
