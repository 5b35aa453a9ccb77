"""The items of MMLU, GSM8K and HumanEval: official files from a folder or from the Hub at a commit, or practice items.

Whatever they come from, rows have one shape: `id`, and the official columns (MMLU: question, subject, choices, answer
0-3; GSM8K: question, answer; HumanEval: prompt, canonical_solution, test, entry_point).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from agenttuning.data.convert import Unreadable
from agenttuning.data.files import SUFFIXES, read_file
from agenttuning.data.lock import LOCK, is_commit, pin
from agenttuning.data.sources import SourceCard, read
from agenttuning.errors import UserError, nearest
from agenttuning.general.protocol import FOLDER
from agenttuning.general.task_files import installed
from agenttuning.recipe.yaml_io import read_mapping

LETTERS = "ABCD"
EXAMPLES = {"mmlu": "dev", "gsm8k": "train"}  # the split that examples are drawn from
SHOWN = 5  # examples of a subject before a question of MMLU (eval_mmlu_hf.py, k=5; as everybody shows them)
# First word of a file's name, or a folder above it -> split; None: rows that are never asked nor shown. HumanEval's
# official file is HumanEval.jsonl.
SPLITS = {"test": "test", "dev": "dev", "train": "train", "humaneval": "test", "human-eval": "test"}
SPLITS |= dict.fromkeys(("val", "validation", "auxiliary_train"))
KINDS = {"mmlu": (*SUFFIXES, ".csv"), "gsm8k": SUFFIXES, "humaneval": (*SUFFIXES, ".gz")}
PARTS = {"mmlu": "all", "gsm8k": "main"}  # the folder of a Hub repository that counts where there are several
TEXTS = {"mmlu": ("question", "subject"), "gsm8k": ("question", "answer")}
SAID = {"mmlu": ("question", "choices", "answer"), "gsm8k": ("question",), "humaneval": ("prompt", "test")}


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

    @property
    def strange(self) -> str | None:
        """The first item that reads otherwise than in the official data, of the few that are known by their sha256
        (sources.yaml): a translation, other numbers, another order. None where there is none.
        """
        known, found = read_mapping(FOLDER / "sources.yaml")[self.task]["known"], {row["id"]: row for row in self.test}
        return next((name for name, wanted in known.items() if _said(self.task, found.get(name)) != wanted), None)

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
        return replace(self, test=[self.test[place] for place in kept])


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
    card = _cards()[task]
    if wanted := [split for split, found in made.items() if not found and split != "train"]:
        raise UserError(
            f"{source} holds no {' and no '.join(wanted)} rows of {task}; questions or their examples would be "
            f"missing; give a folder with the files of {card.hub_id} (`hf download --repo-type dataset`)"
        )
    if (many := len(made["test"])) > card.splits["test"]:
        raise UserError(
            f"{source} holds {many:,} test rows of {task}, which has {card.splits['test']:,}; some would count twice; "
            "give a folder with one copy of the official files"
        )
    if task == "mmlu":
        made = {split: sorted(found, key=lambda row: row["subject"]) for split, found in made.items()}
        _check_subjects(made, source)
    named = {split: _named(found, split) for split, found in made.items()}
    return Documents(task, named["test"], source, revision, examples=named[EXAMPLES[task]])


def _said(task: str, row: dict | None) -> str | None:
    """sha256 of what an item says, in hex: its letters and digits, as copies differ in blanks, quotes and case."""
    if row is None:
        return None
    said = [str(row[name]) for name in SAID[task]] + ([row["answer"].rpartition("####")[2]] if task == "gsm8k" else [])
    return hashlib.sha256("".join(filter(str.isalnum, "".join(said))).lower().encode()).hexdigest()


def _named(rows: list[dict], split: str) -> list[dict]:
    """Rows with an `id` that is the same whatever files they came in: their place, in MMLU that in their subject."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        place = f"{row['subject']}/{split}" if "subject" in row else split
        named.append({"id": f"{place}/{seen[place]}", **row})
        seen[place] += 1
    return named


