"""MT-Bench: 80 questions of two turns, answered by a model and rated from 1 to 10 by a judge (docs/mt-bench.md).

rules = read_rules()
questions = load("FastChat", rules)                 # or practice(16, 0): our own, for the tiny twin
found = evaluate(questions, make_policy, folder, rules, Judge(url, "gpt-4", "OPENAI_API_KEY"), model="name@digest")
"""

from __future__ import annotations

from pathlib import Path

from agenttuning.data.folders import alone_in
from agenttuning.general.mt_bench.answering import MakePolicy, answer, lost
from agenttuning.general.mt_bench.judging import Judge, judge_all
from agenttuning.general.mt_bench.practice import practice
from agenttuning.general.mt_bench.questions import Questions, load
from agenttuning.general.mt_bench.rules import Rules, read_rules
from agenttuning.general.mt_bench.scoring import entry

__all__ = ["Judge", "Questions", "Rules", "evaluate", "load", "practice", "read_rules", "ready"]


def ready(judge: Judge | None, rules: Rules) -> None:
    """Raise UserError for a judge that could not be asked: a key that is not set is said now, not after the answers."""
    if judge is not None:
        from agenttuning.policies.openai import must_answer

        judge.policy(rules)
        must_answer(judge.url)


def evaluate(
    questions: Questions, make_policy: MakePolicy, folder: Path, rules: Rules, judge: Judge | None, *, model: str
) -> dict:
    """Answer, judge, score: the entry of scores.json. `make_policy(temperature, max_new_tokens)` gives the policy of a
    temperature; it is called only where something is to be asked, and one at a time is in use.

    `folder` keeps answers.jsonl and verdicts.jsonl: what stands there for the same weights (`model`), questions and
    rules is not asked again, however the last run ended. Without a judge the answers are made and the entry is void.
    Raises UserError for a judge that cannot be reached, before anything is asked, and as answering and judging do.
    """
    ready(judge, rules)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        records, counts = answer(questions, make_policy, folder, rules, model)
        verdicts = None
        if judge is not None:
            answers = {name: (one[0]["answer"], one[1]["answer"]) for name, one in records.items() if not lost(one)}
            verdicts = judge_all(questions, answers, folder, rules, judge)
    return entry(questions, records, verdicts, rules, judge, counts)
