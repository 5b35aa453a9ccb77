"""How long the search for duplicate conversations takes, beside datasketch's own MinHash and MinHashLSH.

    python benchmarks/duplicates.py [--conversations 62632] [--peer 1000]

Generated conversations of lognormal length (mean 1,200 words); one in 20 is a copy of an earlier one with a few words
changed, and one in ten has one of 20 long instructions in front of its task. Digests and signatures are made in two
processes, as a build does, and `find` runs in one. An agent row needs three sketches and a chat row two; the agent
share is the paper's. The peer sketches `--peer` of them, and searches all, then twice `--peer` rows that are half
alike. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import time
from multiprocessing import get_context

import numpy

from agenttuning.data.duplicates import band_shape, digest, find, signature
from agenttuning.data.minhash import NUM_PERM, SHINGLE, VIEWS, agreeing, sketch

WORDS, MEAN, SIGMA = 30_000, 1200, 0.9  # words in the vocabulary; of a conversation; spread of its logarithm
AGENT = 0.03  # of the paper's 62,632 conversations
CHUNK = 500  # conversations generated and sketched at once, so that their text never lies in memory whole
THRESHOLD = 0.8


def vocabulary() -> tuple[list[str], list[float]]:
    """Invented words and their cumulative Zipf weights."""
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "en", "i", "or", "u")]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(WORDS)]
    return words, list(numpy.cumsum([1 / (rank + 10) for rank in range(WORDS)]))


def conversations(chunk: int, count: int) -> list[list[dict]]:
    """The conversations of one chunk, a function of its number."""
    words, weights = vocabulary()
    rng, made = random.Random(chunk + 1), []
    openings = [" ".join(random.Random(-n).choices(words, cum_weights=weights, k=700)) for n in range(1, 21)]
    for _ in range(count):
        if made and rng.random() < 0.05:
            turns = [dict(turn) for turn in rng.choice(made)]
            turns[-1]["content"] += " " + rng.choice(words)
            made.append(turns)
            continue
        length = max(8, int(rng.lognormvariate(math.log(MEAN) - SIGMA**2 / 2, SIGMA)))
        text = rng.choices(words, cum_weights=weights, k=length)
        sides = 2 * max(1, min(8, length // 120))
        step = max(1, length // sides)
        parts = [" ".join(text[i * step : (i + 1) * step]) for i in range(sides)]
        turns = [{"role": ("user", "assistant")[i % 2], "content": part, "loss": i % 2 == 1} for i, part in
                 enumerate(parts)]  # fmt: skip
        if rng.random() < 0.1:
            turns[0]["content"] = f"{rng.choice(openings)} {turns[0]['content']}"
        if rng.random() < AGENT and len(turns) > 2:
            turns[1]["loss"] = False
        made.append(turns)
    return made


def worker(job: tuple[int, int]) -> tuple[list[bytes], numpy.ndarray, int, float, float]:
    """Digests, signatures, words, and the CPU seconds of each of the two."""
    made = conversations(*job)
    begun = time.process_time()
    digests = [digest(one) for one in made]
    middle = time.process_time()
    signatures = numpy.array([signature(one) for one in made])
    ended = time.process_time()
    words = sum(len(turn["content"].split()) for one in made for turn in one)
    return digests, signatures, words, middle - begun, ended - middle


def sketches(count: int) -> tuple[float, float]:
    """CPU seconds of a sketch of the whole text of one conversation: by datasketch with its own hash, and by ours."""
    from datasketch import MinHash

    texts = [[turn["content"] for turn in one] for one in conversations(0, count)]
    first = MinHash(NUM_PERM)
    begun = time.process_time()
    for text in texts:
        words = " ".join(text).encode().split()
        first.copy().update_batch([b" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)])
    middle = time.process_time()
    for text in texts:
        sketch(text)
    return (middle - begun) / count, (time.process_time() - middle) / count


def searches(digests: list[bytes], signatures: numpy.ndarray) -> tuple[float, float]:
    """CPU seconds of the same greedy search: by MinHashLSH with the same bands, and by `find`. They must agree."""
    from datasketch import MinHash, MinHashLSH

    needed, width, bands = band_shape(THRESHOLD)
    lsh, permutations = MinHashLSH(num_perm=NUM_PERM, params=(bands, width)), MinHash(NUM_PERM).permutations
    kept: set[bytes] = set()
    begun = time.process_time()
    for row, values in enumerate(signatures[:, NUM_PERM : 2 * NUM_PERM]):
        if digests[row] in kept:
            continue
        one = MinHash(hashvalues=values, permutations=permutations, scheme="affine32")
        near = lsh.query(one)
        if not near or agreeing(signatures[near], signatures[row]).max() < needed:
            lsh.insert(row, one)
            kept.add(digests[row])
    middle = time.process_time()
    found = find(digests, signatures, THRESHOLD)
    ended = time.process_time()
    if found.count(None) != len(kept):
        raise SystemExit(f"find keeps {found.count(None)} rows, datasketch {len(kept)}")
    return middle - begun, ended - middle


def family(count: int) -> tuple[list[bytes], numpy.ndarray]:
    """`count` conversations that are half alike, none of them near another: what one prompt around each task makes."""
    rng = numpy.random.RandomState(0)
    own, common = (rng.randint(0, 1 << 32, (n, VIEWS * NUM_PERM), dtype=numpy.uint32) for n in (count, 1))
    signatures = numpy.where(rng.random_sample(own.shape) < math.sqrt(0.5), common, own)
    return [number.to_bytes(4, "little") for number in range(count)], signatures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=62_632)
    parser.add_argument("--peer", type=int, default=1000, help="conversations that datasketch sketches too")
    given = parser.parse_args()
    total = given.conversations
    jobs = [(begin // CHUNK, min(CHUNK, total - begin)) for begin in range(0, total, CHUNK)]
    with get_context("spawn").Pool(2) as pool:
        parts = pool.map(worker, jobs, chunksize=1)
    digests = [one for part in parts for one in part[0]]
    signatures = numpy.concatenate([part[1] for part in parts])
    words, of_digests, of_signatures = (sum(part[place] for part in parts) for place in (2, 3, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begun = time.process_time()
    found = find(digests, signatures, THRESHOLD)
    of_find = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    added = (of_digests + of_signatures) / 2 + of_find
    print(f"{total:,} conversations, {words:,} words; {sum(one is not None for one in found):,} duplicates found")
    print(f"digest {of_digests:.1f} s, signature {of_signatures:.1f} s of one core, find {of_find:.1f} s")
    print(f"added to a build with two processes: {added:.1f} s")
    print(f"signatures {signatures.nbytes / 2**20:.0f} MiB; peak RSS {peak:.2f} GiB, {before:.2f} before find")
    theirs, ours = sketches(min(given.peer, total))
    print(f"one sketch: datasketch {theirs * 1e3:.2f} ms, ours {ours * 1e3:.2f} ms, {theirs / ours:.1f} times as fast")
    alike = family(2 * given.peer)
    for name, rows in (("all", (digests, signatures)), (f"{len(alike[0]):,} rows half alike", alike)):
        theirs, ours = searches(*rows)
        print(f"search, {name}: datasketch {theirs:.1f} s, ours {ours:.2f} s, {theirs / ours:.1f} times as fast")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
