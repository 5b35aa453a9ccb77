"""GSM8K for lm-eval: its documents, its task file filled in, and what counts as right."""

from __future__ import annotations

from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.general import numbers
from agenttuning.general.originals import Originals
from agenttuning.general.protocol import Rules
from agenttuning.general.task_files import installed, write_documents, write_task
from agenttuning.miniature.lm_eval_docs import documents as miniature_documents

NAME = "gsm8k"
LONGEST = 100  # characters of a number that are shown


def last_digits(doc: dict, results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`, as the original's script: the last run of digits before "Question:"."""
    found, wanted = numbers.original(results[0].split("Question:")[0]), numbers.gold(doc["answer"])
    return {"exact_match": float(found is not None and found == wanted)}


def last_number(doc: dict, results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`: the last number before "Question:", as it is meant."""
    found, wanted = numbers.meant(results[0].split("Question:")[0]), numbers.gold(doc["answer"])
    return {"exact_match": float(found is not None and found == wanted)}


def told(sample: dict, rules: Rules) -> dict:
    """What a reader of one item wants to see: the number that was right and its reasons, the reply, and the number that
    was read out of it.
    """
    doc, reply = sample["doc"], sample["resps"][0][0]
    read = {"paper_gsm8k": numbers.original, "corrected_gsm8k": numbers.meant}.get(rules.lm_eval)
    found = read(reply.split("Question:")[0]) if read else sample["filtered_resps"][0]
    return {
        "question": doc["question"],
        "wanted": str(numbers.gold(doc["answer"])),
        "got": reply,
        "extracted": None if found is None else str(found)[:LONGEST],
        "solution": doc["answer"],
    }


def write(
    folder: Path, rules: Rules, test: list[dict], train: list[dict], originals: Originals, cache: str | None
) -> list[str]:
    """Write documents and task file into `folder`; the one task's name. `train`: what lm-eval's own task draws its
    examples from. Raises UserError where it needs them and there are none.
    """
    files = {"test": write_documents(folder / "gsm8k.jsonl", test)}
    if rules.chat == "none":
        if not train:
            raise UserError(
                "these items of gsm8k have no train rows, of which lm-eval's own task draws its examples; another "
                "prompt would be asked; give a folder with both official files"
            )
        files["train"] = write_documents(folder / "gsm8k.train.jsonl", train)
        own = {"include": installed("gsm8k/gsm8k.yaml"), "dataset_name": None}
        return [write_task(folder, NAME, rules, files, cache, own)]
    samples = [{"question": question, "answer": answer} for question, answer in originals.gsm8k]
    shots = {"sampler": "first_n", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "samples": samples}
    return [write_task(folder, NAME, rules, files, cache, {"num_fewshot": len(samples), "fewshot_config": shots})]


def practice(n: int, seed: int) -> list[dict]:
    """`n` test items of the miniature's arithmetic in GSM8K's columns: the sum written out, then "#### 7"."""
    rows = miniature_documents("arithmetic", n, seed)
    return [
        {"id": f"tiny-gsm8k/{place}", "question": row["question"], "answer": f"{row['answer']}\n#### {row['number']}"}
        for place, row in enumerate(rows)
    ]
