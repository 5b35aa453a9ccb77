"""MT-Bench as one task of eval-general: its questions ready, answered by the player, graded by the judge."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from agenttuning.errors import UserError
from agenttuning.general import mt_bench
from agenttuning.general.mt_bench import Judge, Questions, Rules
from agenttuning.general.mt_bench.scripted_judge import MODEL, scripted_judge
from agenttuning.general.players import Player

TASK = "mt_bench"


def judge_of(url: str | None, model: str | None, key_variable: str | None, judgings: int | None) -> Judge | None:
    """The judge that the words of a command name, None for none. Raises UserError for words that would do nothing."""
    if url is None:
        if model or key_variable or judgings is not None:
            raise UserError("--judge-model, --judge-key-env and --judgings go with --judge URL; they would do nothing")
        return None
    return Judge(url, model or "", key_variable, judgings)


def questions(path: str | Path | None, practising: bool, most: int | None) -> Questions:
    """The questions that are asked. Raises UserError for what cannot be read."""
    rules = mt_bench.read_rules()
    if path is None and practising:
        made = mt_bench.practice(rules.practice.n, rules.practice.seed)
    else:
        made = mt_bench.load(path, rules)
    if most is not None and most < 1:
        raise UserError(f"{most} items were asked for; a score needs at least 1")
    return made if most is None else made.head(most)


def ask(player: Player, asked: Questions, judge: Judge | None, folder: Path) -> dict:
    """The entry of scores.json. Practice questions are graded by the scripted judge where none is named."""
    rules = mt_bench.read_rules()
    scripted = judge is None and asked.task == mt_bench.questions.TINY
    with scripted_judge(asked) if scripted else nullcontext() as url:
        judge = Judge(url, MODEL) if scripted else judge
        found = mt_bench.evaluate(asked, _policy(player, rules), folder, rules, judge, model=player.model)
    return {**found, "task": TASK, "backend": {"name": player.backend, "label": player.says}, "prompts": None}


def _policy(player: Player, rules: Rules):
    def make(temperature: float, max_new_tokens: int):
        return player.policy(temperature, max_new_tokens, rules.system_prompt)

    return make
