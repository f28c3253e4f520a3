"""Steps to a threshold: a published data set, small cases by hand, and the exact log-rank test.

python -m pytest tests/stats/test_survival.py
"""

import numpy as np
import pytest
import scipy  # `scipy.stats` is imported where it is first used

from src.stats.survival import NOT_REACHED, logrank, steps_to_threshold

# Remission of leukaemia in weeks (Freireich et al., Blood 21, 1963), the standard example; + is censored.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def read(text):
    return [float(word.rstrip("+")) for word in text.split()], np.array(["+" in word for word in text.split()])


def reached(*steps):
    return list(steps), np.zeros(len(steps), dtype=bool)


def never(n, at=5000):
    return [at] * n, np.ones(n, dtype=bool)


def test_the_published_curve_and_medians_are_found():
    """Shares of the treated group as textbooks print them: .857 after week 6, .690 after 13, .448 after 23."""
    found = steps_to_threshold(*read(TREATED))
    curve = dict(found["curve"])
    assert (found["median"], found["events"], found["n"]) == (23.0, 9, 21)
    shares = [curve[week] for week in (6, 7, 10, 13, 16, 22, 23)]
    assert shares == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=6e-4)
    assert steps_to_threshold(*read(PLACEBO))["median"] == 8.0


def test_the_published_log_rank_test_is_found(monkeypatch):
    """Chi-square 16.79 on one degree of freedom: p = 4.2e-5. The exact p of 21 runs each is drawn, and as small."""
    monkeypatch.setattr("src.stats.permutation.ARRANGEMENTS_DRAWN", 20_000)
    found = logrank(read(TREATED), read(PLACEBO))
    assert found["p_large_sample"] == pytest.approx(scipy.stats.chi2.sf(16.793, 1), rel=2e-3)
    assert found["p"] < 2e-4
    assert found["faster"] == "b"


def test_a_censored_run_counts_as_slower_and_not_as_left_out():
    """Without the third run the median would be 800."""
    found = steps_to_threshold([800, 1200, 5000], np.array([False, False, True]))
    assert (found["median"], found["median_words"], found["events"]) == (1200.0, "1,200", 2)
    assert found["curve"] == [
        [0.0, 1.0],
        [800.0, pytest.approx(2 / 3)],
        [1200.0, pytest.approx(1 / 3)],
        [5000.0, pytest.approx(1 / 3)],
    ]


def test_a_model_that_fails_in_most_runs_has_no_median():
    found = steps_to_threshold([800, 5000, 5000], np.array([False, True, True]))
    assert (found["median"], found["median_words"]) == (None, NOT_REACHED)
    assert steps_to_threshold(*never(3))["curve"] == [[0.0, 1.0], [5000.0, 1.0]]


def test_one_run_has_its_own_step_as_median():
    assert steps_to_threshold(*reached(700))["median"] == 700.0


def test_three_faster_seeds_have_the_exact_p_and_not_that_of_large_samples():
    found = logrank(reached(800, 900, 950), ([2000, 5000, 5000], np.array([False, True, True])))
    assert (found["p"], found["faster"]) == (pytest.approx(0.1), "a")
    assert found["p_large_sample"] < 0.05


def test_the_exact_p_orders_arrangements_as_the_log_rank_statistic_does():
    """The numerator of SciPy's statistic, over all arrangements of five runs in two groups of unlike success."""
    steps, censored = np.array([3.0, 5, 5, 8, 9, 9]), np.array([False, False, True, False, False, True])
    found = logrank((steps[:3], censored[:3]), (steps[3:], censored[3:]))
    numerators = []
    for first in np.array([[i, j, k] for i in range(6) for j in range(i) for k in range(j)]):
        total = 0.0
        for time in np.unique(steps[~censored]):
            at_risk, events = steps >= time, (steps == time) & ~censored
            total += events[first].sum() - events.sum() * at_risk[first].sum() / at_risk.sum()
        numerators.append(total)
    own = numerators[
        [tuple(sorted(f)) for f in ([i, j, k] for i in range(6) for j in range(i) for k in range(j))].index((0, 1, 2))
    ]
    assert found["p"] == pytest.approx(np.mean(np.abs(numerators) >= abs(own) - 1e-12))


@pytest.mark.parametrize(("a", "b"), [(never(3), never(3)), (reached(5), reached(9))])
def test_nothing_reached_or_one_seed_gives_no_p(a, b):
    assert logrank(a, b) == {"p": None, "p_large_sample": None, "faster": None}


def test_equal_runs_do_not_differ():
    assert logrank(reached(5, 5, 5), reached(5, 5, 5)) == {"p": 1.0, "p_large_sample": None, "faster": None}


def test_equal_models_differ_in_five_tables_of_a_hundred_at_most():
    """Half of the runs never arrive; 5 seeds each."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        steps = np.minimum(rng.exponential(7000, (2, 5)), 5000)
        hits += (logrank(*((s, s == 5000) for s in steps))["p"] or 1.0) <= 0.05
    assert hits <= 7


@pytest.mark.parametrize(
    ("steps", "censored"),
    [([], []), ([5.0], [False, True]), ([float("nan")], [False]), ([-1.0], [False]), ([5], [0.5])],
)
def test_what_is_no_run_is_refused(steps, censored):
    with pytest.raises(ValueError, match="steps: got"):
        steps_to_threshold(steps, np.array(censored, dtype=None if censored == [0.5] else bool))


def test_unlike_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="got 1 and 2 seeds"):
        logrank(reached(5), reached(5, 6))
