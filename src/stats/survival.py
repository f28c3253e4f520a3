"""Steps until a score is reached, where some runs never reach it within their budget.

    steps_to_threshold([800, 1_200, 5_000], [False, False, True])   -> {"median": 1200.0, "events": 2, "n": 3, ...}
    logrank(([800, 900, 950], [False] * 3), ([2_000, 5_000, 5_000], [False, True, True]))   -> {"p": 0.1, ...}

A run that stopped at 5,000 steps without success is censored: its time is more than 5,000. Leaving it out, or counting
5,000, makes a model look faster than it is. Kaplan & Meier's estimate (1958) uses it as what it is.
The log-rank test compares two such curves. Its usual p is for large samples. Three seeds against three, all of one
earlier, give it .025, where 2 of the 20 ways to label the runs are as extreme: p = .1. Therefore `p` is exact, by
exchanging the labels (as in permutation.py), and SciPy's stands beside it. It needs the same budget for both models.
"""

from __future__ import annotations

import numpy as np

from src.stats.intervals import finite
from src.stats.permutation import exchange

NOT_REACHED = "not reached in half of the runs"


def steps_to_threshold(steps, censored) -> dict:
    """The Kaplan-Meier curve of the runs that have not yet reached the threshold.

    steps: (n,) the step at which a run reached it, or its last step.  censored: (n,) bool, True where it did not.
    Returns {"median", "median_words", "events", "n", "curve"}: median is None if fewer than half of the runs reach it,
    and curve is [[step, share not yet there], ...] from [0, 1], for a step function.
    Raises ValueError for lengths that differ, no runs, or steps below 0.
    """
    from scipy.stats import ecdf  # here, because importing scipy.stats takes a second

    steps, censored = _checked("steps", steps, censored)
    waiting = ecdf(_censored_data(steps, censored)).sf
    share = np.clip(waiting.probabilities, 0.0, 1.0)
    half = np.flatnonzero(share <= 0.5 + 1e-12)
    median = float(waiting.quantiles[half[0]]) if len(half) else None
    drops = np.isin(waiting.quantiles, steps[~censored])
    last = [] if not censored.any() else [[float(steps.max()), float(share[-1])]]
    points = [[float(x), float(y)] for x, y in zip(waiting.quantiles[drops], share[drops], strict=True)]
    return {
        "median": median,
        "median_words": f"{median:,.0f}" if median is not None else NOT_REACHED,
        "events": int((~censored).sum()),
        "n": len(steps),
        "curve": [[0.0, 1.0], *points, *(p for p in last if p not in points)],
    }


def logrank(a, b) -> dict:
    """Whether two models need different numbers of steps: the log-rank test.

    a, b: (steps, censored) of as many seeds each, as for `steps_to_threshold`.
    Returns {"p", "p_large_sample", "faster"}: p is exact; p_large_sample is SciPy's; faster is "a", "b" or None.
    Both p are None if no run reached the threshold, or for one seed: there is nothing to compare.
    """
    from scipy.stats import logrank as of_scipy

    (steps_a, censored_a), (steps_b, censored_b) = _checked("a", *a), _checked("b", *b)
    if len(steps_a) != len(steps_b):
        raise ValueError(
            f"a and b: got {len(steps_a)} and {len(steps_b)} seeds, allowed: as many of one as of the other"
        )
    n = len(steps_a)
    if n < 2 or (censored_a.all() and censored_b.all()):
        return {"p": None, "p_large_sample": None, "faster": None}
    scores = _scores(np.concatenate((steps_a, steps_b)), np.concatenate((censored_a, censored_b)))
    p, _ = exchange(scores[:n], scores[n:])
    lead = float(scores[:n].sum())  # more events than expected
    # All runs at the same step: the variance of the statistic is 0, and SciPy's p is NaN.
    large = None
    if not np.allclose(scores, scores[0]):
        large = float(of_scipy(_censored_data(steps_a, censored_a), _censored_data(steps_b, censored_b)).pvalue)
    return {"p": p, "p_large_sample": large, "faster": None if abs(lead) < 1e-12 else "a" if lead > 0 else "b"}


def _scores(steps, censored):
    """The log-rank score of each run: 1 for an event, minus the cumulative hazard of all runs up to its step.

    Their sum over a group is the observed minus the expected number of events, the numerator of the log-rank statistic.
    """
    times = np.unique(steps[~censored])
    events = (steps[None] == times[:, None]) & ~censored[None]  # (times, runs)
    at_risk = (steps[None] >= times[:, None]).sum(axis=1)
    hazard = events.sum(axis=1) / at_risk
    return (~censored).astype(float) - ((steps[None] >= times[:, None]) * hazard[:, None]).sum(axis=0)


def _checked(name: str, steps, censored):
    steps, censored = finite(name, steps), np.asarray(censored)
    if censored.dtype != bool or censored.shape != steps.shape or not len(steps) or steps.min() < 0:
        raise ValueError(
            f"{name}: got steps {steps.tolist()!r:.60} and censored {censored.tolist()!r:.60}, "
            "allowed: at least one run, steps >= 0, and one bool per run"
        )
    return steps, censored


def _censored_data(steps, censored):
    from scipy.stats import CensoredData

    return CensoredData(uncensored=steps[~censored], right=steps[censored])
