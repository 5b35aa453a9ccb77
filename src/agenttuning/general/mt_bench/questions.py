"""MT-Bench's questions, judge prompts and references in FastChat's schema, and whether they are the benchmark's."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from agenttuning.data.convert import Unreadable
from agenttuning.data.files import read_file
from agenttuning.errors import UserError
from agenttuning.general.mt_bench import prompts
from agenttuning.general.mt_bench.prompts import JudgePrompt
from agenttuning.general.mt_bench.rules import DataRules, Rules
from agenttuning.general.mt_bench.sources import PROMPTS, QUESTIONS, REFERENCES, find

TASK, PARTIAL, TINY = "mt_bench", "part-mt_bench", "tiny-mt_bench"


@dataclass(frozen=True)
class Question:
    """Two turns. `reference`: an answer to each, where there is one."""

    id: str
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] | None = None


@dataclass(frozen=True)
class Questions:
    """What is asked and how it is judged.

    task: the name that a score may bear. not_comparable: why it is none to set beside the paper's, or None.
    data: {source, revision, sha256, files, n} as it stands in a result. max_new_tokens: in place of the rules'.
    """

    items: tuple[Question, ...]
    prompts: dict[str, JudgePrompt]
    task: str
    not_comparable: str | None
    data: dict
    max_new_tokens: int | None = None

    def head(self, n: int) -> Questions:
        """The first `n` questions, for a first try; all of them where there are no more."""
        if n >= len(self.items):
            return self
        why = f"{n} of {len(self.items)} questions"
        task = PARTIAL if self.task == TASK else self.task
        why = why if self.not_comparable is None else f"{why}; {self.not_comparable}"
        return replace(self, items=self.items[:n], task=task, not_comparable=why, data={**self.data, "n": n})


def load(path: str | Path | None, rules: Rules) -> Questions:
    """Read the three files at `path` (sources.find says which places there are).

    Raises UserError for what is missing or cannot be asked: a question without exactly two turns, a category without a
    temperature, two questions with one id, and, by their ids, questions that need a reference answer and have none.
    """
    files = find(path, rules.data)
    references = _references(_rows(files.paths[REFERENCES], REFERENCES))
    items = _questions(_rows(files.paths[QUESTIONS], QUESTIONS), references, rules)
    sha256 = files.sha256
    task, why_not = _named(items, sha256, rules.data)
    data = {"source": files.source, "revision": files.revision, "sha256": _joint(sha256)}
    data |= {"files": sha256, "n": len(items)}
    judge_prompts = prompts.read_prompts(_rows(files.paths[PROMPTS], PROMPTS), PROMPTS)
    return Questions(items, judge_prompts, task, why_not, data)


def _joint(sha256: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sha256, sort_keys=True).encode("ascii")).hexdigest()


def _rows(path: Path, name: str) -> list[dict]:
    rows = list(read_file(path))
    for row in rows:
        if not isinstance(row, dict):
            reason = row.reason if isinstance(row, Unreadable) else f"a row is {type(row).__name__}"
            raise UserError(f"{name}: {reason}; what it asks would be left out; repair or replace the file")
    return rows


def _references(rows: list[dict]) -> dict[str, tuple[str, str]]:
    found = {}
    for row in rows:
        try:
            turns = tuple(row["choices"][0]["turns"])
        except (KeyError, IndexError, TypeError):
            turns = ()
        if len(turns) != 2 or not all(isinstance(turn, str) for turn in turns):
            raise UserError(
                f"{REFERENCES}: question {row.get('question_id')!r} has no choices[0].turns of two texts; it would be "
                "judged against something else; give FastChat's file"
            )
        found[str(row.get("question_id"))] = turns
    return found


def _questions(rows: list[dict], references: dict[str, tuple[str, str]], rules: Rules) -> tuple[Question, ...]:
    items: dict[str, Question] = {}
    for row in rows:
        name, turns, category = str(row.get("question_id")), row.get("turns"), row.get("category")
        if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, str) for turn in turns):
            raise UserError(f"{QUESTIONS}: question {name} has not two turns of text; the judge's prompts are for two")
        if category not in rules.temperatures:
            raise UserError(
                f"{QUESTIONS}: question {name} is of category {category!r}, which has no temperature; it could not be "
                f"asked; known: {', '.join(rules.temperatures)}"
            )
        if name in items:
            raise UserError(f"{QUESTIONS} has question {name} twice; it would count double; keep one")
        items[name] = Question(name, category, tuple(turns), references.get(name))
    if not items:
        raise UserError(f"{QUESTIONS} is empty; there is nothing to ask; give FastChat's file")
    wanted = rules.judge.reference_categories
    if bare := [name for name, item in items.items() if item.category in wanted and item.reference is None]:
        raise UserError(
            f"{REFERENCES} has no answer to question {', '.join(bare)}; questions of {', '.join(wanted)} are judged "
            "against one; give FastChat's reference_answer/gpt-4.jsonl"
        )
    return tuple(items.values())


def _named(items: tuple[Question, ...], sha256: dict[str, str], data: DataRules) -> tuple[str, str | None]:
    ids = {str(number) for number in range(data.first_id, data.last_id + 1)}
    in_category = set(Counter(item.category for item in items).values())
    if {item.id for item in items} != ids or in_category != {data.in_category}:
        categories = len({item.category for item in items})
        return PARTIAL, (
            f"{len(items)} questions of {categories} categories; the benchmark has {len(ids)}, numbers "
            f"{data.first_id} to {data.last_id}, {data.in_category} of each of {len(ids) // data.in_category}"
        )
    other = [name for name, known in data.sha256.items() if sha256[name] != known]
    return TASK, f"{', '.join(other)} of other content than the files known (sha256)" if other else None
