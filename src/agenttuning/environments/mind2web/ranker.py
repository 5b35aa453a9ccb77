"""Ranks a page's elements for a task with BM25, where the benchmark has a trained ranker (DeBERTa).

Robertson and Zaragoza 2009, with the usual k1 and b; a few dozen short documents need no library.
"""

from __future__ import annotations

import math
import re
from collections import Counter

K1, B = 1.5, 0.75


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, without a plural's s."""
    return [re.sub(r"(?<=[a-z]{3})s$", "", word) for word in re.findall(r"[a-z0-9]+", text.lower())]


def ranks(query: str, documents: list[str]) -> list[int]:
    """The rank of each document, 0 for the best; equal scores stay in their order."""
    counts = [Counter(words(document)) for document in documents]
    mean = sum(map(Counter.total, counts)) / max(1, len(counts)) or 1.0
    scores = [0.0] * len(documents)
    for word in dict.fromkeys(words(query)):
        having = sum(word in count for count in counts)
        weight = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for place, count in enumerate(counts):
            length = K1 * (1 - B + B * count.total() / mean)
            scores[place] += weight * count[word] * (K1 + 1) / (count[word] + length)
    # Rounded, so that the last digit of a machine's logarithm decides nothing.
    order = sorted(range(len(documents)), key=lambda place: (-round(scores[place], 9), place))
    places = [0] * len(documents)
    for rank, place in enumerate(order):
        places[place] = rank
    return places
