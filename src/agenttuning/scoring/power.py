"""The smallest true difference that a comparison would have shown: two-sided 5 %, power 80 %, two samples.

Two samples, because the paper gives no results by item: its score and ours are two draws of a model's behaviour, and
what is the same in them (the items) cannot be taken out. Paired results of our own are in significance.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from agenttuning.scoring.intervals import Interval, Z

Z_POWER = 0.8416212335729143  # 80 % quantile of the normal distribution
STEPS = 60  # halvings of [0, 1]: far below what is printed


def detectable_proportion(p: float, n: int, other_n: int) -> float | None:
    """For proportions in [0, 1]: the difference from `p` (of n) that `other_n` items would show.

    Fleiss, Levin & Paik, Statistical Methods for Rates and Proportions (2003), chapter 4, without continuity
    correction: d = z sqrt(q (1-q) (1/n + 1/m)) + z_power sqrt(p (1-p) / n + r (1-r) / m), r = p +- d, q the mean of
    both, weighted by n. In the direction that needs more; where one has no room (scores end at 0 and 1) in the other;
    None where neither has. Raises ValueError for n below 1 or p outside [0, 1].
    """
    if min(n, other_n) < 1 or not 0 <= p <= 1:
        raise ValueError(f"p {p}, n {n} and {other_n}")

    def lacks(other: float) -> bool:
        pooled = (n * p + other_n * other) / (n + other_n)
        by_chance = Z * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / other_n))
        to_be_seen = Z_POWER * math.sqrt(p * (1 - p) / n + other * (1 - other) / other_n)
        return abs(other - p) < by_chance + to_be_seen

    found = [abs(other - p) for end in (0.0, 1.0) if (other := _nearest(p, end, lacks)) is not None]
    return max(found, default=None)


def _nearest(p: float, end: float, lacks: Callable[[float], bool]) -> float | None:
    """Towards `end`, the value nearest to p that is far enough; None where even the end is not."""
    if end == p or lacks(end):
        return None
    near, far = p, end
    for _ in range(STEPS):
        middle = (near + far) / 2
        near, far = (middle, far) if lacks(middle) else (near, middle)
    return far


def detectable_mean(interval: Interval, n: int, other_n: int) -> float:
    """For means, in the unit of the interval, which is that of the mean over `other_n` items: the difference from a
    mean over n items of the same spread (the paper gives none) that they would show.
    """
    error = (interval[1] - interval[0]) / (2 * Z)
    return (Z + Z_POWER) * error * math.sqrt(1 + other_n / n)
