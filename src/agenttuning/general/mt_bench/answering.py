"""The model's answers: two turns a question, at its category's temperature, each kept as soon as it is there.

A reply is stripped, as the paper's script did. An answer that the policy could not get stays lost, is counted and is
asked again by the next run; the script judged "" or "ERROR" in its place. Where a prompt leaves no room in the model's
context, the answer is empty and says so: the script's server refused such prompts, and "" was judged.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agenttuning.data.journal import Journal, key_of
from agenttuning.episodes.status import AGENT_ERROR, COMPLETED, CONTEXT_LIMIT
from agenttuning.general.mt_bench.questions import Question, Questions
from agenttuning.general.mt_bench.rules import Rules
from agenttuning.general.mt_bench.working import Worker, work_through
from agenttuning.policies import ContextLimit, Policy, Turn
from agenttuning.protocols.messages import assistant, user

FILE = "answers.jsonl"
TURNS = (1, 2)
WIDTH = 160  # questions at a time where the policy sets no limit itself: more than there are
RETRIES, WAIT_S = 2, 0.5  # of a policy in this process that raises, as episodes/runner.py has them

MakePolicy = Callable[[float, int], Policy]  # of a temperature and max_new_tokens


def answer(
    questions: Questions, make_policy: MakePolicy, folder: Path, rules: Rules, model: str
) -> tuple[dict[str, list[dict]], Counter]:
    """The answers' records by question, one a turn, and what the policies counted.

    A question with a lost answer has fewer records with a status of the model; `lost` tells. Policies are made only for
    temperatures of which something is still to be asked; `fill_context` and `seed` are set where they have them, and a
    `system_prompt` of their own is taken out: the rules' stands in the messages, and two would be sent.
    """
    most = questions.max_new_tokens or rules.max_new_tokens
    counts: Counter[str] = Counter()
    with Journal(folder / FILE) as journal:
        found = {item.id: _Talk(item, journal, rules, model, most) for item in questions.items}
        waiting = [talk for talk in found.values() if talk.open()]
        if len(waiting) < len(found):
            done = len(found) - len(waiting)
            print(f"mt_bench: {done} of {len(found)} questions are answered already", file=sys.stderr)
        temperatures = sorted({talk.temperature for talk in waiting})
        if waiting:
            shown = ", ".join(f"{temperature:g}" for temperature in temperatures)
            print(
                f"mt_bench: {len(waiting)} questions of two turns, at temperatures {shown}, seed {rules.seed}",
                file=sys.stderr,
            )
        for temperature in temperatures:
            policy = make_policy(temperature, most)
            for name, value in (("fill_context", True), ("seed", rules.seed), ("system_prompt", None)):
                if hasattr(policy, name):
                    setattr(policy, name, value)
            talks = [talk for talk in waiting if talk.temperature == temperature]
            what = f"mt_bench answers at temperature {temperature:g}"
            settings = {"width": WIDTH, "retries": RETRIES, "wait_s": WAIT_S, "counts": counts}
            work_through(what, policy, talks, _go_on, **settings)
            counts.update(getattr(policy, "counts", {}))
    return {name: talk.records for name, talk in found.items()}, counts


def lost(records: list[dict]) -> bool:
    """Whether a question lacks an answer of the model."""
    return len(records) < len(TURNS) or records[-1]["status"] == AGENT_ERROR


class _Talk:
    """One question's talk with the model: what is known of it, and what is to be asked next."""

    def __init__(self, item: Question, journal: Journal, rules: Rules, model: str, most: int) -> None:
        self.item, self._journal, self._rules, self._model, self._most = item, journal, rules, model, most
        self.temperature = float(rules.temperatures[item.category])
        self.records: list[dict] = []

    def open(self) -> bool:
        """Take what the journal has; whether something is left to ask."""
        while len(self.records) < len(TURNS):
            known = [record for record in self._journal.of(self.key()) if record["status"] != AGENT_ERROR]
            if not known:
                return True
            self.records.append(known[-1])
        return False

    def messages(self) -> list[dict]:
        """What the model is asked next."""
        asked = [{"role": "system", "content": self._rules.system_prompt}]
        for question, record in zip(self.item.turns, self.records, strict=False):
            asked += [user(question), assistant(record["answer"])]
        return [*asked, user(self.item.turns[len(self.records)])]

    def key(self) -> str:
        asked = [[message["role"], message["content"]] for message in self.messages()]
        turn = len(self.records) + 1
        return key_of("answer", self._model, self.item.id, turn, asked, self.temperature, self._most, self._rules.seed)

    def keep(self, reply: str | ContextLimit | Exception, room: int | None) -> None:
        """Write what came back."""
        record = {"key": self.key(), "question": self.item.id, "turn": len(self.records) + 1}
        record |= {"temperature": self.temperature, "max_new_tokens": room or self._most, "error": None}
        if isinstance(reply, ContextLimit):
            record |= {"status": CONTEXT_LIMIT, "answer": "", "max_new_tokens": 0}
            record["error"] = f"{reply.prompt_tokens} tokens of {reply.limit} are taken by the prompt"
        elif isinstance(reply, Exception):
            record |= {"status": AGENT_ERROR, "answer": "", "error": f"{type(reply).__name__}: {reply}"[:1000]}
        else:
            # a lone surrogate is no text, and no server would take it
            record |= {"status": COMPLETED, "answer": reply.encode("utf-8", "replace").decode().strip()}
        self._journal.append({**record, "date": datetime.now(UTC).date().isoformat()})
        self.records.append(self._journal.of(record["key"])[-1])


async def _go_on(worker: Worker, place: int, talk: _Talk) -> None:
    while len(talk.records) < len(TURNS) and not (talk.records and talk.records[-1]["status"] == AGENT_ERROR):
        turn = Turn(talk.messages(), talk.item.id, len(talk.records))
        reply = await worker.ask(turn, place)
        rooms = getattr(worker.policy, "rooms", {})
        talk.keep(reply, rooms.get((turn.item, turn.number)))
