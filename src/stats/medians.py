"""Quantiles, and the interval of a median from order statistics."""

from __future__ import annotations

import math

LEVEL = 0.95


def quantile(values, share: float) -> float:
    """The quantile of values by linear interpolation between neighbours; ValueError where there are none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("values: got none, allowed: at least one")
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def median_interval(values, level: float = LEVEL) -> tuple[float, float, float]:
    """(low, high, coverage): the narrowest symmetric pair of order statistics that covers the median with at least `level`.

    Below 6 values no pair reaches 95 %: then the least and the largest, with the coverage that they have (75 % for 3 values, 94 % for 5).
    """
    ordered, n = sorted(values), len(values)
    if not n:
        raise ValueError("values: got none, allowed: at least one")
    tail, k = 0.5**n, 0  # P(fewer than k + 1 of n values lie below the median)
    outside = tail
    while k + 1 <= (n - 1) // 2 and 2 * (outside + math.comb(n, k + 1) * tail) <= 1 - level:
        k += 1
        outside += math.comb(n, k) * tail
    return ordered[k], ordered[n - 1 - k], 1 - 2 * outside if n > 1 else 0.0
