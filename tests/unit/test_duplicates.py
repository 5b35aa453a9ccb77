"""Duplicates: what is the same, what is near, against exact Jaccard, datasketch, and every pair compared with every."""

from __future__ import annotations

import math
import os
import pickle
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.data import duplicates, minhash
from agenttuning.data.duplicates import digest, find, signature
from agenttuning.data.minhash import NUM_PERM, SHINGLE, VIEWS, agreeing

ROWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "agentinstruct_sample"
VOCABULARY = [f"w{number}" for number in range(4000)]


def chat(*texts, loss=True):
    """Turns user, assistant, user, ...; every assistant turn is trained."""
    return [
        {"role": ("user", "assistant")[place % 2], "content": text, "loss": bool(place % 2) and loss}
        for place, text in enumerate(texts)
    ]


def prose(rng, count):
    return rng.choices(VOCABULARY, k=count)


def changed(rng, words, share):
    """`words` with a run of new ones in their middle, `share` of all."""
    run = round(len(words) * share)
    begin = (len(words) - run) // 2
    return [*words[:begin], *prose(rng, run), *words[begin + run :]]


def shingle_set(texts):
    words = [word for text in texts for word in text.split()]
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def jaccard(one, other):
    a, b = shingle_set(one), shingle_set(other)
    return len(a & b) / len(a | b)


def both(conversations):
    return [digest(one) for one in conversations], numpy.array([signature(one) for one in conversations])


def found(conversations, threshold=0.8):
    return find(*both(conversations), threshold)


def planted(seed=0, families=40):
    """Families of conversations, shuffled: one original and four relatives, 0.6 to 1.0 alike in every view."""
    rng = random.Random(seed)
    conversations = []
    for _ in range(families):
        turns = [prose(rng, rng.randint(150, 500)) for _ in range(2)]
        for share in (0, 0.02, 0.06, 0.12, 0.22):
            conversations.append(chat(*(" ".join(changed(rng, words, share)) for words in turns)))
    rng.shuffle(conversations)
    return conversations


# digest


def test_the_digest_is_of_roles_and_texts_alone():
    one = chat("Caf\u00e9  and\n tea ", "Yes.")
    assert digest(one) == digest(chat(unicodedata.normalize("NFD", "Caf\u00e9 and tea"), " Yes.", loss=False))
    assert len(digest(one)) == 16
    others = [
        chat("cafe and tea", "Yes."),
        chat("Caf\u00e9 and tea", "Yes"),
        chat("Caf\u00e9 and", "tea Yes."),
        [{**one[0], "role": "system"}, one[1]],
        [*one, *one],
        [],
        chat("Caf\u00e9 and tea\x00assistant\x00Yes."),
    ]
    assert len({digest(other) for other in [*others, one]}) == len(others) + 1


TEXTS = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.lists(TEXTS, max_size=5), st.booleans())
def test_any_text_has_a_digest_and_a_signature(texts, more, loss):
    conversations = [chat(*texts, loss=loss), chat(*more), chat(*texts, loss=not loss)]
    digests, signatures = both(conversations)
    assert signatures.shape == (3, VIEWS * NUM_PERM) and signatures.dtype == numpy.uint32
    plain = [[" ".join(unicodedata.normalize("NFC", text).split()) for text in one] for one in (texts, more)]
    assert (digests[0] == digests[1]) == (plain[0] == plain[1])
    assert digests[0] == digests[2]
    assert find(digests, None, 0.8) == [None, 0 if plain[0] == plain[1] else None, 0]
    assert find(digests, signatures, 0.8)[2] == 0


# signature


@pytest.mark.parametrize("count", [1, SHINGLE, 40, minhash.BLOCK + SHINGLE, 1200])
def test_a_sketch_is_the_one_of_datasketch(count):
    texts = [" ".join(prose(random.Random(count), count))]
    theirs = MinHash(NUM_PERM, seed=1, hashfunc=int, scheme="affine32")
    theirs.update_batch(minhash.shingles(texts))
    assert minhash.sketch(texts).tolist() == theirs.hashvalues.tolist()


def test_the_hashes_are_of_five_words_across_turns():
    text = prose(random.Random(1), 100)
    hashes = minhash.shingles([" ".join(text[:40]), " ".join(text[40:])])
    assert len(hashes) == len(set(hashes.tolist())) == 96
    assert minhash.shingles([" ".join(text)]).tolist() == hashes.tolist()
    other = minhash.shingles([" ".join([*text[:50], "new", *text[51:]])])
    assert (hashes != other).nonzero()[0].tolist() == [46, 47, 48, 49, 50]
    assert (
        minhash.shingles(["b a"]).tolist() != minhash.shingles(["a b"]).tolist() and len(minhash.shingles([" "])) == 0
    )


