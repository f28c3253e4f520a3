"""The mean of independent estimates with the interval of each, such as the score over several test lengths.

mean_of([0.9, 0.7], [(0.88, 0.92), (0.66, 0.74)])       -> (0.8, (0.778, 0.822))
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_of(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """The mean of n values and its interval.

    intervals: [lo, hi] of each value, all of one level. The estimates must be independent, as those of disjoint test
    sets are. Then variances add, so each side of the mean is the root of the summed squares of that side, over n.
    Raises ValueError for no values, or for another number of intervals.
    """
    n = len(values)
    if not n or len(intervals) != n:
        raise ValueError(
            f"got {n} values and {len(intervals)} intervals, allowed: one interval per value, at least one"
        )
    mean = math.fsum(values) / n
    below = math.hypot(*(value - low for value, (low, _) in zip(values, intervals, strict=True))) / n
    above = math.hypot(*(high - value for value, (_, high) in zip(values, intervals, strict=True))) / n
    return mean, (mean - below, mean + above)
