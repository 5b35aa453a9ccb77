"""A judge for tests and the tiny twin: 10 for an answer that is its reference, 1 for any other.

    python -m agenttuning.general.mt_bench.scripted_judge --port 8017     # http://127.0.0.1:8017/v1, model "scripted"

It listens on this machine only, and grades what questions it knows: those of practice(), or others whose every
question has a reference.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agenttuning.errors import UserError
from agenttuning.general.mt_bench import prompts
from agenttuning.general.mt_bench.practice import practice
from agenttuning.general.mt_bench.prompts import JudgePrompt
from agenttuning.general.mt_bench.questions import Question, Questions
from agenttuning.general.mt_bench.rules import read_rules
from agenttuning.policies import Turn
from agenttuning.policies.serve import serve

MODEL = "scripted"
RIGHT, WRONG = 10, 1
Grade = Callable[[str, str, Turn], float]  # of an answer, its reference, and the judge's turn


def exactly(answer: str, reference: str, turn: Turn) -> float:
    """RIGHT for the reference's very words, whatever white space is between them, else WRONG."""
    return RIGHT if answer.split() == reference.split() else WRONG


@contextmanager
def scripted_judge(questions: Questions, grade: Grade = exactly, port: int = 0) -> Iterator[str]:
    """Judge while the block runs; gives the base URL for Judge(url, MODEL). Raises UserError for questions without a
    reference.
    """
    if bare := [item.id for item in questions.items if item.reference is None]:
        raise UserError(
            f"questions {', '.join(bare[:5])} have no reference answer; the scripted judge could only guess; name a "
            "real judge, or take practice questions"
        )
    with serve(lambda turns: [_reply(turn, questions, grade) for turn in turns], MODEL, port) as url:
        yield url


def _reply(turn: Turn, questions: Questions, grade: Grade) -> str:
    text = turn.messages[-1]["content"]
    for item in questions.items:
        for name, prompt in questions.prompts.items():
            place = 1 if name in (prompts.SECOND, prompts.SECOND_WITH_REFERENCE) else 0
            answer = _answer_in(text, prompt, item, "answer_2" if place else "answer")
            if answer is not None:
                rating = grade(answer, item.reference[place], turn)
                return f"It is held against the reference, word by word.\n\nRating: [[{rating:g}]]"
    raise ValueError("a question that this judge does not know")


def _answer_in(text: str, prompt: JudgePrompt, item: Question, wanted: str) -> str | None:
    """The answer that a filled template holds, or None where it was not filled with this question."""
    values = {"question": item.turns[0], "question_1": item.turns[0], "question_2": item.turns[1]}
    values |= {"ref_answer_1": item.reference[0], "ref_answer_2": item.reference[1]}
    known, pieces, fields = "", [], []  # texts between the answers, and the answers' fields
    for literal, name in prompt.parts:
        known += literal
        if name in values:
            known += values[name]
        elif name is not None:
            pieces.append(known)
            fields.append(name)
            known = ""
    head, *between = pieces
    if not text.startswith(head) or not text.endswith(known):
        return None
    rest, answers = text[len(head) : len(text) - len(known)], []
    for piece in between:
        answer, found, rest = rest.partition(piece)
        if not found:
            return None
        answers.append(answer)
    return dict(zip(fields, [*answers, rest], strict=True))[wanted]


def main() -> None:
    """Judge practice questions until interrupted."""
    rules = read_rules().practice
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--items", type=int, default=rules.n, help="practice questions, %(default)s")
    parser.add_argument("--seed", type=int, default=rules.seed, help="that draws them, %(default)s")
    asked = parser.parse_args()
    try:
        with scripted_judge(practice(asked.items, asked.seed), port=asked.port) as url:
            print(f"{url}, model {MODEL}; Ctrl-C ends it", flush=True)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    except (OSError, OverflowError, ValueError) as error:
        parser.error(f"nobody can be judged: {error}; give another --port or --items")


if __name__ == "__main__":
    main()
