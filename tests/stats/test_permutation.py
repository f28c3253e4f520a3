"""Exact tests against counting by hand and against SciPy.

python -m pytest tests/stats/test_permutation.py
"""

import math

import numpy as np
import pytest
import scipy  # `scipy.stats` is imported where it is first used

from src.stats import permutation
from src.stats.permutation import exchange, improvement, seeds_needed, sign_flip, smallest_p


def test_three_separated_seeds_give_two_of_twenty_arrangements():
    assert exchange([0.2, 0.3, 0.1], [0.8, 0.9, 0.7]) == (pytest.approx(0.1), pytest.approx(0.05))
    assert exchange([0.8, 0.9, 0.7], [0.2, 0.3, 0.1]) == (pytest.approx(0.1), 1.0)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_exchange_gives_the_p_of_scipy_also_with_ties(n):
    """Whole numbers, because SciPy does not treat sums that differ by rounding as ties."""
    for a, b in np.random.default_rng(n).integers(0, 7, (4, 2, n)).astype(float):
        theirs = [
            scipy.stats.permutation_test(
                (a, b),
                lambda x, y, axis: y.sum(axis=axis) - x.sum(axis=axis),
                vectorized=True,
                n_resamples=np.inf,
                alternative=side,
            ).pvalue
            for side in ("two-sided", "greater")
        ]
        assert exchange(a, b) == pytest.approx(theirs)


def test_sums_that_differ_by_rounding_are_ties():
    """0.1 + 0.2 and 0.3 are one sum: 1e-17 must not halve a p."""
    a, b = [0.1, 0.2, 0.3], [0.3, 0.3, 0.0]
    assert exchange(a, b) == exchange([1, 2, 3], [3, 3, 0])
    assert exchange(a, b)[0] == 1.0


def test_many_comparisons_at_once_are_those_one_by_one():
    a, b = np.random.default_rng(0).random((2, 5, 4))
    assert np.stack(exchange(a, b), axis=1) == pytest.approx(
        np.array([exchange(x, y) for x, y in zip(a, b, strict=True)])
    )


def test_drawn_arrangements_are_near_the_exact_p(monkeypatch):
    a, b = np.random.default_rng(3).random((2, 8))
    exact = exchange(a, b)
    monkeypatch.setattr(permutation, "MOST_SEEDS_EXACT", 7)
    monkeypatch.setattr(permutation, "ARRANGEMENTS_DRAWN", 20_000)
    assert exchange(a, b) == pytest.approx(exact, abs=0.02)  # four standard errors
    assert exchange(np.zeros(8), np.ones(8))[1] >= 1 / 20_001


def test_sign_flip_gives_the_p_of_scipy():
    differences = np.array([3.0, -1, 2, 5, -2, 4])
    theirs = scipy.stats.permutation_test(
        (differences,),
        lambda x, axis: x.sum(axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue)
    assert [sign_flip(np.ones(n)) for n in (3, 5, 12)] == [2 / 2**n for n in (3, 5, 12)]
    assert sign_flip(np.ones(13)) == pytest.approx(2 / 2**13, abs=5e-4)  # drawn: four standard errors
    assert sign_flip(np.zeros(13)) == 1.0


def test_one_task_of_improvement_is_the_exact_mann_whitney_test():
    a, b = np.random.default_rng(5).random((2, 6))
    theirs = [scipy.stats.mannwhitneyu(b, a, method="exact", alternative=side) for side in ("two-sided", "greater")]
    share, p, p_better = improvement([(a, b)])
    assert (share, p, p_better) == pytest.approx((theirs[0].statistic / 36, *(t.pvalue for t in theirs)))


def test_improvement_with_ties_counts_all_arrangements():
    """Three of four runs are equal: b holds the higher one in half of the 6 arrangements."""
    assert improvement([([0.5, 0.5], [0.5, 1.0])]) == pytest.approx((0.75, 1.0, 0.5))


def test_improvement_over_tasks_multiplies_the_arrangements():
    separated = (np.arange(3), np.arange(3) + 10)
    assert improvement([separated] * 3) == pytest.approx((1.0, 2 / 20**3, 1 / 20**3))
    assert improvement([separated, separated[::-1]])[:2] == (0.5, 1.0)


@pytest.mark.parametrize(("seeds", "p"), [(1, 1.0), (2, 1 / 3), (3, 0.1), (4, 2 / 70), (5, 2 / 252), (6, 2 / 924)])
def test_the_smallest_p_is_that_of_separated_seeds(seeds, p):
    assert smallest_p(seeds) == pytest.approx(p)
    assert smallest_p(seeds, "better") == pytest.approx(1 / math.comb(2 * seeds, seeds))
    if seeds > 1:
        assert exchange(np.arange(seeds), np.arange(seeds) + 50.0)[0] == pytest.approx(p)


@pytest.mark.parametrize(
    ("comparisons", "claim", "seeds"),
    [(1, "differs", 4), (1, "better", 3), (6, "differs", 5), (7, "differs", 6), (12, "better", 5), (18, "differs", 6)],
)
def test_seeds_needed_is_the_first_number_that_can_reach_alpha(comparisons, claim, seeds):
    assert seeds_needed(comparisons, claim=claim) == seeds


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"a and b: got shapes \(3,\) and \(2,\)"):
        exchange([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least two"):
        sign_flip([0.5])
    with pytest.raises(ValueError, match="claim: got 'worse', allowed: differs, better"):
        smallest_p(3, "worse")
