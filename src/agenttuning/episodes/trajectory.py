"""The parts of an episode record's messages: what stood before the model's first turn, and what it was asked alone."""

from __future__ import annotations

# Tasks whose turns are questions asked alone, each behind the prompt (Format.fresh; protocols/mind2web.py). Their
# messages are prompt, question, answer, question, answer, ...; a record does not name its format.
FRESH = ("mind2web",)


def own_turn(message: dict) -> bool:
    """True for a reply of the model; the prompt's demonstrations are assistant messages, too, without loss."""
    return message["role"] == "assistant" and bool(message["loss"])


def first_turn(record: dict) -> int:
    """The place of the model's first reply among the messages; their number when it made none."""
    messages = record["messages"]
    return next((place for place, message in enumerate(messages) if own_turn(message)), len(messages))


def conversations(record: dict) -> list[list[dict]]:
    """The conversations that the model had, each ending with a reply of its own; none when it made none.

    One for an episode, without an observation that was left unanswered; of a task of FRESH one for each question.
    """
    messages, first = record["messages"], first_turn(record)
    answers = [place for place, message in enumerate(messages) if own_turn(message)]
    if record["task"] not in FRESH:
        return [messages[: answers[-1] + 1]] if answers else []
    prompt = messages[: max(0, first - 1)]
    return [[*prompt, *messages[max(0, place - 1) : place + 1]] for place in answers]
