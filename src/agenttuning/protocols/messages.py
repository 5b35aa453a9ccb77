"""The words of protocols: messages, prompts, and how a reply is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OURS = "ours"  # the source of a prompt in our own words
Message = dict  # {"role": "user" | "assistant", "content": str, "loss": bool}

_REFUSALS = re.compile(
    r"\bas an ai\b|\bi(?: am|'m) (?:just |only )?an? (?:ai|language model)\b|\bi apologi[sz]e\b|\bi(?: am|'m) sorry\b"
    r"|\bi (?:cannot|can't|can not|will not|won't|am not able to|am unable to|'m unable to)\b"
)
_REFUSAL_WINDOW = 300  # characters; a refusal opens a reply, and a long reply that mentions one is not one


def user(content: str) -> Message:
    """A message of the environment."""
    return {"role": "user", "content": content, "loss": False}


def assistant(content: str, loss: bool = True) -> Message:
    """A message of the model, verbatim: chat decides what is stripped, for training and prompting alike."""
    return {"role": "assistant", "content": content, "loss": loss}


def declines(reply: str) -> bool:
    """True for a reply that opens with an apology or a refusal; only asked of replies without an action.

    The paper counts "refuse to answer" by rules which it does not print; these phrases are our choice.
    """
    return _REFUSALS.search(reply[:_REFUSAL_WINDOW].lower().replace("’", "'")) is not None


@dataclass(frozen=True)
class Prompt:
    """What stands before the first observation: whole `messages` (instruction, acknowledgement, demonstration), and
    `lead`, the text which opens the message of the observation. `source` says where the text is from.
    """

    messages: tuple[Message, ...]
    lead: str = ""
    source: str = OURS

    def opening(self, observation: str) -> list[Message]:
        """The messages before the model's first turn."""
        return [*(dict(message) for message in self.messages), user(self.lead + observation)]

    @property
    def digest(self) -> str:
        """sha256 of the text, the first 16 hex digits; it stands in every record."""
        return hashlib.sha256(json.dumps([*self.messages, self.lead]).encode()).hexdigest()[:16]


Prompts = Callable[[dict], Prompt]  # of an item: the original's ALFWorld shows another demonstration for each task type


def own(texts: Any) -> Prompts:
    """The prompt in our own words: INSTRUCTION and ACKNOWLEDGEMENT of a module, and LEAD where it has one."""
    opening = (user(texts.INSTRUCTION), assistant(texts.ACKNOWLEDGEMENT, loss=False))
    prompt = Prompt(opening, getattr(texts, "LEAD", ""))
    return lambda _item: prompt


@dataclass(frozen=True)
class Reading:
    """A reply as read. `action` None: it has none, which ends the episode, unless `tell` says what the model is told
    instead of an observation. `keep` takes the reply's place in the history; `cut`: the action was longer than allowed.
    """

    thought: str
    action: str | None
    cut: bool = False
    keep: str | None = None
    tell: str | None = None


@dataclass(frozen=True)
class Format:
    """How replies are read and written.

    read(reply, action_chars, admissible) -> Reading: never raises, in time linear in the reply's length; `admissible()`
        gives the environment's admissible actions, for formats that map a reply to the nearest of them.
    write(thought, action) -> str: the reply that `read` gives this action for; scripted experts and teachers use it.
    show(observation) -> str: an observation, from the second on, as the text of a message.
    fresh: every turn is a conversation of its own, the prompt and the newest observation (Mind2Web's questions).
    """

    read: Callable[[str, int, Callable[[], list[str]]], Reading]
    write: Callable[[str, str], str]
    show: Callable[[str], str] = str
    fresh: bool = False
