"""How alike two conversations are, from a few numbers of each: MinHash of word shingles (Broder 1997).

Three views of a conversation have a sketch each, and two conversations are as alike as the least similar view says:

whole: all turns.
task: without the untrained opening. Every row of an AgentInstruct task begins with one instruction and demonstration.
answers: the trained turns. A long instruction that stands in one turn with its task makes prompts alike, not answers.

Measured on 289 AgentInstruct rows (exact Jaccard of word 5-shingles, median over the pairs of one split, whole then
task): db 0.63, 0.02; db with more turns 0.43, 0.01; kg 0.57, 0.03; os 0.48, 0.05; alfworld 0.35, 0.05; webshop 0.20,
0.05; mind2web, which has no opening, 0.15 both. No two rows of db are more than 0.80 alike over all, or 0.32 in their
task. `find` over the whole view alone drops 0, 23, 98 and 167 of the rows at 0.8, 0.7, 0.6 and 0.5; over the three
views none at any of these. The whole view guards data in which the last turn alone is trained: there the same last
exchange would make two conversations alike.

An estimate is the share of NUM_PERM minima that agree; its standard error is sqrt(J (1 - J) / NUM_PERM), 0.035 at 0.8,
so a view whose true similarity is the threshold passes half of the time. Words are what lies between white space; in a
script without spaces few near duplicates are found.
"""

from __future__ import annotations

import unicodedata
import zlib

import numpy

NUM_PERM, SHINGLE, VIEWS = 128, 5, 3
EMPTY = numpy.uint32(0xFFFFFFFF)  # every value of a sketch of no words
BASE = numpy.uint64(0x9E3779B97F4A7C15)  # odd, so that every word moves all higher bits
BLOCK = 256  # shingles permuted at once: 128 KiB, which stays in a core's cache however long a conversation is


def _permutations(seed: int = 1) -> tuple[numpy.ndarray, numpy.ndarray]:
    """NUM_PERM bijections h -> a h + b mod 2**32. RandomState's stream is frozen by numpy, so all machines agree."""
    generator = numpy.random.RandomState(seed)
    odd = generator.randint(0, 1 << 31, NUM_PERM, dtype=numpy.uint32) * numpy.uint32(2) + numpy.uint32(1)
    return odd, generator.randint(0, 1 << 32, NUM_PERM, dtype=numpy.uint32)


FACTORS, SUMMANDS = _permutations()


def words(text: str) -> list[str]:
    """What lies between white space, after unicode NFC."""
    return unicodedata.normalize("NFC", text).split()


def views(messages: list[dict]) -> tuple[list[str], list[str], list[str]]:
    """The texts of whole, task (from the turn before the first trained one) and answers; where nothing is trained, all
    texts each time.
    """
    texts = [message["content"] for message in messages]
    trained = [place for place, message in enumerate(messages) if message.get("loss")]
    if not trained:
        return texts, texts, texts
    return texts, texts[max(0, trained[0] - 1) :], [texts[place] for place in trained]


def shingles(texts: list[str]) -> numpy.ndarray:
    """A 32-bit hash, uint32, of each SHINGLE words in a row of the joined texts; of all words where they are fewer."""
    parts = [word.encode("utf-8", "surrogatepass") for text in texts for word in words(text)]
    if not parts:
        return numpy.zeros(0, dtype=numpy.uint32)
    width = min(SHINGLE, len(parts))
    wide = numpy.fromiter(map(zlib.crc32, parts), dtype=numpy.uint64, count=len(parts)) + numpy.uint64(1)
    hashes = numpy.zeros(len(parts) - width + 1, dtype=numpy.uint64)
    for offset in range(width):
        hashes *= BASE
        hashes += wide[offset : offset + len(hashes)]
    hashes ^= hashes >> numpy.uint64(29)
    hashes *= BASE
    return (hashes >> numpy.uint64(32)).astype(numpy.uint32)


def sketch(texts: list[str]) -> numpy.ndarray:
    """uint32 (NUM_PERM,): the minimum of each permutation over `shingles`; all EMPTY without a word.

    These are the values of datasketch.MinHash (scheme affine32, seed 1) over the same hashes; a test compares them.
    Written out because datasketch hashes one shingle after another in Python: benchmarks/duplicates.py has the ratio.
    """
    values = shingles(texts)
    values ^= values >> numpy.uint32(16)  # MurmurHash3's finalizer, as datasketch applies it
    values *= numpy.uint32(0x85EBCA6B)
    values ^= values >> numpy.uint32(13)
    values *= numpy.uint32(0xC2B2AE35)
    values ^= values >> numpy.uint32(16)
    lowest = numpy.full(NUM_PERM, EMPTY)
    for begin in range(0, len(values), BLOCK):
        block = values[begin : begin + BLOCK, None] * FACTORS
        block += SUMMANDS
        numpy.minimum(lowest, block.min(axis=0), out=lowest)
    return lowest


def signature(messages: list[dict]) -> numpy.ndarray:
    """uint32 (VIEWS x NUM_PERM,): the sketches of whole, task and answers; the same in every process and machine."""
    whole, task, answers = views(messages)
    first = sketch(whole)
    second = first if len(task) == len(whole) else sketch(task)
    return numpy.concatenate([first, second, second if len(answers) == len(task) else sketch(answers)])


def agreeing(signatures: numpy.ndarray, one: numpy.ndarray) -> numpy.ndarray:
    """int (rows,): how many of NUM_PERM minima agree with `one` in the least similar view of each row."""
    return (signatures == one).reshape(-1, VIEWS, NUM_PERM).sum(axis=2).min(axis=1)
