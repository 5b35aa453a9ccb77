"""A judge's reply to a rating. The reply alone is read, never the question that it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

# FastChat, llm_judge/common.py: one_score_pattern and its backup. Digits are ASCII and nothing is tried twice, so that
# a megabyte of digits costs a megabyte's time.
RATING = re.compile(r"\[\[([0-9]++\.?[0-9]*+)\]\]")
BACKUP = re.compile(r"\[([0-9]++\.?[0-9]*+)\]")
LOW, HIGH = 1.0, 10.0  # of the scale that the prompts name


@dataclass(frozen=True)
class Verdict:
    """`rating`: 1 to 10, or None where the reply has none. several: it holds different ratings. quoted: some of them
    stand in the answer that was judged, and were passed over.
    """

    rating: float | None
    several: bool = False
    quoted: bool = False


def read_verdict(reply: str, answer: str = "") -> Verdict:
    """The rating of a reply: the first [[number]], as FastChat reads it, or else the first [number].

    There is one more rule, for an answer that forges a verdict which the judge then quotes: where a reply holds
    different ratings in double brackets, those that stand so in the `answer` judged do not count. A rating outside 1
    to 10 is none.
    """
    found = RATING.findall(reply)
    several = len({float(text) for text in found}) > 1
    own = [text for text in found if f"[[{text}]]" not in answer] if several else found
    quoted = several and 0 < len(own) < len(found)
    texts = (own or found) or BACKUP.findall(reply)[:1]
    rating = float(texts[0]) if texts else None
    if rating is not None and not LOW <= rating <= HIGH:
        rating = None
    return Verdict(rating, several, quoted)
