"""Items of MMLU and GSM8K in our own words, in the official columns, and the folders they are published in."""

from __future__ import annotations

import json
from pathlib import Path

SUBJECTS = ("abstract_algebra", "world_religions")


def mmlu_row(subject: str, number: int, answer: int | None = None) -> dict:
    return {
        "question": f"Of {subject}, number {number}: which one?",
        "subject": subject,
        "choices": [f"{letter.lower()}{number}" for letter in "ABCD"],
        "answer": number % 4 if answer is None else answer,
    }


def mmlu_rows(split: str, subject: str, n: int) -> list[dict]:
    start = {"test": 0, "dev": 100, "validation": 200}[split]
    return [mmlu_row(subject, start + number) for number in range(n)]


def gsm8k_row(number: int) -> dict:
    text = f"{number + 1000:,}"
    return {
        "question": f"Ann has {number} cups and buys 1,000.  How many?",
        "answer": f"{number} + 1,000 = {text}\n#### {text}",
    }


def hendrycks(folder: Path, n: int = 4, dev: int = 5) -> Path:
    """data.tar as it unpacks: dev/, test/, val/ and auxiliary_train/ with CSV files."""
    import csv

    for split, name, rows in (("test", "test", n), ("dev", "dev", dev), ("validation", "val", 2)):
        (folder / name).mkdir(parents=True)
        for subject in SUBJECTS:
            with (folder / name / f"{subject}_{name}.csv").open("w", newline="") as file:
                for row in mmlu_rows(split, subject, rows):
                    csv.writer(file).writerow([row["question"], *row["choices"], "ABCD"[row["answer"]]])
    (folder / "auxiliary_train").mkdir()
    (folder / "auxiliary_train" / "race.csv").write_text("q,a,b,c,d,A\n")
    (folder / "README.txt").write_text("Measuring ..")
    return folder


def write_table(path: Path, rows: list[dict]) -> Path:
    """Write rows as Parquet or JSONL, as the path's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def cais(folder: Path, n: int = 4, dev: int = 5) -> Path:
    """cais/mmlu as the Hub has it: a folder for all subjects and one for each."""
    every = {"test": n, "dev": dev, "validation": 2}
    for split, many in every.items():
        by_subject = {subject: mmlu_rows(split, subject, many) for subject in SUBJECTS}
        write_table(folder / "all" / f"{split}-00000-of-00001.parquet", sum(by_subject.values(), []))
        for subject, rows in by_subject.items():
            write_table(folder / subject / f"{split}-00000-of-00001.parquet", rows)
    write_table(folder / "auxiliary_train" / "train-00000-of-00001.parquet", mmlu_rows("dev", "", 3))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def openai_gsm8k(folder: Path, n: int = 4, train: int = 8) -> Path:
    """openai/gsm8k as the Hub has it: folders main/ and socratic/."""
    for config in ("main", "socratic"):
        for split, rows in (("test", range(n)), ("train", range(100, 100 + train))):
            made = [gsm8k_row(number) for number in rows]
            if config == "socratic":
                made = [{**row, "answer": f"What? ** {row['answer']}"} for row in made]
            write_table(folder / config / f"{split}-00000-of-00001.parquet", made)
    return folder
