"""The prompts of the paper's held-in tasks, read at run time from what the user has; none of their text is kept here.

Two places hold them. AgentInstruct's rows open with what the model was trained on: instruction, acknowledgement and,
for os and kg, a demonstration. A checkout of AgentBench (of AgentTuning's copy of it, or of THUDM/AgentBench at its
first commit) holds what the paper's evaluation showed, which has a demonstration for alfworld, webshop and mind2web
too: the two differ there, and scores under them are kept apart by the prompt's digest in every record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from agenttuning.data.sources import load_card, read
from agenttuning.errors import UserError
from agenttuning.protocols import checkout
from agenttuning.protocols.messages import OURS, Prompt, Prompts, assistant, user

# Where the observation starts inside the message that carries it: after the first of these, as AgentBench.old's task
# files compose it. Tasks that are not named have no text before it.
LEAD_ENDS = {"os": "\n\n", "kg": ": ", "alfworld": "task. "}
ROWS = "AgentInstruct rows"  # the source of such a prompt
# Of these tasks the rows have no demonstration, and the paper's evaluation showed one.
WITHOUT_DEMONSTRATION = ("alfworld", "webshop", "mind2web")
# The rows of one task must agree; a few of AgentInstruct's were edited by hand, and a small part may differ.
AGREE = 0.8


def load(task: str, place: str | Path | None = None) -> Prompts:
    """The prompts of `task` from `place`: AgentInstruct rows (a folder with TASK.jsonl, or the file), a checkout of
    AgentBench, or None for AgentInstruct on the Hub at the commit its data card pins.

    Raises UserError where the place holds no prompt of the task, or where its rows do not agree on one.
    """
    if place is not None and checkout.is_checkout(Path(place)):
        return checkout.prompts(task, Path(place))
    prompt = from_rows(task, _rows(task, place), str(place or "AgentInstruct"))
    return lambda _item: prompt


def from_rows(task: str, rows: Iterable[object], where: str) -> Prompt:
    """The prompt that AgentInstruct's rows of one task share. Raises UserError for no usable row, or for several."""
    found = Counter(opening for row in rows if (opening := _opening(task, row)) is not None)
    total = found.total()
    if not total:
        raise UserError(
            f"{where} has no row of {task} with a trained reply; the prompt would be missing; give the rows of "
            "zai-org/AgentInstruct, or a checkout of AgentBench"
        )
    (best, count), *_ = found.most_common(1)
    if count < AGREE * total:
        raise UserError(
            f"{where}: the {total} rows of {task} open in {len(found)} ways, the most frequent in {count}; the prompt "
            "would be a guess; give the rows as they are on the Hub"
        )
    turns, lead = best
    messages = tuple(user(text) if human else assistant(text, loss=False) for human, text in turns)
    return Prompt(messages, lead, ROWS)


def not_the_papers(task: str, prompt: Prompt) -> str | None:
    """Why a score under this prompt is not to be set beside the paper's; None where it is the paper's prompt."""
    if prompt.source == OURS:
        return "the prompt is in our own words"
    if prompt.source == ROWS and task in WITHOUT_DEMONSTRATION:
        return "the prompt of AgentInstruct's rows lacks the demonstration; --prompts CHECKOUT has the paper's"
    return None


def _rows(task: str, place: str | Path | None) -> Iterable[object]:
    card = load_card("agentinstruct")
    if place is not None:
        folder = Path(place)
        file = folder / f"{task}.jsonl" if folder.is_dir() else folder
        if not file.exists():
            there = "holds" if folder.exists() else "does not exist, so it has"
            raise UserError(
                f"{folder} {there} neither {task}.jsonl nor a checkout of AgentBench; the prompt of {task} is in "
                "one of them; give --prompts the folder of AgentInstruct's rows or of the checkout"
            )
        place = file
    wanted = (lambda split: True) if place is not None else (lambda split: split == task)
    try:
        return [row for split, row in read(card, place) if wanted(split)]
    except UserError as error:
        if place is not None:
            raise
        seen = str(error).partition("; ")[0]
        raise UserError(
            f"{seen}; it holds the prompt of {task}, without which nothing is played; connect, give its rows or a "
            "checkout of AgentBench as --prompts PATH (`prompts:` in a collection file), or play by the protocol "
            "practice, whose prompts are our own"
        ) from None


def _opening(task: str, row: object) -> tuple[tuple[tuple[bool, str], ...], str] | None:
    """(turns before the observation, its lead) of a row; None for a row that has no trained reply, or is none."""
    try:
        turns = row["conversations"]
        first = next(place for place, turn in enumerate(turns) if turn["from"] == "gpt" and turn["loss"] is True)
        before = tuple((turn["from"] == "human", str(turn["value"])) for turn in turns[: first - 1])
        observation = str(turns[first - 1]["value"])
    except (TypeError, KeyError, StopIteration, IndexError):
        return None
    if [human for human, _ in before] != [True, False] * (len(before) // 2):
        return None  # a chat template would refuse it
    head, mark, _ = observation.partition(LEAD_ENDS[task]) if task in LEAD_ENDS else ("", "", "")
    return before, head + mark if mark else ""
