"""MT-Bench's tiny twin: two-turn questions of our own from the miniature's skills, in the benchmark's schema.

Every category has a stand-in and every question a reference, which is the one right answer: a judge can grade by it
(scripted_judge.py). The judge's prompts are our own words with FastChat's fields.
"""

from __future__ import annotations

import hashlib
import json

from agenttuning.general.mt_bench.prompts import (
    FIRST,
    FIRST_WITH_REFERENCE,
    SECOND,
    SECOND_WITH_REFERENCE,
    read_prompts,
)
from agenttuning.general.mt_bench.questions import TINY, Question, Questions
from agenttuning.general.mt_bench.rules import read_rules
from agenttuning.miniature.general import Sample, samples

SKILLS = {  # by category: which skill stands for it; those at temperature 0.7 come last, as a rest
    "math": "arithmetic",
    "coding": "functions",
    "reasoning": "knowledge",
    "extraction": "reading",
    "stem": "knowledge",
    "humanities": "knowledge",
    "writing": "reading",
    "roleplay": "reading",
}
_SYSTEM = "You grade answers."
_RULE = 'Say in a few words what is wrong, then grade from 1 (useless) to 10 (perfect) like this: "Grade: [[4]]".'
_TEMPLATES = {
    FIRST: f"{_RULE}\n\nQuestion:\n{{question}}\n\nAnswer to grade:\n{{answer}}\n\nGrade it.",
    FIRST_WITH_REFERENCE: f"{_RULE}\n\nQuestion:\n{{question}}\n\nRight answer:\n{{ref_answer_1}}\n\nAnswer to grade:\n"
    "{answer}\n\nGrade it.",
    SECOND: f"{_RULE} Grade the second answer.\n\nFirst question:\n{{question_1}}\n\nFirst answer:\n{{answer_1}}\n\n"
    "Second question:\n{question_2}\n\nSecond answer:\n{answer_2}\n\nGrade it.",
    SECOND_WITH_REFERENCE: f"{_RULE} Grade the second answer.\n\nFirst question:\n{{question_1}}\n\nRight answer:\n"
    "{ref_answer_1}\n\nSecond question:\n{question_2}\n\nRight answer:\n{ref_answer_2}\n\nFirst answer:\n{answer_1}\n\n"
    "Second answer:\n{answer_2}\n\nGrade it.",
}


def practice(n: int, seed: int) -> Questions:
    """`n` questions, all different, their categories in turn; the same for the same seed."""
    names = [list(SKILLS)[place % len(SKILLS)] for place in range(n)]
    wanted = {skill: sum(SKILLS[name] == skill for name in names) for skill in dict.fromkeys(SKILLS.values())}
    # two samples a question of the skills that have one turn: they have no second question of their own
    drawn = {skill: iter(samples(skill, "test", 2 * number, seed)) for skill, number in wanted.items()}
    items = tuple(
        Question(f"practice_{place}", name, *_two(drawn[SKILLS[name]])) for place, name in enumerate(names, start=1)
    )
    rows = [
        {"name": name, "system_prompt": _SYSTEM, "prompt_template": template, "output_format": "[[rating]]"}
        for name, template in _TEMPLATES.items()
    ]
    said = json.dumps([[item.id, item.category, item.turns, item.reference] for item in items])
    sha256 = hashlib.sha256(said.encode("ascii")).hexdigest()
    data = {"source": "our own practice questions", "revision": f"seed {seed}", "sha256": sha256, "n": n}
    prompts = read_prompts(rows, "our own judge prompts")
    return Questions(items, prompts, TINY, "practice questions of our own", data, read_rules().practice.max_new_tokens)


def _two(drawn) -> tuple[tuple[str, str], tuple[str, str]]:
    first: Sample = next(drawn)
    second = next(drawn)
    pair = first.turns[:2] if len(first.turns) > 1 else (first.turns[0], second.turns[0])
    (question_1, answer_1), (question_2, answer_2) = pair
    return (question_1, question_2), (answer_1, answer_2)
