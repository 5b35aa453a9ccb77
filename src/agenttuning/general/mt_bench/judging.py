"""The judge's verdicts: single-answer grading of both turns, k times, each reply kept as soon as it is there.

A reply without a rating is asked for again with another seed, at most `retries` times, and then stays without one. A
reply that never came (a broken server, a prompt too long for the judge) is asked again by the next run.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agenttuning.data.journal import Journal, key_of
from agenttuning.errors import UserError
from agenttuning.general.mt_bench import prompts
from agenttuning.general.mt_bench.answering import TURNS
from agenttuning.general.mt_bench.questions import Question, Questions
from agenttuning.general.mt_bench.rules import Rules
from agenttuning.general.mt_bench.verdicts import Verdict, read_verdict
from agenttuning.general.mt_bench.working import Worker, work_through
from agenttuning.policies import ContextLimit, Turn

if TYPE_CHECKING:
    from agenttuning.policies.openai import OpenAIPolicy, Patience

FILE = "verdicts.jsonl"


@dataclass(frozen=True)
class Judge:
    """Who judges: `model` at `url` (OpenAI-compatible, with its /v1), asked `judgings` times (None: as the rules say),
    `slots` questions at a time. `key_variable` names the environment variable that holds the API key.
    """

    url: str
    model: str
    key_variable: str | None = None
    judgings: int | None = None
    slots: int = 8
    patience: Patience | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("the judge's model has no name; it could not be asked; give --judge-model NAME")
        if self.judgings is not None and self.judgings < 1:
            raise UserError(f"{self.judgings} judgings: no answer would be judged; give at least 1")

    @property
    def host(self) -> str:
        """The host's name, which stands in the result; the port, which says nothing of who judges, does not."""
        return urlsplit(self.url).hostname or ""

    def policy(self, rules: Rules) -> OpenAIPolicy:
        """The client. Raises UserError for an address that cannot be asked and a variable that is not set."""
        from agenttuning.policies.openai import OpenAIPolicy

        return OpenAIPolicy(
            self.url,
            self.model,
            max_new_tokens=rules.judge.max_tokens,
            temperature=rules.judge.temperature,
            seed=rules.seed,
            key_variable=self.key_variable,
            slots=self.slots,
            patience=self.patience,
        )


@dataclass
class Verdicts:
    """ratings[question, turn]: one for each judging, None where there is none. why: of each None, counted: `unparsed`
    (no reply had a rating), `failed` (no reply), `too_long` (for the judge). counts: replies, unparseable, several,
    quoted (verdicts.Verdict). this_time: what the client counted, of the replies that were not there already. served:
    the names that the server gave the judge. days: on which it replied.
    """

    judgings: int
    ratings: dict[tuple[str, int], list[float | None]]
    why: Counter = field(default_factory=Counter)
    counts: Counter = field(default_factory=Counter)
    this_time: Counter = field(default_factory=Counter)
    served: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)


def judge_all(
    questions: Questions, answers: dict[str, tuple[str, str]], folder: Path, rules: Rules, judge: Judge
) -> Verdicts:
    """Judge the answers of the questions that `answers` has, each with its two turns.

    Raises UserError where the judge cannot be reached or refuses all questions; what it said before is kept.
    """
    k = judge.judgings or rules.judge.judgings
    items = [item for item in questions.items if item.id in answers]
    found = Verdicts(k, {(item.id, turn): [None] * k for item in items for turn in TURNS})
    with Journal(folder / FILE) as journal:
        works = [
            _Case(item, turn, number, _messages(questions, item, turn, said, rules), said[:turn])
            for number in range(k)
            for item, said in ((item, answers[item.id]) for item in items)
            for turn in TURNS
        ]
        for case in works:
            case.open(journal, rules, judge)
        waiting = [case for case in works if case.waiting]
        if works and len(waiting) < len(works):
            print(f"mt_bench: {len(works) - len(waiting)} of {len(works)} verdicts are there already", file=sys.stderr)
        if waiting:
            print(f"mt_bench: {len(waiting)} verdicts to ask of {judge.model} at {judge.host}", file=sys.stderr)
            policy = judge.policy(rules)

            async def one(worker: Worker, place: int, case: _Case) -> None:
                while case.waiting:
                    turn = Turn(case.messages, f"{case.item.id}/{case.turn}/{case.number}", len(case.replies))
                    case.keep(await worker.ask(turn, place), journal, policy.served)

            settings = {"width": judge.slots, "retries": 0, "wait_s": 0.0, "counts": Counter()}
            work_through("mt_bench verdicts", policy, waiting, one, **settings)
            found.this_time.update(policy.counts)
    for case in works:
        case.count(found)
    return found


