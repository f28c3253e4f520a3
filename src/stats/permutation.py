"""Exact tests by counting arrangements: the labels of two models exchanged over runs, and signs of paired differences.

    exchange([.2, .3, .1], [.8, .9, .7])     -> (0.1, 0.05)     two-sided p, and one-sided p of "the second is higher"
    sign_flip([.6, .6, .6])                  -> 0.25
    improvement([([.2, .3], [.8, .9]), ...]) -> (1.0, 0.056, 0.028)     two tasks together
    smallest_p(3), seeds_needed(9)           -> 0.1, 6

`exchange` asks: if both models had the same distribution of scores, how many of the C(2n, n) ways to label the 2n runs
give a difference of means at least as large? It needs no normal distribution, and it is exact at every n, also for
scores that are either near 0 or at 1. With n seeds each its smallest two-sided p is 2 / C(2n, n): .1, .029, .0079,
.0022 for 3, 4, 5, 6. `sign_flip` keeps the pairs together and reaches only 2 / 2^n: .25 for 3 and .063 for 5.

Runs of one seed share their data, so their scores may be correlated. A positive correlation makes the differences
smaller than `exchange` assumes, and its p too large, never too small. See Good, "Permutation, Parametric and Bootstrap
Tests of Hypotheses", 3rd ed., 2005, chapter 3.

By hand: scipy.stats.permutation_test makes all C(20, 10) arrangements again for each pair of 10 seeds, and a table has
hundreds of pairs. A test compares the two.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

ALPHA = 0.05
CLAIMS = ("differs", "better")  # two-sided, or one-sided: the second is better
MOST_SEEDS_EXACT = 16  # C(32, 16) = 601,080,390 arrangements; from 17 seeds on they are drawn
ARRANGEMENTS_DRAWN = 100_000
MOST_PAIRS_EXACT = 12  # 2^12 = 4,096 sign patterns
PATTERNS_DRAWN = 20_000
ROUNDING = 1e-12  # sums that differ by less are ties


def exchange(a, b, seed: int = 0):
    """(two-sided p, one-sided p of "b is higher") for the difference of means, by exchanging labels of runs.

    a, b: (n,) scores, or (P, n) for P independent comparisons; n >= 2. Returns two floats, or two arrays (P,).
    Exact up to MOST_SEEDS_EXACT, else over ARRANGEMENTS_DRAWN random arrangements and the observed one.
    Raises ValueError for shapes that differ, or fewer than two runs each.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2) or a.shape[-1] < 2:
        raise ValueError(f"a and b: got shapes {a.shape} and {b.shape}, allowed: the same, at least two runs each")
    n = a.shape[-1]
    runs = np.concatenate((a, b), axis=-1).reshape(-1, 2 * n)
    shares = np.array([_upper_shares(row - row.mean(), seed) for row in runs]).reshape(-1, 2)
    return (float(shares[0, 0]), float(shares[0, 1])) if a.ndim == 1 else (shares[:, 0], shares[:, 1])


def exchange_groups(a, b, seed: int = 0) -> tuple[float, float]:
    """(two-sided p, one-sided p of "b is higher") for two groups of runs, which may differ in size.

    a, b: (n,) and (m,) scores, at least one run each. For groups of one size the one-sided p is that of `exchange`.
    Exact up to ARRANGEMENTS_DRAWN arrangements, else over so many random ones and the observed one.
    A group may hold several models. The test then asks whether any run depends on its group at all.
    """
    a, b = (np.asarray(v, dtype=np.float64) for v in (a, b))
    if a.ndim != 1 or b.ndim != 1 or not len(a) or not len(b):
        raise ValueError(f"a and b: got shapes {a.shape} and {b.shape}, allowed: one list of runs each")
    runs = np.concatenate((a, b)) - np.concatenate((a, b)).mean()
    tie, observed = float(_rounding(runs)), float(runs[len(a) :].sum())
    if math.comb(len(runs), len(b)) <= ARRANGEMENTS_DRAWN:
        chosen = np.array(list(itertools.combinations(range(len(runs)), len(b))))
        sums, extra = runs[chosen].sum(axis=1), 0
    else:  # the observed arrangement counts as one of those drawn, so that p is never 0
        rng = np.random.default_rng(seed)
        sums = rng.permuted(np.tile(runs, (ARRANGEMENTS_DRAWN, 1)), axis=1)[:, : len(b)].sum(axis=1)
        extra = 1
    share = [
        (int(hits.sum()) + extra) / (len(sums) + extra) for hits in (sums >= observed - tie, sums <= observed + tie)
    ]
    return min(1.0, 2 * min(share)), share[0]


