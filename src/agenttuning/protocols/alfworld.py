"""ALFWorld: `THOUGHT: ...` and `ACTION: ...`; an action that is not admissible becomes the most similar one that is.

Read as AgentBench.old reads (src/tasks/alfworld/utils.py, process_action, and the same file of THUDM/AgentBench at
f36853f6): the rest of the line after the first "ACTION:", or the whole reply; stripped, lower-cased, its first line.
When it is not admissible, the command with the highest sentence BLEU (nltk, smoothing method 4; the first of equals),
if that is above 0.01. A reply is therefore never without an action: what cannot be read is answered by the game.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from agenttuning.protocols.messages import Format, Reading

INSTRUCTION = (
    "You are in a house and have a task to do in it. Each turn, say what you think and what you do next, like this:\n"
    "THOUGHT: what you think\nACTION: what you do\n"
    "You can leave the thought out. What you can do: go to X, open X, close X, take X from Y, put X in/on Y, "
    "clean X with Y, heat X with Y, cool X with Y, use X, examine X, look, inventory. Name things with their numbers, "
    'as in "go to shelf 2". "Nothing happens." means that it cannot be done like that, or not here.'
)
ACKNOWLEDGEMENT = "I understand. What is my task?"
LEAD = "Here is your task. "

LEAST = 0.01  # process_action's `limit`
_ORDERS = (1, 2, 3, 4)  # of the n-grams that BLEU counts
_K = 5  # nltk's SmoothingFunction(k=5)


def write(thought: str, action: str) -> str:
    """The reply with this thought, which may be empty, and action. Raises ValueError when `read` would not give it."""
    reply = f"THOUGHT: {thought}\nACTION: {action}" if thought else f"ACTION: {action}"
    if read(reply, len(action) + 1, None).action != action:
        raise ValueError(f"the action {action[:80]!r} cannot be written as the one line after 'ACTION:', in lower case")
    return reply


def read(reply: str, action_chars: int, admissible: Callable[[], list[str]] | None) -> Reading:
    """Read a reply. Never raises, in time linear in its length; without `admissible` nothing is mapped."""
    # The original first looks for an "ACTION:" whose line ends, then for any; both find the first one.
    before, found, after = reply.partition("ACTION:")
    line = (after.split("\n", 1)[0] if found else reply).strip().split("\n", 1)[0]
    action = line[:action_chars].lower()
    thought = before.strip().removeprefix("THOUGHT:").strip() if found else ""
    if admissible is not None:
        action = nearest(action, admissible())
    return Reading(thought, action, cut=len(line) > action_chars)


def nearest(action: str, choices: list[str]) -> str:
    """The choice which the original takes for an action; the action itself when none is like it."""
    if not choices or action in choices:
        return action
    candidate = Sentence(action)
    scores = [candidate.bleu(choice) for choice in choices]
    best = max(scores)
    return choices[scores.index(best)] if best > LEAST else action


class Sentence:
    """A candidate sentence, its n-grams counted once; `bleu` is nltk's sentence_bleu with SmoothingFunction.method4."""

    def __init__(self, text: str) -> None:
        words = text.split()
        self.length = len(words)
        self.counts = {n: _ngrams(words, n) for n in _ORDERS}
        # nltk takes a denominator of at least 1, for sentences shorter than n.
        self.totals = {n: max(1, len(words) - n + 1) for n in _ORDERS}

    def bleu(self, reference: str) -> float:
        """Sentence BLEU-4 in [0, 1] against one reference."""
        words = reference.split()
        found = {n: self._shared(words, n) for n in _ORDERS}
        if found[1] == 0:
            return 0.0
        logs, zeros = [], 0
        for n in _ORDERS:
            precision = found[n] / self.totals[n]
            if found[n] == 0:
                if self.length == 1:  # method 4 leaves these at 0, and nltk leaves zeros out of the mean
                    continue
                zeros += 1
                precision = 1 / (2**zeros * _K / math.log(self.length)) / self.totals[n]
            logs.append(0.25 * math.log(precision))
        penalty = 1.0 if self.length > len(words) else math.exp(1 - len(words) / self.length)
        return penalty * math.exp(math.fsum(logs))

    def _shared(self, words: list[str], n: int) -> int:
        return sum(min(count, self.counts[n][ngram]) for ngram, count in _ngrams(words, n).items())


def _ngrams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


FORMAT = Format(read, write)
