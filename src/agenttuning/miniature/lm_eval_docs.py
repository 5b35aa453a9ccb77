"""The miniature's general tasks for lm-eval: documents as JSONL, and the functions that evaluation/lm_eval/ names.

A document has id, question, answer, and what its grader needs: choices and gold, or number, or name and cases.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from agenttuning.miniature.general import SCORED, samples

FENCE = re.compile(r"```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL)


def documents(skill: str, n: int, seed: int) -> list[dict]:
    """`n` test documents of a scored skill, all different. Raises KeyError for a skill that is not scored."""
    SCORED[skill]
    found = []
    for number, sample in enumerate(samples(skill, "test", n, seed)):
        question, answer = sample.turns[0]
        # cases hold whatever a function takes and returns: as text, since a column of a table has one type
        check = {key: json.dumps(value) if key == "cases" else value for key, value in sample.check.items()}
        found.append({"id": f"{skill}_test_{number}", "question": question, "answer": answer, **check})
    return found


def write_documents(folder: Path, skill: str, n: int, seed: int) -> Path:
    """Write `folder`/SKILL.jsonl and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{skill}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in documents(skill, n, seed)), encoding="utf-8")
    return path


def choices_as_trained(doc: dict) -> list[str]:
    """The choices as they stand in a training conversation, one space after [/INST]."""
    return [f" {choice}" for choice in doc["choices"]]


def run_answer(doc: dict, results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`: {"pass_at_1": 1.0} when the function passes all cases, else 0.0.

    Raises sandbox.SandboxError when the sandbox, not the code, failed.
    """
    from agenttuning.sandbox import run_functions

    [verdict] = run_functions([(code_of(results[0]), doc["name"], json.loads(doc["cases"]))], workers=1)
    return {"pass_at_1": float(verdict.passed)}


def code_of(reply: str) -> str:
    """The code in a reply: its first fenced block, or all of it."""
    fenced = FENCE.search(reply)
    return (fenced[1] if fenced else reply).strip()
