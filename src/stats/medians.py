"""Quantiles, and the interval of a median from order statistics."""

from __future__ import annotations

import math

import numpy as np

LEVEL = 0.95


def quantile(values, share: float) -> float:
    """The quantile of values by linear interpolation between neighbours; ValueError if there are none."""
    if not len(values):
        raise ValueError("values: got none, allowed: at least one")
    return float(np.quantile(values, share))


def median_interval(values, level: float = LEVEL) -> tuple[float, float, float]:
    """(low, high, coverage): the narrowest symmetric pair of order statistics that covers the median with `level`.

    Below 6 values no pair reaches 95 %. Then it is the smallest and the largest value, with the coverage that they have
    (75 % for 3 values, 94 % for 5). By hand: SciPy's quantile_test gives NaN there, and no coverage.
    """
    ordered, n = sorted(values), len(values)
    if not n:
        raise ValueError("values: got none, allowed: at least one")
    tail, k = 0.5**n, 0  # P(fewer than k + 1 of n values are below the median)
    outside = tail
    while k + 1 <= (n - 1) // 2 and 2 * (outside + math.comb(n, k + 1) * tail) <= 1 - level:
        k += 1
        outside += math.comb(n, k) * tail
    return ordered[k], ordered[n - 1 - k], 1 - 2 * outside if n > 1 else 0.0
