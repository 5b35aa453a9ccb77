"""Texts with planted overlaps, and the contamination rule read slowly, for tests of the fast searches."""

from __future__ import annotations

from hypothesis import strategies as st

from agenttuning.data.ngrams import BUDGET, N


def slow(tested, trained):
    """The rule word for word: every start in every pair of texts, one token after the other."""
    marks = [[False] * len(text) for text in tested]
    for number, text in enumerate(tested):
        for other in trained:
            for i in range(len(text) - N + 1):
                for j in range(len(other) - N + 1):
                    if text[i : i + N] != other[j : j + N]:
                        continue
                    end, missed = N, 0
                    for k in range(N, min(len(text) - i, len(other) - j)):
                        if text[i + k] == other[j + k]:
                            end = k + 1
                        else:
                            missed += 1
                            if missed > BUDGET:
                                break
                    marks[number][i : i + end] = [True] * end
    return [mark for row in marks for mark in row]


@st.composite
def overlapping(draw):
    """Texts over few tokens, so that chance overlaps too, and spans copied from one side to the other with changes."""
    token = st.integers(0, draw(st.sampled_from([1, 3, 500])))
    texts = st.lists(st.lists(token, max_size=40), max_size=4)
    tested, trained = draw(texts), draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        span = draw(st.lists(token, min_size=N, max_size=30))
        changed = list(span)
        for place in draw(st.lists(st.integers(0, len(span) - 1), max_size=7)):
            changed[place] = draw(token)
        tested.append(draw(st.lists(token, max_size=5)) + span + draw(st.lists(token, max_size=5)))
        trained.append(draw(st.lists(token, max_size=5)) + changed + draw(st.lists(token, max_size=5)))
    return tested, trained