def test_the_three_views_are_whole_task_and_answers():
    texts = [
        "the rules of all of it",
        "Ok, I know the rules now.",
        "the task that I have today",
        "a first act that I take",
    ]
    texts += ["what then is to be seen", "the last act that I take"]
    row = chat(*texts)
    row[1]["loss"] = False
    views = texts, texts[2:], [texts[3], texts[5]]
    assert minhash.views(row) == views
    assert signature(row).reshape(VIEWS, NUM_PERM).tolist() == [minhash.sketch(view).tolist() for view in views]
    system = [{"role": "system", "content": "You are kind.", "loss": False}, *chat("Hi", "Yes.")]
    assert minhash.views(system) == (["You are kind.", "Hi", "Yes."], ["Hi", "Yes."], ["Yes."])
    for other in (chat("Hi", "Yes.", loss=False), [{"role": "assistant", "content": "Yes.", "loss": True}], []):
        assert minhash.views(other) == ([turn["content"] for turn in other],) * 3
        assert (signature(other).reshape(VIEWS, NUM_PERM) == minhash.sketch(minhash.views(other)[0])).all()


def test_the_estimate_keeps_to_exact_jaccard():
    """300 pairs of known overlap: no estimate beyond 4.5 standard errors (one in 500 such tests by chance), no bias."""
    rng, errors = random.Random(2), []
    for _ in range(300):
        words = prose(rng, rng.randint(100, 800))
        pair = [" ".join(words)], [" ".join(changed(rng, words, rng.random() * 0.7))]
        true = jaccard(*pair)
        equal = (minhash.sketch(pair[0]) == minhash.sketch(pair[1])).mean()
        error = math.sqrt(max(true * (1 - true), 1e-9) / NUM_PERM)
        errors.append((equal - true) / error)
    assert max(map(abs, errors)) < 4.5
    assert abs(numpy.mean(errors)) < 4 / math.sqrt(300) and 0.85 < numpy.std(errors) < 1.15


def test_another_process_with_another_hash_seed_says_the_same():
    conversation = chat("One two three four five six.", "seven \ud800 acht n\u00fc\u0308n zehn", "elf", "zw\u00f6lf")
    code = (
        "import pickle, sys; from agenttuning.data.duplicates import digest, signature; "
        "one = pickle.load(sys.stdin.buffer); "  # noqa: S301 (our own bytes)
        "sys.stdout.buffer.write(digest(one) + signature(one).tobytes())"
    )
    ours = digest(conversation) + signature(conversation).tobytes()
    source = str(Path(duplicates.__file__).resolve().parents[2])
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source}
        words = [sys.executable, "-c", code]
        out = subprocess.run(words, input=pickle.dumps(conversation), env=env, capture_output=True, check=True)
        assert out.stdout == ours
    assert ours[:4].hex() == "6fa61419" and ours[16:24].hex() == "ac72db1c014dd20c"  # other machines, later versions


# find


def slow_find(digests, signatures, threshold):
    """Each row against every kept one, without bands."""
    kept, answer = [], []
    for row in range(len(digests)):
        same = [other for other in kept if digests[other] == digests[row]]
        alike = [(agreeing(signatures[other : other + 1], signatures[row])[0], -other) for other in kept]
        best = max(alike, default=(0, 0))
        near = best[0] >= threshold * NUM_PERM
        answer.append(same[0] if same else -best[1] if near else None)
        if answer[-1] is None:
            kept.append(row)
    return answer


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_bands_miss_no_pair(threshold):
    digests, signatures = both(planted(families=30))
    assert find(digests, signatures, threshold) == slow_find(digests, signatures, threshold)


@pytest.mark.parametrize("threshold", [one / 100 for one in range(1, 101)])
def test_the_band_shape_leaves_a_whole_band(threshold):
    needed, width, bands = duplicates.band_shape(threshold)
    assert needed / NUM_PERM >= threshold > (needed - 1) / NUM_PERM
    assert width * bands <= NUM_PERM and bands > NUM_PERM - needed


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_differences_in_the_worst_places_hide_no_pair(threshold):
    """As many values differ as may, each in a band of its own; one more, and it is no pair."""
    needed, width, bands = duplicates.band_shape(threshold)
    row = numpy.random.RandomState(0).randint(0, 1 << 31, VIEWS * NUM_PERM, dtype=numpy.uint32)
    for over in (0, 1):
        other = row.copy()
        other.reshape(VIEWS, NUM_PERM)[:, numpy.arange(NUM_PERM - needed + over) * width % NUM_PERM] += 1
        assert find([b"a", b"b"], numpy.array([row, other]), threshold) == [None, None if over else 0]


def test_what_is_dropped_is_near_by_exact_jaccard():
    conversations = planted()
    answer = found(conversations)
    views = [[shingle_set(texts) for texts in minhash.views(one)] for one in conversations]

    def alike(row, other):
        return min(len(a & b) / len(a | b) for a, b in zip(views[row], views[other], strict=True))

    slack = 4.5 * math.sqrt(0.8 * 0.2 / NUM_PERM)  # of an estimate at the threshold
    dropped = [(row, kept) for row, kept in enumerate(answer) if kept is not None]
    assert all(kept < row and answer[kept] is None and alike(row, kept) > 0.8 - slack for row, kept in dropped)
    kept = [row for row, other in enumerate(answer) if other is None]
    missed = [alike(row, other) for row in kept for other in kept if other < row]
    assert max(missed) < 0.8 + slack
    assert len(dropped) > 40 and sum(one > 0.5 for one in missed) > 20, "the test has pairs on both sides"


