"""Means over seeds and success rates: published values, honest edges, measured coverage.

python -m pytest tests/stats/test_seeds.py
"""

import numpy as np
import pytest

from src.stats.intervals import t_interval
from src.stats.seeds import mean_over_seeds, success, suite_iqm

SHARE = (0.0, 1.0)


def ends(found):
    return found["low"], found["high"]


def test_few_seeds_have_the_interval_of_student():
    """Mean .9133, deviation .02517, t of 2 degrees 4.303: half a width of .0625."""
    found = mean_over_seeds([0.91, 0.94, 0.89], limits=SHARE)
    assert found["mean"] == pytest.approx(0.91333, abs=1e-5)
    assert (found["median"], found["method"], found["n"]) == (0.91, "t", 3)
    assert ends(found) == (pytest.approx(0.8508, abs=1e-4), pytest.approx(0.9758, abs=1e-4))


def test_an_interval_ends_at_the_limits_of_the_score():
    found = mean_over_seeds([0.2, 1.0, 1.0], limits=SHARE)
    assert found["high"] == 1.0
    assert found["low"] == 0.0
    assert ends(mean_over_seeds([0.2, 1.0, 1.0])) == t_interval([0.2, 1.0, 1.0])


@pytest.mark.parametrize(("n", "low"), [(3, 0.2924), (5, 0.4782), (10, 0.6915)])
def test_seeds_that_are_all_at_one_say_no_more_than_their_success_rate(n, low):
    """The lower ends are Clopper and Pearson's of n of n, as their tables print them."""
    found = mean_over_seeds([1.0] * n, limits=SHARE)
    assert (found["method"], found["high"]) == ("equal seeds", 1.0)
    assert found["low"] == pytest.approx(low, abs=1e-4) == success([1.0] * n, 0.95)["low"]


def test_equal_seeds_within_the_range_have_an_interval_on_both_sides():
    low, high = ends(mean_over_seeds([0.5] * 3, limits=SHARE))
    assert 0.5 - low == pytest.approx(high - 0.5) == pytest.approx(0.5 * (1 - 0.2924), abs=1e-4)


def test_equal_losses_have_no_interval():
    assert ends(mean_over_seeds([1.7] * 4)) == (None, None)


def test_one_seed_has_no_interval():
    found = mean_over_seeds([None, 0.9], limits=SHARE)
    assert (found["mean"], *ends(found), found["n"], found["missing"]) == (0.9, None, None, 1, 1)
    assert found["method"] == "one seed: no interval"


def test_a_bootstrap_is_the_same_for_the_same_seed_and_wider_than_a_plain_one():
    values = np.random.default_rng(0).beta(5, 1.2, 10)
    found = mean_over_seeds(values, limits=SHARE)
    assert found["method"] == "bootstrap"
    assert found == mean_over_seeds(values, limits=SHARE)
    assert found != mean_over_seeds(values, limits=SHARE, seed=1)
    assert found["high"] - found["low"] > 2 * 1.96 * values.std() / np.sqrt(10)


@pytest.mark.parametrize("values", [[0.5, float("nan")], [], [None, None], [0.5, 1.5]])
def test_no_seed_nan_and_what_is_no_share_are_refused(values):
    with pytest.raises(ValueError, match="values: got"):
        mean_over_seeds(values, limits=SHARE)


def test_success_gives_the_published_interval():
    """2 of 3, and 7 of 10, in the tables of Clopper and Pearson."""
    assert success([1.0, 0.95, 0.2], 0.95) == {
        "count": 2,
        "n": 3,
        "share": pytest.approx(2 / 3),
        "low": pytest.approx(0.0943, abs=1e-4),
        "high": pytest.approx(0.9916, abs=1e-4),
    }
    found = success([1.0] * 7 + [0.0] * 3, 0.5)
    assert ends(found) == (pytest.approx(0.3475, abs=1e-4), pytest.approx(0.9333, abs=1e-4))


def test_the_suite_mean_leaves_out_a_quarter_on_each_side():
    found = suite_iqm({"a": [0.0, 0.4, 0.5, 9.0], "b": [-5.0, 0.3, 0.6, 1.0]}, resamples=200)
    assert found["iqm"] == pytest.approx(np.mean([0.3, 0.4, 0.5, 0.6]))
    assert found["low"] < found["iqm"] < found["high"]
    assert (found["runs"], found["tasks"]) == (8, 2)


def test_the_suite_is_resampled_within_its_tasks():
    """Tasks far apart and seeds all alike: drawing over tasks would move the mean, drawing within them does not."""
    found = suite_iqm({"a": [0.1] * 4, "b": [0.9] * 4}, resamples=200)
    assert ends(found) == (found["iqm"], found["iqm"])


def test_one_seed_per_task_gives_no_interval_of_the_suite():
    assert ends(suite_iqm({"a": [0.3], "b": [0.5, 0.6]})) == (None, None)


def coverage(draw, n: int, samples: int, truth: float, limits=None) -> float:
    """The share of intervals over n seeds that hold the truth."""
    covered = 0
    for values in draw((samples, n)):
        low, high = ends(mean_over_seeds(values, limits=limits))
        covered += low <= truth <= high
    return covered / samples


def test_t_intervals_of_three_normal_seeds_cover_as_promised():
    rng = np.random.default_rng(1)
    assert 0.93 <= coverage(lambda shape: rng.normal(0.7, 0.05, shape), 3, 1000, 0.7) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 7, 10])
def test_intervals_of_normal_seeds_cover_as_promised(n):
    rng = np.random.default_rng(n)
    assert 0.93 <= coverage(lambda shape: rng.normal(0.7, 0.05, shape), n, 2000, 0.7) <= 0.97


def test_three_seeds_with_two_modes_are_not_covered():
    """What the docstring says: .75, because a quarter of all samples has seen one mode only."""
    rng = np.random.default_rng(2)

    def two_modes(shape):
        return np.where(rng.random(shape) < 0.5, 0.2, 1.0) + rng.normal(0, 0.003, shape)

    assert 0.70 <= coverage(two_modes, 3, 1000, 0.6) <= 0.80
