"""A scripted judge on the loopback that fails in a chosen way at chosen questions, and files of MT-Bench's shape.

`fault(number, messages)` is FaultyServer's: what is done to the question of that number, None for a reply.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

from agenttuning.general import mt_bench
from agenttuning.general.mt_bench.prompts import FIELDS
from agenttuning.policies import Turn
from agenttuning.policies.openai import Patience
from helpers.faulty_server import FaultyServer

RULES = mt_bench.read_rules()
QUICK = Patience(connect=5.0, read=5.0, total=20.0, retries=4, wait=0.01, longest=0.02)


class JudgeServer(FaultyServer):
    """A context manager; `asked` holds the bodies of all questions. `says(body)` is the reply to a question."""

    def __init__(self, says: Callable[[dict], str], fault: Callable = lambda number, messages: None) -> None:
        super().__init__(fault)
        self._says, self._here = says, threading.local()
        self.reply = lambda messages: self._says(self._here.body)

    def begin(self, body: dict, headers: dict) -> int:
        self._here.body = body  # each question has a thread of its own
        return super().begin(body, headers)

    def die(self, seconds: float = 0.0) -> None:
        """Be gone until `come_back`."""
        with self._lock:
            if self._gone:
                return
            self._gone = True
        self._dying = threading.Thread(target=self._down, daemon=True)
        self._dying.start()

    def come_back(self) -> None:
        """Listen again, on the same port, where it died."""
        if self._gone:
            self._dying.join()
            self._listen()
            self._gone = False

    def judge(self, model: str = "scripted", judgings: int | None = None, **settings) -> mt_bench.Judge:
        """Who asks this server."""
        return mt_bench.Judge(self.url, model, judgings=judgings, patience=QUICK, **settings)

    def twice(self) -> list:
        """The questions that were asked more than once, with the same words and seed."""
        seen = [json.dumps([body["messages"], body["seed"]]) for body in self.asked]
        return [one for one in set(seen) if seen.count(one) > 1]


def by_seed(body: dict) -> str:
    """A rating from 1 to 10 that the question's words and seed decide, and for one in eight none at all."""
    drawn = hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).digest()
    return "I cannot say." if drawn[0] % 8 == 0 else f"So so. Rating: [[{drawn[1] % 10 + 1}]]"


def players(questions: mt_bench.Questions, say: Callable[[str], str] = str) -> tuple[Callable, list[Turn]]:
    """(make_policy, turns asked): a model that gives `say` of the reference to each question that has one."""
    asked: list[Turn] = []
    references = {item.turns: item.reference or ("one", "two") for item in questions.items}

    def reply(turn: Turn) -> str:
        asked.append(turn)
        item = next(item for item in questions.items if item.id == turn.item)
        assert turn.messages[-1]["content"] == item.turns[turn.number]
        return say(references[item.turns][turn.number])

    return (lambda temperature, max_new_tokens: lambda turns: [reply(turn) for turn in turns]), asked


def write_files(folder: Path, *, checkout: bool = True, drop: tuple[int, ...] = (), **change: object) -> Path:
    """A folder like FastChat's with 80 questions of our own; `drop`: ids without a reference. `change` may have
    `question` or `prompt`, which is called with a row and may alter it.
    """
    inner = folder / "fastchat/llm_judge/data/mt_bench" if checkout else folder
    outer = inner.parent if checkout else folder
    (inner / "reference_answer").mkdir(parents=True)
    questions, references = [], []
    for place, category in enumerate(name for name in RULES.temperatures for _ in range(10)):
        number = 81 + place
        questions.append({"question_id": number, "category": category, "turns": [f"What is {number}?", "And then?"]})
        if category in RULES.judge.reference_categories and number not in drop:
            turns = [f"it is {number}", f"then {number + 1}"]
            references.append({"question_id": number, "choices": [{"index": 0, "turns": turns}], "model_id": "x"})
    prompts = [
        {
            "name": name,
            "type": "single",
            "system_prompt": f"Judge by {name}.",
            "prompt_template": "{{}} " + " ".join(f"<{field}>{{{field}}}" for field in sorted(needed)),
            "output_format": "[[rating]]",
        }
        for name, (_, needed) in FIELDS.items()
    ]
    prompts.append({"name": "pair-v2", "type": "pairwise", "prompt_template": "{question} {answer_a}"})
    for name, rows in (("question", questions), ("prompt", prompts)):
        for row in rows:
            change.get(name, lambda row: None)(row)
    _write(inner / "question.jsonl", questions)
    _write(inner / "reference_answer" / "gpt-4.jsonl", references)
    _write(outer / "judge_prompts.jsonl", prompts)
    return folder


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
