"""p values of two of our own results over the same items: exact McNemar for 0 and 1, seeded sign flips for means."""

from __future__ import annotations

from collections.abc import Sequence

FLIPS = 10_000  # draws of signs: a p of 0.05 is then known to about 0.004 (two standard errors)


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided p that items change in either direction alike (McNemar 1947, binomial over the items that
    changed). Values are 0 or 1, in the same order. 1 where none changed.
    """
    better = sum(b < a for b, a in zip(before, after, strict=True))
    worse = sum(b > a for b, a in zip(before, after, strict=True))
    changed, ways, tail = better + worse, 1, 0  # ways: to choose k of the changed ones, as whole numbers
    for k in range(min(better, worse) + 1):
        tail += ways
        ways = ways * (changed - k) // (k + 1)
    return min(1.0, 2 * tail / 2**changed)


def sign_flips(before: Sequence[float], after: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of the mean difference, when each item's difference might as well have the other sign.

    (1 + draws at least as far from 0) / (1 + FLIPS), so never 0 (Phipson & Smyth 2010).
    """
    import numpy as np

    apart = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    apart = apart[apart != 0]
    if not len(apart):
        return 1.0
    rng, found, parts = np.random.default_rng(seed), 0, 100
    wanted = abs(apart.sum()) * (1 - 1e-12)  # sums of the same numbers in another order
    for _ in range(parts):
        signs = rng.integers(0, 2, (FLIPS // parts, len(apart))) * 2 - 1
        found += int((abs(signs @ apart) >= wanted).sum())
    return (1 + found) / (1 + FLIPS)


def paired_p(before: Sequence[float], after: Sequence[float], seed: int = 0) -> float:
    """The p of two results over the same items in the same order. Raises ValueError for none, or unequal lengths."""
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} and {len(after)} paired values")
    if all(value in (0.0, 1.0) for value in (*before, *after)):
        return mcnemar(before, after)
    return sign_flips(before, after, seed)