def _messages(questions: Questions, item: Question, turn: int, answers: tuple[str, str], rules: Rules) -> list[dict]:
    refers = item.category in rules.judge.reference_categories
    names = {
        (1, False): prompts.FIRST,
        (1, True): prompts.FIRST_WITH_REFERENCE,
        (2, False): prompts.SECOND,
        (2, True): prompts.SECOND_WITH_REFERENCE,
    }
    (question_1, question_2), (answer_1, answer_2) = item.turns, answers
    values = {"question_1": question_1, "question_2": question_2, "answer_1": answer_1, "answer_2": answer_2}
    values |= {"question": question_1, "answer": answer_1}
    if refers:
        values |= {"ref_answer_1": item.reference[0], "ref_answer_2": item.reference[1]}
    return questions.prompts[names[turn, refers]].messages(values)


@dataclass
class _Case:
    """One judging of one answer. shown: the answers that the judge sees. replies: its own, newest last; all but the
    last are without a rating.
    """

    item: Question
    turn: int
    number: int
    messages: list[dict]
    shown: tuple[str, ...]
    key: str = ""
    most: int = 0
    replies: list[dict] = field(default_factory=list)
    failed: str | None = None

    def open(self, journal: Journal, rules: Rules, judge: Judge) -> None:
        """Take what the journal has."""
        asked = [judge.host, judge.model, self.messages, rules.judge.temperature, rules.judge.max_tokens, rules.seed]
        self.key = key_of("verdict", *asked, self.item.id, self.turn, self.number)
        self.most = rules.judge.retries + 1
        self.replies = [record for record in journal.of(self.key) if record["error"] is None]

    @property
    def waiting(self) -> bool:
        """Whether the judge is to be asked (again)."""
        rated = bool(self.replies) and self._verdict(self.replies[-1]).rating is not None
        return not rated and self.failed is None and len(self.replies) < self.most

    def keep(self, reply: str | ContextLimit | Exception, journal: Journal, served: Counter) -> None:
        """Write what came back."""
        record = {"key": self.key, "question": self.item.id, "turn": self.turn, "judging": self.number, "error": None}
        record |= {"served": sorted(served), "date": datetime.now(UTC).date().isoformat()}
        if isinstance(reply, ContextLimit):
            self.failed = "too_long"
            record["error"] = f"the judge has room for {reply.limit} tokens, the question has {reply.prompt_tokens}"
        elif isinstance(reply, Exception):
            self.failed = "failed"
            record["error"] = f"{type(reply).__name__}: {reply}"[:1000]
        else:
            record |= {"reply": reply}
            record["rating"] = self._verdict(record).rating  # for readers of the file; it is read anew from the reply
        journal.append(record)
        if record["error"] is None:
            self.replies.append(record)

    def count(self, found: Verdicts) -> None:
        """Add this case to all."""
        verdicts = [self._verdict(record) for record in self.replies]
        found.counts["replies"] += len(verdicts)
        found.counts["unparseable"] += sum(verdict.rating is None for verdict in verdicts)
        found.counts["several"] += sum(verdict.several for verdict in verdicts)
        found.counts["quoted"] += sum(verdict.quoted for verdict in verdicts)
        for record in self.replies:
            found.served.update(record["served"])
            found.days.add(record["date"])
        rating = verdicts[-1].rating if verdicts else None
        found.ratings[self.item.id, self.turn][self.number] = rating
        if rating is None:
            found.why[self.failed or "unparsed"] += 1

    def _verdict(self, record: dict) -> Verdict:
        return read_verdict(record["reply"], "\n".join(self.shown))
