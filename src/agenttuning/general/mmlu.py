"""MMLU for lm-eval: one task a subject, whose five examples come from the subject's own `dev` questions."""

from __future__ import annotations

from pathlib import Path

from agenttuning.general.originals import SUBJECT, Originals
from agenttuning.general.protocol import Rules
from agenttuning.general.task_files import installed, write_documents, write_task
from agenttuning.miniature.lm_eval_docs import documents as miniature_documents

SUBJECTS = ("global_facts", "miscellaneous")  # of the practice items: two that lm-eval has task files for
MANY = 80  # items that are drawn besides, until most of the miniature's 47 questions have come
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


def as_original(doc: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    """lm-eval's `process_results`, as the original's script compares the four letters."""
    return {"acc": float(chosen([likelihood for likelihood, _ in results], rounded=True) == doc["answer"])}


def chosen(likelihoods: list[float], rounded: bool) -> int:
    """The place of the likeliest letter, the first of equals. likelihoods: natural logarithms.

    rounded: as eval_mmlu_hf.py compares, which takes a softmax over the vocabulary, and another one over the four
    probabilities, both in the bfloat16 of its model: two letters whose probabilities differ by less than about 0.005
    are equal there.
    """
    if rounded:
        import torch

        probabilities = torch.tensor(likelihoods, dtype=torch.float64).exp().to(torch.bfloat16)
        likelihoods = torch.softmax(probabilities, dim=0).tolist()
    return max(range(len(likelihoods)), key=likelihoods.__getitem__)


def told(sample: dict, rules: Rules) -> dict:
    """What a reader of one item wants to see: the choices, the letter that was right, the logarithm of each letter's
    likelihood, and the letter that counts as the answer.
    """
    likelihoods = [answers[0][0] for answers in sample["resps"]]
    doc, letters = sample["doc"], "ABCD"
    return {
        "question": doc["question"],
        "choices": dict(zip(letters, doc["choices"], strict=True)),
        "wanted": letters[doc["answer"]],
        "got": dict(zip(letters, likelihoods, strict=True)),
        "extracted": letters[chosen(likelihoods, rounded=rules.letters == "last_sub_token")],
    }


def practice(n: int, seed: int) -> tuple[list[dict], list[dict]]:
    """`n` test items and five `dev` items a subject of the miniature's knowledge in MMLU's columns, two subjects. All
    are of its test split, and no question of a dev item is one of a test item.
    """
    rows = miniature_documents("knowledge", 2 * n + MANY, seed)
    bare = [row["question"].rsplit("?", 2)[0] + "?" for row in rows]  # without the choices behind it
    shown = list(dict.fromkeys(bare))[-2 * SHOTS :]
    dev = [rows[bare.index(question)] for question in shown]
    test = [row for row, question in zip(rows, bare, strict=True) if question not in shown][:n]

    def made(rows: list[dict], name: str) -> list[dict]:
        return [
            {
                "id": f"{name}/{place}",
                "subject": SUBJECTS[place % 2],
                "question": row["question"].rsplit("?", 2)[0] + "?",
                "choices": row["choices"],
                "answer": row["gold"],
            }
            for place, row in enumerate(rows)
        ]

    return made(test, "tiny-mmlu"), made(dev, "tiny-mmlu-dev")