def test_a_row_is_dropped_only_for_one_that_is_kept():
    rng = random.Random(3)
    text = prose(rng, 1000)
    chain = [text]
    for begin in (100, 550):  # each is about 0.85 like the one before, the ends are 0.73 alike
        text = [*text[:begin], *prose(rng, 80), *text[begin + 80 :]]
        chain.append(text)
    a, b, c = (chat(" ".join(one), " ".join(one)) for one in chain)
    assert found([a, b]) == [None, 0] and found([b, c]) == [None, 0] and found([a, c]) == [None, None]
    assert found([a, b, c]) == [None, 0, None], "b goes for a; c is near b alone, and b is gone"
    assert found([b, a, c]) == [None, 0, 0]
    assert found([a, b, c, c, a]) == [None, 0, None, 2, 0]


def test_the_first_stays_and_short_ones_are_compared_whole():
    rows = [chat("Hi", "Hello"), chat("Hi", "Hello!"), chat("Hi ", " Hello"), chat("", ""), chat(" ", ""), chat("")]
    assert found(rows) == [None, None, 0, None, 3, None]
    assert found(rows, 0.01) == [None, None, 0, None, 3, None]
    assert find([], numpy.zeros((0, VIEWS * NUM_PERM), numpy.uint32), 0.8) == [] == find([], None, 0.8)
    assert find([digest(row) for row in rows], None, 0.8) == [None, None, 0, None, 3, None]


def test_a_shared_opening_makes_no_duplicate_and_neither_does_a_shared_end():
    rng = random.Random(4)
    opening = [" ".join(prose(rng, 900)), "Ok."]
    tasks = [[" ".join(prose(rng, 30)), " ".join(prose(rng, 30))] for _ in range(4)]
    rows = [chat(*opening, *task) for task in tasks]
    for row in rows:
        row[1]["loss"] = False
    again = [*rows[2][:3], {**rows[2][3], "content": rows[2][3]["content"] + " ."}]
    assert jaccard([one["content"] for one in rows[0]], [one["content"] for one in rows[1]]) > 0.85
    assert found([*rows, again]) == [None, None, None, None, 2]
    # one long prompt with the task in the same turn: the answers differ
    assert found([chat(f"{opening[0]} {number}", " ".join(prose(rng, 20))) for number in range(3)]) == [None] * 3
    # the last turn alone is trained, and the last exchange is the same
    last = [chat(*task, "Is that really all of it?", "Yes, that is really all of it.") for task in tasks]
    for row in last:
        row[1]["loss"] = False
    assert found(last) == [None] * 4


def test_many_alike_but_not_near_rows_are_quick():
    """A bucket that all rows share: without the count of whole bands this would compare each with each."""
    rng = numpy.random.RandomState(0)
    common = rng.randint(0, 1 << 32, VIEWS * NUM_PERM, dtype=numpy.uint32)
    own = rng.randint(0, 1 << 32, (3000, VIEWS * NUM_PERM), dtype=numpy.uint32)
    signatures = numpy.where(rng.random_sample(own.shape) < 0.5, common, own)  # two rows are a quarter alike, or more
    digests = [number.to_bytes(2, "little") for number in range(3000)]
    bands = duplicates._Bands(signatures, 0.8)
    for row in range(2999):
        bands.keep(row)
    bands.signatures = Counted(signatures)
    assert bands.nearest(2999) is None and bands.signatures.rows < 60
    assert find(digests, signatures, 0.8) == [None] * 3000


class Counted:
    """An array that counts the rows asked of it."""

    def __init__(self, array):
        self.array, self.rows = array, 0

    def __getitem__(self, rows):
        self.rows += numpy.size(rows)
        return self.array[rows]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, math.nan])
def test_a_threshold_outside_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        find([], None, threshold)


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 digests"):
        find([b"a", b"b"], numpy.zeros((1, VIEWS * NUM_PERM), numpy.uint32), 0.8)


@pytest.mark.skipif(not ROWS.is_dir(), reason="no agentinstruct_sample folder beside the repository")
def test_real_rows_that_share_their_instructions_are_kept():
    from agenttuning.data import quarantine, sources

    rows = list(quarantine.rows(sources.load_card("agentinstruct"), ROWS, quarantine.Quarantine("agentinstruct")))
    digests, signatures = both([row["messages"] for row in rows])
    whole = numpy.tile(signatures[:, :NUM_PERM], VIEWS)
    for threshold, by_whole_text in ((0.5, 167), (0.6, 98), (0.7, 23), (0.8, 0)):
        dropped = [kept for kept in find(digests, signatures, threshold) if kept is not None]
        assert dropped == [] and len(rows) == 289
        assert sum(kept is not None for kept in find(digests, whole, threshold)) == by_whole_text
