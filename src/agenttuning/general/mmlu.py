"""MMLU for lm-eval: one task a subject, whose five examples come from the subject's own `dev` questions."""

from __future__ import annotations

from pathlib import Path

from agenttuning.general.originals import SUBJECT, Originals
from agenttuning.general.protocol import Rules
from agenttuning.general.task_files import installed, write_documents, write_task
from agenttuning.miniature.lm_eval_docs import documents as miniature_documents

SUBJECTS = ("global_facts", "miscellaneous")  # of the practice items: two that lm-eval has task files for
SHOTS = 5  # eval_mmlu_hf.py, k=5; test_lm_eval_general.py holds the task files to it


def write(
    folder: Path, rules: Rules, test: list[dict], dev: list[dict], originals: Originals, cache: str | None
) -> list[str]:
    """Write documents and task files into `folder`, one a subject in alphabetical order; the tasks' names."""
    names = []
    for subject in sorted({row["subject"] for row in test}):
        own = {split: [r for r in rows if r["subject"] == subject] for split, rows in (("test", test), ("dev", dev))}
        files = {split: write_documents(folder / f"mmlu_{subject}.{split}.jsonl", r) for split, r in own.items()}
        if rules.chat == "none":
            filled = {"include": installed(f"mmlu/default/mmlu_{subject}.yaml"), "dataset_name": None}
        else:
            # eval_mmlu_hf.py, format_subject: blanks for underscores
            filled = {"description": originals.mmlu.replace(SUBJECT, subject.replace("_", " "))}
        names.append(write_task(folder, f"mmlu_{subject}", rules, files, cache, filled))
    return names


def practice(n: int, seed: int) -> tuple[list[dict], list[dict]]:
    """`n` test items and five `dev` items a subject of the miniature's knowledge in MMLU's columns, two subjects."""
    rows = miniature_documents("knowledge", n + 2 * SHOTS, seed)
    made = [
        {"subject": SUBJECTS[place % 2], "question": row["question"].rsplit("?", 2)[0] + "?"}
        | {"choices": row["choices"], "answer": row["gold"]}
        for place, row in enumerate(rows)
    ]
    test, dev = made[:n], made[n:]
    return [{"id": f"tiny-mmlu/{place}", **row} for place, row in enumerate(test)], [
        {"id": f"tiny-mmlu-dev/{place}", **row} for place, row in enumerate(dev)
    ]