def _check_subjects(made: dict[str, list[dict]], source: str) -> None:
    known = mmlu_subjects()
    shown = Counter(row["subject"] for row in made["dev"])
    for subject in dict.fromkeys(row["subject"] for row in made["test"]):
        if known and subject not in known:
            raise UserError(
                f"{source} has the subject {subject!r}, which is none of MMLU's {len(known)}; these are other "
                f"questions; {nearest(subject, known)}"
            )
        if shown[subject] < SHOWN:
            raise UserError(
                f"{source} has {shown[subject]} dev rows of {subject}, and {SHOWN} are shown before each question; "
                "other prompts would be asked; give the official dev files too"
            )


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


def mmlu_subjects() -> set[str]:
    """MMLU's 57 subjects, by the names of lm-eval's own task files; none where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        return set()
    files = Path(installed("mmlu/default/_default_template_yaml")).parent.glob("mmlu_*.yaml")
    return {file.stem.removeprefix("mmlu_") for file in files}


def _cards() -> dict[str, SourceCard]:
    cards = read_mapping(FOLDER / "sources.yaml")
    own = {name: {key: value for key, value in facts.items() if key != "known"} for name, facts in cards.items()}
    return {name: SourceCard(name, "messages", **facts) for name, facts in own.items()}


def _hub(task: str) -> tuple[list[tuple[str, dict]], str, str]:
    try:
        card = pin(_cards()[task], lock=FOLDER / LOCK)
        rows = list(read(card))
    except UserError as error:
        why = str(error).partition("; the source")[0]
        raise UserError(f"{why}; {task} could not be asked; give your copy: --data {task}=FOLDER") from error
    return rows, f"{card.hub_id} at {card.revision}", card.revision


def _local(task: str, path: Path) -> tuple[list[tuple[str, dict]], str, str | None]:
    if not path.exists():
        raise UserError(f"{path} does not exist; {task} could not be asked; check --data {task}=PATH")
    if path.is_file():
        split = _split(Path(path.name)) or "test"
        return [(split, row) for row in _rows(task, path)], path.name, None
    folder = _snapshot(path)
    # A file of the Hub's cache is a link to a nameless one, so a name is never resolved.
    files = sorted(file for file in folder.rglob("*") if file.suffix in KINDS[task] and file.is_file())
    if any(file.parent.name == PARTS.get(task) for file in files):
        files = [file for file in files if file.parent.name == PARTS[task]]
    wanted = ("test", EXAMPLES.get(task))
    found = [(split, file) for file in files if (split := _split(file.relative_to(folder))) in wanted and split]
    rows = [(split, row) for split, file in found for row in _rows(task, file)]
    return rows, path.name, folder.name if is_commit(folder.name) else None


def _snapshot(path: Path) -> Path:
    """Of a repository in the Hub's cache the one commit that is there, or the one that `main` was; else `path`."""
    commits = [folder for folder in (path / "snapshots").glob("*") if is_commit(folder.name)]
    main = path / "refs" / "main"
    if len(commits) > 1 and main.is_file():
        commits = [folder for folder in commits if folder.name == main.read_text().strip()]
    if len(commits) > 1:
        raise UserError(f"{path} holds {len(commits)} commits; which one is asked would be chance; give one of them")
    return commits[0] if commits else path


def _split(file: Path) -> str | None:
    """The split of a file by its own name, or else by the nearest folder whose name says one."""
    first, last = file.name.split("-")[0].split(".")[0], file.stem.rpartition("_")[2]
    folders = [folder.name for folder in file.parents if folder.name]
    known = (word for word in (first.lower(), last.lower(), *map(str.lower, folders)) if word in SPLITS)
    return SPLITS.get(next(known, ""))


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
        good = good and type(answer) is int and 0 <= answer < 4 and row["subject"].replace("_", "").isalnum()
        row = {**row, "answer": answer}
    if good and task == "gsm8k":
        from agenttuning.general import numbers

        good = numbers.gold(row["answer"]) is not None
    if not good:
        reason = row.reason if isinstance(row, Unreadable) else f"it lacks what {task} has ({', '.join(texts)}, ..)"
        raise UserError(f"{where} is no item of {task}: {reason}; its score would be wrong; repair or replace the file")
    names = (*texts, "choices", "answer") if task == "mmlu" else texts
    return {name: row[name] for name in names}
