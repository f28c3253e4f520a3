"""The mean of independent estimates and its interval.

python -m pytest tests/stats/test_means.py
"""

import numpy as np
import pytest

from src.stats.intervals import wilson
from src.stats.means import mean_of


def test_half_widths_are_combined_in_quadrature_side_by_side():
    mean, (low, high) = mean_of([0.9, 0.7], [(0.86, 0.92), (0.67, 0.74)])
    assert (mean, low, high) == pytest.approx((0.8, 0.8 - 0.05 / 2, 0.8 + np.hypot(0.02, 0.04) / 2))


def test_the_interval_of_one_value_is_its_own():
    assert mean_of([0.25], [(0.2, 0.31)]) == (0.25, (pytest.approx(0.2), pytest.approx(0.31)))


@pytest.mark.parametrize("intervals", [[], [(0, 1)] * 2])
def test_every_value_needs_its_interval(intervals):
    with pytest.raises(ValueError, match="allowed: one interval per value"):
        mean_of([0.5], intervals)


def test_the_mean_over_disjoint_tests_is_covered_95_times_in_100():
    rng = np.random.default_rng(5)
    shares = np.linspace(0.5, 0.98, 12)
    hits = 0
    for _ in range(400):
        counts = rng.binomial(300, shares)
        _, (low, high) = mean_of(counts / 300, [wilson(n, 300) for n in counts.tolist()])
        hits += low <= shares.mean() <= high
    assert 0.92 <= hits / 400 <= 0.98
