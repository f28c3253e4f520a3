"""Exponents and crossovers come out as they were planted.

python -m pytest tests/stats/test_exponents.py
"""

import numpy as np
import pytest

from src.stats.exponents import FLOOR_FACTOR, Crossover, crossover, fit

LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def planted(cost, noise=0.03, n=10, seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return {x: (cost(x) * rng.lognormal(0, noise, n)).tolist() for x in lengths}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_planted_exponent_comes_out(power):
    found = fit(planted(lambda x: 1e-4 * x**power))
    assert found.exponent == pytest.approx(power, abs=0.02)
    assert found.tail == pytest.approx(power, abs=0.06)
    assert found.low <= found.exponent <= found.high
    assert found.high - found.low < 0.05
    assert found.used == LENGTHS
    assert found.r2 > 0.999 or power == 0


def test_the_interval_covers_the_planted_exponent_as_often_as_it_says():
    """Percentile bootstraps of 10 repeats per length are a little narrow: they cover above 85 % instead of 95 %."""
    hits = sum(
        f.low <= 1.5 <= f.high for f in (fit(planted(lambda x: x**1.5, 0.1, seed=s), resamples=300) for s in range(60))
    )
    assert hits >= 51


def test_lengths_near_the_overhead_are_not_used():
    """Cost = 1 + x / 100: the first lengths cost little more than the overhead and would lower the exponent."""
    cost = planted(lambda x: 1 + x / 100)
    with_overhead, without = fit(cost, floor=1.0), fit(cost)
    assert with_overhead.below == (128, 256)
    assert with_overhead.used == (512, 1024, 2048, 4096)
    assert with_overhead.exponent > 0.9 > without.exponent
    assert all(np.median(cost[x]) >= FLOOR_FACTOR for x in with_overhead.used)


def test_too_few_lengths_above_the_overhead_give_a_growth_and_no_exponent():
    found = fit(planted(lambda x: 1.0), floor=1.0)
    assert found.exponent is None
    assert found.r2 is None
    assert "3 needed" in found.note
    assert found.growth == pytest.approx(1.0, abs=0.05)
    assert found.growth_low < 1.0 < found.growth_high


def test_a_whole_call_is_compared_with_the_overhead():
    """With constant tokens per step, a linear layer's step time is constant, and the time per sequence is linear."""
    step = planted(lambda x: 0.08)
    found = fit(step, floor=0.01, share={x: 8192 / x for x in LENGTHS})
    assert found.used == LENGTHS
    assert found.exponent == pytest.approx(1.0, abs=0.02)


def test_a_curve_that_bends_shows_in_its_tail_and_r2():
    found = fit(planted(lambda x: x + x**2 / 1000))
    assert 1.1 < found.exponent < found.tail < 2.0
    assert found.r2 < 0.999


def test_exact_numbers_have_an_interval_of_width_0():
    found = fit({x: [400.0 * x] for x in LENGTHS})
    assert found.exponent == pytest.approx(1.0)
    assert found.low == pytest.approx(found.high)
    assert found.r2 == pytest.approx(1.0)


@pytest.mark.parametrize("at", [200, 700, 1000, 3000])
def test_a_planted_crossover_comes_out(at):
    found = crossover(planted(lambda x: x**2 / at), planted(lambda x: float(x), seed=1))
    assert found.winner == "b"
    assert found.at == pytest.approx(at, rel=0.05)
    assert found.low <= at * 1.03
    assert found.high >= at * 0.97
    assert found.high / found.low < 1.25
    assert found.share == 1.0
    assert crossover(planted(lambda x: float(x)), planted(lambda x: x**2 / at, seed=1)).winner == "a"


def test_no_crossover_is_none_up_to_the_last_length():
    found = crossover(planted(lambda x: 2.0 * x), planted(lambda x: 1.0 * x, seed=1))
    assert found.at is None
    assert found.low is None
    assert found.winner == "b"
    assert found.words() == "none up to 4,096"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (1183.4, "1,180 [< 128, > 4,096]"),
        (87.654, "87.7 [< 128, > 4,096]"),
        (25_927_018.0, "25,900,000 [< 128, > 4,096]"),
    ],
)
def test_a_crossover_has_three_digits(at, words):
    assert Crossover(at, None, None, "b", 1.0, 128.0, 4096.0).words() == words


def test_a_crossover_within_the_noise_has_an_open_interval():
    found = crossover(planted(lambda x: 1.0 + 1e-9 * x, 0.2), planted(lambda x: 1.0, 0.2, seed=1))
    assert found.share < 1.0
    assert found.at is None or found.low is None or found.high is None


def test_the_last_of_two_crossings_counts():
    """b costs less at 128, more at 512, and less again from between 1024 and 2048."""
    a = {128: [2.0], 256: [2.0], 512: [1.0], 1024: [1.0], 2048: [4.0], 4096: [8.0]}
    b = {128: [1.0], 256: [1.0], 512: [2.0], 1024: [2.0], 2048: [2.0], 4096: [2.0]}
    assert 1024 < crossover(a, b).at < 2048


def test_a_crossover_uses_the_lengths_that_both_have():
    a, b = planted(lambda x: x**2 / 500), planted(lambda x: float(x), lengths=LENGTHS[:4])
    assert crossover(a, b).last == 1024
    assert crossover(a, {128: [1.0]}) is None


@pytest.mark.parametrize("samples", [{}, {128: []}, {128: [1.0, -1.0]}, {128: [float("nan")]}, {0: [1.0]}])
def test_repeats_that_are_not_positive_numbers_are_refused(samples):
    with pytest.raises(ValueError, match="samples: got"):
        fit(samples)
