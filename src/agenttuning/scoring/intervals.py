"""95 % intervals, so that a difference is not read into noise. An interval is (low, high) in the unit of its input."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
DRAWS = 10_000  # bootstrap resamples: the ends move by about one hundredth of the width from seed to seed

Interval = tuple[float, float]


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion, in [0, 1]; (0, 1) for n = 0.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): Wilson, JASA 22 (1927) 209-212, without continuity
    correction. Chosen because it holds its coverage for small n and near 0 and 1, where agents' scores lie. Raises
    ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / n) for sign in (-1, 1))
    # Exact at the ends, where rounding leaves 1e-17.
    return 0.0 if successes == 0 else low, 1.0 if successes == n else high


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean (Efron & Tibshirani 1993, chapter 13): resampled with replacement, seeded.

    Meant for graded rewards. Raises ValueError for no values.
    """
    import numpy as np

    if not len(values):
        raise ValueError("no values to resample")
    values = np.asarray(values, dtype=float)
    rng, part = np.random.default_rng(seed), (DRAWS // 100, len(values))  # in parts: the same numbers in less memory
    means = np.concatenate([values[rng.integers(0, len(values), part)].mean(axis=1) for _ in range(100)])
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(rewards: Sequence[float], seed: int = 0) -> Interval:
    """Interval of a mean reward in [0, 1]: Wilson when every reward is 0 or 1, else the bootstrap."""
    if all(reward in (0.0, 1.0) for reward in rewards):
        return wilson(int(sum(rewards)), len(rewards))
    return bootstrap(rewards, seed)


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """Interval of mean(after) - mean(before) over the same items in the same order.

    Rewards of 0 and 1 only: Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10, which puts two Wilson
    intervals together and stays honest at 0 % and 100 %, where a bootstrap has no width. Else the percentile bootstrap
    of the differences. Raises ValueError for lists of different length or none.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} and {len(after)} paired values")
    if not all(value in (0.0, 1.0) for value in (*before, *after)):
        return bootstrap([b - a for a, b in zip(before, after, strict=True)], seed)
    pairs = list(zip(after, before, strict=True))
    both, only_after, only_before, neither = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))
    n = len(pairs)
    p_after, p_before = (both + only_after) / n, (both + only_before) / n
    low_after, high_after = wilson(both + only_after, n)
    low_before, high_before = wilson(both + only_before, n)
    phi = _phi(both, only_after, only_before, neither)
    difference = p_after - p_before

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return (
        difference - half(p_after - low_after, high_before - p_before),
        difference + half(high_after - p_after, p_before - low_before),
    )


def _phi(e: int, f: int, g: int, h: int) -> float:
    # The correlation of the two outcomes; method 10 shrinks a positive one by n/2 in the numerator, not below 0.
    product = (e + f) * (g + h) * (e + g) * (f + h)
    if product == 0:
        return 0.0
    numerator = e * h - f * g
    if numerator > 0:
        numerator = max(numerator - (e + f + g + h) / 2, 0)
    return numerator / math.sqrt(product)


def difference(first: float, first_interval: Interval, second: float, second_interval: Interval) -> Interval:
    """Interval of second - first, two independent estimates with their own intervals; in their unit.

    Square-and-add (Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10, where both intervals are Wilson's;
    for others Zou & Donner, Statistics in Medicine 27 (2008) 1693-1702): each end of the difference is as far from it
    as the two ends that pull that way, put together at right angles.
    """
    below = math.hypot(second - second_interval[0], first_interval[1] - first)
    above = math.hypot(second_interval[1] - second, first - first_interval[0])
    return second - first - below, second - first + above


def mean_of(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Interval of the plain mean of independent estimates from their own intervals.

    Square-and-add (Newcombe 1998; Zou & Donner 2008: MOVER): mean -+ sqrt(sum of squared half-widths) / k, each side
    by itself. Raises ValueError for none.
    """
    if not values or len(values) != len(intervals):
        raise ValueError(f"{len(values)} values with {len(intervals)} intervals")
    k, mean = len(values), sum(values) / len(values)
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in zip(values, intervals, strict=True))) / k
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in zip(values, intervals, strict=True))) / k
    return mean - below, mean + above


def over_seeds(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean of equal runs that differ by their seed; in the unit of the values.

    It holds what the seeds vary and no more: items that all runs share are not resampled. Raises ValueError for fewer
    than two values.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"{len(values)} value; a spread needs two")
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return mean - half, mean + half
