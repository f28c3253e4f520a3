"""Intervals against published values, and bins against counting by hand.

python -m pytest tests/stats/test_intervals.py
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from src.stats import intervals

# (successes, count, lo, hi): the first four are examples of Newcombe, Statistics in Medicine 17, 1998 (score method);
# the last is 0 of 20 mirrored.
KNOWN_WILSON = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (20, 20, 0.8389, 1.0),
]

# Two-sided 95 % points of Student's distribution, as every statistics book prints them.
KNOWN_T = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    9: 2.262,
    10: 2.228,
    30: 2.042,
    100: 1.984,
    120: 1.980,
    1000: 1.962,
}


@pytest.mark.parametrize(("successes", "count", "lo", "hi"), KNOWN_WILSON)
def test_wilson_gives_the_published_interval(successes, count, lo, hi):
    assert intervals.wilson(successes, count) == (pytest.approx(lo, abs=6e-5), pytest.approx(hi, abs=6e-5))


def test_wilson_of_nothing_is_everything():
    assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_wilson_takes_fractions():
    assert intervals.wilson(49, 100) < intervals.wilson(49.5, 100) < intervals.wilson(50, 100)


def test_wilson_ends_are_exact_at_none_and_all():
    for count in range(1, 200):
        assert intervals.wilson(0, count)[0] == 0.0
        assert intervals.wilson(count, count)[1] == 1.0


def test_wilson_forgives_the_rounding_of_a_mean_times_a_count():
    assert intervals.wilson(math.nextafter(10.0, 11.0), 10) == intervals.wilson(10, 10)


def test_wilson_solves_its_defining_equation():
    """Both ends p satisfy |x/n - p| = z sqrt(p (1 - p) / n)."""
    z = 2.5758293035489004  # of 99 %
    for end in intervals.wilson(37, 120, level=0.99):
        assert abs(37 / 120 - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 120), rel=1e-9)


@pytest.mark.parametrize(("successes", "count"), [(-1, 10), (11, 10), (1, -1), (float("nan"), 10)])
def test_wilson_refuses_impossible_successes(successes, count):
    with pytest.raises(ValueError, match="successes: got"):
        intervals.wilson(successes, count)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="level: got"):
        intervals.wilson(1, 2, level)


@pytest.mark.parametrize("freedom", KNOWN_T)
def test_t_quantile_gives_the_published_value(freedom):
    assert intervals.t_quantile(0.95, freedom) == pytest.approx(KNOWN_T[freedom], abs=6e-4)


def test_t_quantile_has_no_step_at_100_degrees():
    """The quantiles are a smooth sequence, so their second differences are near 0."""
    points = [intervals.t_quantile(0.95, n) for n in (99, 100, 101, 102)]
    assert np.abs(np.diff(points, n=2)).max() < 1e-5


def test_t_interval_matches_a_calculation_by_hand():
    """1, 2, 3: mean 2, deviation 1, half width 4.303 / sqrt(3)."""
    assert intervals.t_interval([1, 2, 3]) == (pytest.approx(2 - 2.4842, abs=1e-4), pytest.approx(2 + 2.4842, abs=1e-4))
    assert intervals.t_interval([5.0]) is None


def test_each_has_one_bin_per_value():
    found = intervals.binned([1, 0, 1, 1], [3, 1, 3, 2], "each")
    assert [(b["lo"], b["hi"], b["value"], b["count"]) for b in found] == [(1, 1, 0, 1), (2, 2, 1, 1), (3, 3, 1, 2)]
    assert found[2]["ci"] == list(intervals.wilson(2, 2))


def test_auto_is_each_up_to_24_values_and_ten_bins_above():
    assert len(intervals.binned(np.ones(24), np.arange(24))) == 24
    assert len(intervals.binned(np.ones(25), np.arange(25))) == 10


def test_linear_bins_are_ten_equal_ones_including_both_ends():
    found = intervals.binned(np.ones(101), np.arange(101), "linear")
    assert [b["lo"] for b in found] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [b["count"] for b in found] == [10] * 9 + [11]


def test_log2_bins_follow_the_powers_and_have_a_bin_for_zero():
    xs = [0, 0, 1, 2, 3, 4, 7, 8, 1024, 2047]
    found = intervals.binned(np.ones(10), xs, "log2")
    assert [(b["lo"], b["hi"], b["count"]) for b in found] == [
        (0, 1, 2),
        (1, 2, 1),
        (2, 4, 2),
        (4, 8, 2),
        (8, 16, 1),
        (1024, 2048, 2),
    ]


@pytest.mark.parametrize("power", range(-3, 50))
def test_a_power_of_two_begins_its_own_bin(power):
    found, index = intervals.bin_edges([2.0**power, math.nextafter(2.0**power, 0)], "log2")
    assert [b["lo"] for b in found] == [2.0 ** (power - 1), 2.0**power]
    assert index.tolist() == [1, 0]


def test_names_and_bools_are_categories():
    assert [(b["name"], b["count"]) for b in intervals.binned([1, 0, 1], ["tan", "cos", "tan"])] == [
        ("cos", 1),
        ("tan", 2),
    ]
    assert [(b["name"], b["value"]) for b in intervals.binned([1, 0, 1], [True, False, True])] == [
        ("no", 0.0),
        ("yes", 1.0),
    ]
    assert (intervals.scale_of(["a"], "auto"), intervals.scale_of([1], "auto"), intervals.scale_of([1], "log2")) == (
        "category",
        "linear",
        "log2",
    )


@pytest.mark.parametrize("bins", intervals.BIN_RULES)
def test_bins_agree_with_counting_one_by_one(bins):
    """Every item is in the one bin whose edges hold it; values are means of what is in it."""
    rng = np.random.default_rng(5)
    xs, values = rng.integers(0, 300, 5_000), rng.random(5_000)
    found = intervals.binned(values, xs, bins)
    assert sum(b["count"] for b in found) == 5_000
    for i, b in enumerate(found):
        last = bins in ("linear", "auto") and i == len(found) - 1
        inside = (
            (xs == b["lo"]) if b["lo"] == b["hi"] else (xs >= b["lo"]) & ((xs <= b["hi"]) if last else (xs < b["hi"]))
        )
        assert b["count"] == inside.sum()
        assert b["value"] == pytest.approx(values[inside].mean(), abs=1e-12)
        assert b["ci"] == pytest.approx(intervals.wilson(values[inside].sum(), int(inside.sum())), abs=1e-12)


def test_bins_are_plain_json_and_the_same_twice():
    rng = np.random.default_rng(6)
    xs, values = rng.integers(0, 300, 1_000), rng.random(1_000)
    first = json.dumps(intervals.binned(values, xs, "log2"), allow_nan=False)
    assert first == json.dumps(intervals.binned(values, xs, "log2"), allow_nan=False)
    assert all(type(v) in (float, int, list) for b in intervals.binned(values, xs, "log2") for v in b.values())


def test_losses_get_students_interval():
    (first, second) = intervals.binned([3.0, 4.0, 5.0, 7.0], [1, 1, 1, 2], interval="mean")
    assert first["ci"] == pytest.approx(intervals.t_interval([3, 4, 5]))
    assert second == {"lo": 2.0, "hi": 2.0, "value": 7.0, "count": 1, "ci": None, "n_effective": 1.0}


def test_one_value_is_one_bin_and_no_items_are_none():
    assert intervals.binned([1, 0], [5, 5], "linear") == intervals.binned([1, 0], [5, 5], "each")
    for bins in intervals.BIN_RULES:
        assert intervals.binned([], [], bins) == []


BAD = {
    "an unknown rule": (([1], [1], "decades"), "bins: got 'decades'"),
    "log2 of a negative distance": (([1], [-1], "log2"), "xs: got -1"),
    "linear bins of names": (([1], ["sin"], "linear"), "for names such as 'sin'"),
    "fewer xs": (([1, 0], [1], "each"), "got 2 and 1 items"),
    "a loss without its interval": (([1.5], [1], "each"), "interval='mean'"),
    "a value that is not finite": (([float("nan")], [1], "each"), "values: got nan at 0"),
    "an x that is not finite": (([1], [float("inf")], "each"), "xs: got inf"),
    "an x that is nothing": (([1], [None], "each"), "xs: got"),
    "an unknown interval": (([1], [1], "each", "jeffreys"), "interval: got 'jeffreys'"),
}


@pytest.mark.parametrize("case", BAD)
def test_binned_refuses(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        intervals.binned(*arguments)


def lines_run(call) -> int:
    """How many lines of src/stats/intervals.py a call executes."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename != intervals.__file__:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("interval", ["wilson", "mean"])
def test_binning_has_no_python_loop_over_items(interval):
    """A test set has half a million characters; a loop over them would take seconds."""
    few, many = (
        lines_run(lambda n=n: intervals.binned(np.ones(n), np.arange(n) % 16, "log2", interval)) for n in (64, 64_000)
    )
    assert few == many > 10


@pytest.mark.parametrize(
    "module",
    ["stats.intervals", "stats.exponents", "stats.medians", "storage.schema", "figures.runs", "commands.study"],
)
def test_importing_needs_no_torch_matplotlib_or_scipy(module):
    code = f"import sys, src.{module}; print(sorted({{'torch', 'matplotlib', 'scipy'}} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