def sign_flip(differences, seed: int = 0):
    """Two-sided p of a mean of paired differences, over all patterns of signs.

    differences: (n,), or (P, n) for P comparisons; n >= 2. Returns a float, or an array (P,).
    Exact up to MOST_PAIRS_EXACT, else (hits + 1) / (PATTERNS_DRAWN + 1) over random patterns.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = differences.shape[-1]
    if differences.ndim not in (1, 2) or n < 2:
        raise ValueError(f"differences: got shape {differences.shape}, allowed: at least two per comparison")
    is_exact = n <= MOST_PAIRS_EXACT
    patterns = _patterns(n) if is_exact else np.random.default_rng(seed).choice((-1.0, 1.0), (PATTERNS_DRAWN, n))
    rows = differences.reshape(-1, n)
    least = np.abs(rows.sum(axis=1)) - _rounding(rows)
    hits = (np.abs(rows @ patterns.T) >= least[:, None]).sum(axis=1)
    p = hits / len(patterns) if is_exact else (hits + 1) / (len(patterns) + 1)  # drawn: the observed one counts too
    return float(p[0]) if differences.ndim == 1 else p


def improvement(strata) -> tuple[float, float, float]:
    """(probability of improvement, two-sided p, one-sided p of "b is better") over several tasks together.

    strata: [(a, b), ...] per task, each (n,) scores, n >= 2, higher is better. The probability of improvement is the
    share of all pairs (a run of a, a run of b, of the same task) in which b scores higher; a tie counts half
    (Agarwal et al., 2021, section 4.3). Labels are exchanged within each task, which is van Elteren's test (1960) with
    its exact distribution at every n. Only ranks count, so no task outweighs another by the size of its scores.
    With 3 seeds the smallest two-sided p is 2 / 20^tasks: .005 for two tasks.
    """
    from scipy.stats import rankdata  # here, because importing scipy.stats takes a second

    distribution, observed, pairs = np.ones(1), 0, 0
    for a, b in strata:
        n = len(a)
        # Twice a rank minus (2n + 1) is whole and has mean 0, also with ties.
        ranks = (2 * rankdata(np.concatenate((a, b)))).round().astype(np.int64) - (2 * n + 1)
        distribution = np.convolve(distribution, _sums_of_half(ranks))
        observed += int(ranks[n:].sum())
        pairs += n * n
    higher = float(distribution[pairs + observed :].sum())
    further = float(distribution[pairs + abs(observed) :].sum())
    return 0.5 + observed / (2 * pairs), min(1.0, 2 * further) if observed else 1.0, min(1.0, higher)


def smallest_p(seeds: int, claim: str = "differs") -> float:
    """The smallest p that `exchange` can give with this many seeds per model: when all of one are above the other.

    claim: "differs" (two-sided) or "better" (one-sided, the direction is stated before the runs).
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim: got '{claim}', allowed: {', '.join(CLAIMS)}")
    tails = 2 if claim == "differs" else 1
    exact = tails / math.comb(2 * seeds, seeds)
    return min(1.0, exact if seeds <= MOST_SEEDS_EXACT else max(exact, tails / (ARRANGEMENTS_DRAWN + 1)))


def seeds_needed(comparisons: int, alpha: float = ALPHA, claim: str = "differs") -> int | None:
    """The fewest seeds with which one of so many comparisons can have a verdict after Holm's correction.

    None if no number of seeds can, because ARRANGEMENTS_DRAWN limits p.
    """
    for seeds in range(2, MOST_SEEDS_EXACT + 1):
        if smallest_p(seeds, claim) * comparisons <= alpha + ROUNDING:
            return seeds
    return None


def _upper_shares(runs, seed: int) -> tuple[float, float]:
    """(two-sided p, one-sided p) of runs (2n,) with mean 0, of which the second half is b.

    Exchanging all labels turns a sum into its opposite, so both tails hold as many arrangements.
    """
    n = len(runs) // 2
    observed, tie = runs[n:].sum(), float(_rounding(runs))
    ends = np.array([abs(observed), observed]) - tie
    if n <= MOST_SEEDS_EXACT:
        further, higher = _count_at_least(runs, ends) / math.comb(2 * n, n)
    else:  # the observed arrangement counts as one of those drawn, so that p is never 0
        sums = np.random.default_rng(seed).permuted(np.tile(runs, (ARRANGEMENTS_DRAWN, 1)), axis=1)[:, n:].sum(axis=1)
        further, higher = ((sums[:, None] >= ends).sum(axis=0) + 1) / (ARRANGEMENTS_DRAWN + 1)
    return float(min(1.0, 2 * further)) if abs(observed) > tie else 1.0, float(higher)


def _count_at_least(values, ends):
    """How many of the C(2n, n) ways to choose n of the values (2n,) have a sum >= each of the ends.

    Meets in the middle: a choice takes j values of the first half and n - j of the second, so 2 * 2^n sums are enough.
    """
    n = len(values) // 2
    subsets, counts = _subsets(n), np.zeros(len(ends))
    for j in range(n + 1):
        first, second = subsets[j] @ values[:n], np.sort(subsets[n - j] @ values[n:])
        below = np.searchsorted(second, ends[:, None] - first)
        counts += len(first) * len(second) - below.sum(axis=1)
    return counts


def _sums_of_half(ranks) -> np.ndarray:
    """The distribution of the sum of n of the ranks (2n,), from -n^2 to n^2, when every choice is equally likely."""
    n = len(ranks) // 2
    zero = n * n  # where a sum of 0 is counted; no k ranks sum to more than k (2n - k) <= n^2
    ways = np.zeros((n + 1, 2 * zero + 1))  # [how many are chosen, their sum]
    ways[0, zero] = 1.0
    for rank in ranks.tolist():
        size = ways.shape[1] - abs(rank)
        source, target = max(0, -rank), max(0, rank)
        ways[1:, target : target + size] += ways[:-1, source : source + size].copy()
    return ways[n] / math.comb(2 * n, n)


@functools.lru_cache(maxsize=MOST_SEEDS_EXACT)
def _subsets(n: int) -> list[np.ndarray]:
    """Per size j from 0 to n: (C(n, j), n) rows of 0 and 1, all choices of j out of n."""
    every = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    size = every.sum(axis=1)
    return [every[size == j] for j in range(n + 1)]


@functools.lru_cache(maxsize=MOST_PAIRS_EXACT)
def _patterns(n: int) -> np.ndarray:
    """(2^(n - 1), n) signs. A pattern and its opposite give the same size, so the last sign is fixed."""
    return np.hstack(
        ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1) & 1) * 2.0 - 1.0, np.ones((2 ** (n - 1), 1)))
    )


def _rounding(values):
    """How far apart two sums of these values (..., k) are that differ by rounding only."""
    return ROUNDING * values.shape[-1] * np.abs(values).max(axis=-1)
