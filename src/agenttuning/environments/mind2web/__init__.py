"""Mind2Web (Deng et al. 2023) as AgentBench plays it: one step of a task on a web page, found in a tournament.

An item is a step: the page, the task, what was done before, the elements that a ranker found most likely, and the right
one. The environment asks a question about five elements at a time; the element that is chosen goes to the end of the
queue, the others leave; when at most one is left, the last choice is the prediction, or nothing if none is left. An
observation is a question (question.py), an action an answer to it (answer.py
has the grammar). Every question stands for itself:
the protocol shows the model the newest one only.

Rules and numbers: AgentBench.old, src/tasks/mind2web/task.py and configs/tasks/mind2web/std.yaml. One deviation: the
original shuffles all items' candidates with one generator (seed 123), so that their order depends on what was played
before; here each item has its own, seeded with 123 and the item's id.

A step whose right element is not among the ten is lost, and the original asks nothing then: `over` is True after reset.
"""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from agenttuning.environments import Backend, Missing, Move, Room, Step, backend_of
from agenttuning.environments.mind2web.answer import Answer, gold_action, read_answer, token_f1, write_answer
from agenttuning.errors import UserError

NAME = "mind2web"
BENCHMARK = "Mind2Web"
TOP_K = 10  # std.yaml: eval.topk
AT_ONCE = 5  # std.yaml: train.num_candidates
SHUFFLE_SEED = 123  # std.yaml: seed
AGENTBENCH_TASKS = 177  # tasks in AgentBench's data_std: the paper's 1,021 test examples (appendix B) less the others
AGENTBENCH = Backend(
    "agentbench", "the steps of AgentBench's data_std, each item shuffled by its own seed", comparable=True
)
# One code path for every page: what a score is worth is a matter of the items. Mind2Web's own files without
# AgentBench's list are other steps than the paper's, and generated pages are none of Mind2Web.
BACKENDS = (
    AGENTBENCH,
    Backend("embedded", "pages of any source, steps not those of AgentBench's list", comparable=False),
)


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` practice steps on generated pages; test sites and test values are never shown in training."""
    from agenttuning.environments.mind2web import synthetic

    return synthetic.items(split, n, seed)


def load(path: str) -> list[dict]:
    """The steps of Mind2Web's own files in a folder, see dataset.py. Raises UserError."""
    from agenttuning.environments.mind2web import dataset

    return dataset.load(path, TOP_K)


def missing(backend: str, data_std: str | None = None) -> list[Missing]:
    """What this machine lacks: lxml, and for the backend `agentbench` the folder of AgentBench's list, `data_std`."""
    chosen = backend_of(NAME, BACKENDS, backend)
    lacking = [] if find_spec("lxml") else [Missing("lxml", "pip install 'agenttuning[eval]'")]
    if chosen is AGENTBENCH and (data_std is None or not Path(data_std).is_dir()):
        what = "AgentBench's list of steps (--env mind2web.data_std=FOLDER)"
        what = what if data_std is None else f"the folder {data_std}"
        lacking.append(Missing(what, "docker cp CONTAINER-OF-AGENTBENCH-MIND2WEB:/root/work/data/data_std ."))
    return lacking


@contextmanager
def serve(backend: str = "embedded", data_std: str | None = None) -> Iterator[Room]:
    """The room. `data_std`: AgentBench's list, a folder of JSON files, which the items must then come from.

    Raises UserError for an unknown backend, for what is missing, and for a list that is not AgentBench's.
    """
    chosen = backend_of(NAME, BACKENDS, backend)
    for lack in missing(chosen.name, data_std):
        raise UserError(f"{NAME}.{chosen.name} needs {lack.what}; no step could be played; {lack.command}")
    if chosen is not AGENTBENCH:
        if data_std is not None:
            raise UserError(f"data_std goes with the backend {AGENTBENCH.name}; it would do nothing here; leave it out")
        yield Room(NAME, chosen, Environment)
        return
    from agenttuning.environments.mind2web import dataset

    known = dataset.task_ids(str(data_std))
    if len(known) != AGENTBENCH_TASKS:
        raise UserError(
            f"{data_std} holds {len(known)} tasks, AgentBench's list has {AGENTBENCH_TASKS}; scores would be set "
            "beside the paper's without being of the same steps; use the backend embedded, or give AgentBench's files"
        )

    def make(item: dict) -> Environment:
        if item.get("annotation_id") not in known:
            raise ValueError(f"the step {item['id']} is not of the list in data_std")
        return Environment(item)

    yield Room(NAME, chosen, make)


class Environment:
    """The tournament of one step. `over` after reset says that there is nothing to ask."""

    def __init__(self, item: dict) -> None:
        self.item = item
        self.over = True

    def reset(self) -> str:
        """The first question, or an empty text when there is none."""
        self.positive = [identity for identity, rank in self.item["positive"] if rank < TOP_K]
        negative = [identity for identity, rank in self.item["negative"] if rank < TOP_K]
        self.queue = [*self.positive, *negative]
        random.Random(f"{SHUFFLE_SEED}/{self.item['id']}").shuffle(self.queue)
        self.gold = gold_action(self.item["operation"])
        self.chosen: tuple[str, str] | None = None  # element, action
        self.question = None
        self.asked = 0
        if not self.positive:
            self.queue = []
        return self._next()

    def _next(self) -> str:
        from agenttuning.environments.mind2web.question import ask

        self.over = len(self.queue) < 2
        if self.over:
            return ""
        wanted, self.queue = self.queue[:AT_ONCE], self.queue[AT_ONCE:]
        self.question = ask(_html(self.item), self.item["task"], self.item["previous_actions"], wanted)
        self.asked += 1
        return self.question.text

    def step(self, action: str) -> Step:
        """An answer. One without a letter, or with the letter of no choice, counts as A and is not valid."""
        if self.over:
            return Step("", done=True, valid=False)
        answer = read_answer(action)
        valid = answer.letter != "" and answer.letter in self.question.letters
        if valid and answer.letter != "A":
            element = self.question.choices[self.question.letters.index(answer.letter) - 1]
            self.chosen = (element, answer.action)
            self.queue.append(element)
        observation = self._next()
        return Step(observation, done=self.over, valid=valid)

    def metrics(self) -> dict[str, float]:
        """element_accuracy, action_f1 and step_success of the prediction, each in [0, 1]; in_top_10 of the ranker."""
        element, action = self.chosen if self.over and self.chosen and self.queue else ("", "")
        found = float(element in self.positive)
        f1 = token_f1(action, self.gold) if self.positive else 0.0
        success = float(found == 1.0 and f1 == 1.0)
        known = float(bool(self.positive))
        return {"element_accuracy": found, "action_f1": f1, "step_success": success, "in_top_10": known}

    def score(self) -> float:
        """Step success: the right element and an action F1 of 1."""
        return self.metrics()["step_success"]

    def oracle(self) -> Move:
        """The right element's letter with the right action, or A where it is not among the choices.

        Of several right elements the first on the page. With six candidates, of which the right one is asked last, this
        loses: once all five are turned down the original stops without asking about the sixth.
        """
        question = self.question
        offered = question.text.rpartition("A. None of the above\n")[2].split("\n")
        for letter, element, choice in zip(question.letters[1:], question.choices, offered, strict=False):
            if element in self.positive:
                operation, _, value = self.gold.partition(" ")
                # named, so that what is trained on it holds a reason that the page bears out
                thought = f"the next step is {choice[3:]}: {operation.lower()} {value}".rstrip() + "."
                return Move(thought, write_answer(Answer(letter, operation, value)))
        return Move("none of these elements is the next step.", write_answer(Answer("A")))

    def actions(self) -> list[str]:
        """Every choice with a click, and with each word of the task to type or to select."""
        words = dict.fromkeys(word.strip(".,'\"") for word in self.item["task"].split())
        deeds = [("CLICK", ""), *((operation, word) for operation in ("SELECT", "TYPE") for word in words)]
        answers = [Answer(letter, *deed) for letter in self.question.letters[1:] for deed in deeds]
        return [write_answer(answer) for answer in (Answer("A"), *answers)]

    def close(self) -> None:
        """Nothing is held."""


def _html(item: dict) -> str:
    # Pages of the data set are some 100 kB each: a list of steps holds them compressed, as text that JSON can carry.
    return item["html"] if "html" in item else zlib.decompress(base64.b64decode(item["html_zlib"])).decode()
