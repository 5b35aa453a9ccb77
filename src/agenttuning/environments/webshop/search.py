"""Search as WebShop's: Lucene's BM25 over the products' texts, with the English analysis of pyserini 0.17.

The original calls pyserini's LuceneSearcher with its defaults (web_agent_site/engine/engine.py): k1 0.9, b 0.4, the
tokens of Lucene's EnglishAnalyzer, ties broken by asin. This is the same formula with Lucene's own rounding of
document lengths, which bm25s does not have. docs/environments/webshop.md lists what still differs.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

K1, B = 0.9, 0.4  # Anserini's defaults
MOST_TERMS = 1024  # Lucene's maxClauseCount: it refuses a longer query, which would end the episode; here it is cut
SHORT = 40  # characters of a word whose term is remembered
EXACT = 24  # Lucene's SmallFloat.intToByte4: shorter lengths are exact, longer ones keep four leading bits above it

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
    "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will",
    "with",
))  # fmt: skip

# Lucene's StandardTokenizer, near enough: letters and digits; between letters also . ' : · , between digits . ' , ;
# and one ideograph (or hiragana) at a time.
_TOKEN = re.compile(
    "[\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff]"
    r"|(?:[A-Za-z0-9_]++|[^\W\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff]|(?<=\w)[\u0300-\u036f]"
    r"|(?<=[^\W\d_])[.'’:·](?=[^\W\d_])|(?<=\d)[.'’,;](?=\d))++"
)


def analyzer() -> Callable[[str], list[str]]:
    """A function from a text to its terms, in order: words in lower case, without stop words, stemmed (Porter)."""
    import Stemmer

    stem = Stemmer.Stemmer("porter", 0).stemWord

    def term(word: str) -> str:
        bare = word[:-2] if word[-2:] in ("'s", "’s", "'S", "’S") else word
        lower = bare.lower()
        if not lower.strip("_") or lower in STOP_WORDS:
            return ""
        # Lucene's Porter leaves words of two letters alone, Snowball's does not.
        return stem(lower) if len(lower) > 2 else lower

    known = lru_cache(maxsize=1 << 20)(term)  # of short words: a model's long ones shall not fill the memory
    return lambda text: [
        found for word in _TOKEN.findall(text) if (found := known(word) if len(word) <= SHORT else term(word))
    ]


def lucene_length(length: int) -> int:
    """A document length as Lucene stores it in one byte and reads it back."""
    if length < EXACT:
        return length
    above = length - EXACT
    shift = max(0, above.bit_length() - 4)
    return EXACT + (above >> shift << shift)


class Index:
    """Postings of all terms, with the BM25 weight of each worked out beforehand."""

    def __init__(self, texts: Iterable[str], keys: Sequence[str]) -> None:
        """`texts` of the documents; `keys`, one each, order documents of equal score."""
        import numpy as np

        self._keys = keys
        self._terms = analyzer()
        self._vocabulary: dict[str, int] = {}
        terms, documents, counts, lengths = array("I"), array("I"), array("I"), array("I")
        for number, text in enumerate(texts):
            found = [self._vocabulary.setdefault(term, len(self._vocabulary)) for term in self._terms(text)]
            lengths.append(len(found))
            tally = Counter(found)
            terms.extend(tally)
            counts.extend(tally.values())
            documents.extend([number] * len(tally))
        self._size = len(lengths)
        filled = sum(length > 0 for length in lengths)
        mean = sum(lengths) / max(filled, 1)
        stored = np.array([lucene_length(length) for length in lengths], dtype=np.float64)
        norms = (K1 * (1 - B + B * stored / max(mean, 1e-9))).astype(np.float32)
        terms, documents, counts = (np.frombuffer(part, dtype=np.uint32) for part in (terms, documents, counts))
        order = np.argsort(terms, kind="stable")
        found_in = np.bincount(terms, minlength=len(self._vocabulary))
        self._starts = np.concatenate([[0], np.cumsum(found_in)])
        # math.log, not numpy's: it gives the same bits whatever the processor's vector unit.
        rarity = np.array([math.log(1 + (filled - n + 0.5) / (n + 0.5)) for n in found_in.tolist()], dtype=np.float32)
        self._documents = documents[order]
        frequency = counts[order].astype(np.float32)
        self._weights = np.repeat(rarity, found_in) * (frequency / (frequency + norms[self._documents]))

    def __len__(self) -> int:
        return self._size

    def scores(self, query: str):
        """BM25 of all documents, float32; a term counts as often as the query has it."""
        import numpy as np

        total = np.zeros(self._size, dtype=np.float64)
        wanted = Counter(self._terms(query))
        for term, times in list(wanted.items())[:MOST_TERMS]:
            number = self._vocabulary.get(term)
            if number is not None:
                span = slice(self._starts[number], self._starts[number + 1])
                total[self._documents[span]] += times * self._weights[span].astype(np.float64)
        return total.astype(np.float32)

    def search(self, query: str, k: int) -> list[int]:
        """The numbers of the `k` best documents, best first; only those that have a term of the query."""
        import numpy as np

        scores = self.scores(query)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:
            least = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= least]
        return sorted(found.tolist(), key=lambda number: (-scores[number], self._keys[number]))[:k]
