"""Warm-up, repeats, stopping and alternation, all with a planted clock.

python -m pytest tests/measure/test_timing.py
"""

import random
import time

import pytest

from src.measure.timing import Cell, Limits, clock_note, interleave, is_settled
from src.stats.medians import median_interval, quantile
from src.utils.memory import is_out_of_memory


class Clock:
    """A clock that only moves when something is said to take time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def lasting(self, *seconds):
        """An action whose calls last so long, one after the other; all further calls last as long as the last one."""
        waiting = list(seconds)

        def action():
            self.now += waiting.pop(0) if len(waiting) > 1 else waiting[0]

        return action


def measure(action, limits, clock, sync=lambda: None):
    """The sample of a single action."""
    ((_, outcome),) = interleave({"one": Cell(action, limits, sync, clock)})
    return outcome


def median(sample) -> float:
    return quantile(sample.values, 0.5)


def test_the_first_call_is_apart_and_warm_up_calls_are_thrown_away():
    clock = Clock()
    sample = measure(clock.lasting(9.0, 0.5, 0.4, 0.1), Limits(seconds=100), clock=clock)
    assert sample.first_seconds == pytest.approx(9.0)
    assert sample.warmups == 2
    assert sample.values == pytest.approx([0.1] * 10)
    assert sample.stopped == "settled"


@pytest.mark.parametrize(
    ("seconds", "budget", "n", "why"), [(0.01, 5.0, 10, "settled"), (2.0, 5.0, 3, "budget"), (60.0, 5.0, 3, "budget")]
)
def test_a_steady_cell_ends_when_it_is_settled_or_its_budget_is_spent(seconds, budget, n, why):
    clock = Clock()
    sample = measure(clock.lasting(seconds), Limits(seconds=budget), clock=clock)
    assert (len(sample.values), sample.stopped) == (n, why)


def test_a_noisy_cell_goes_on_until_its_median_is_known_to_five_per_cent():
    clock, rng = Clock(), random.Random(0)

    def action():
        clock.now += 0.01 * rng.uniform(0.5, 1.5)

    sample = measure(action, Limits(seconds=1000), clock=clock)
    low, high, _ = median_interval(sample.values)
    assert len(sample.values) > 20
    assert sample.stopped == "settled"
    assert (high - low) / 2 <= 0.05 * median(sample)
    assert not is_settled(sample.values[:15], Limits())


def test_a_cell_that_never_settles_ends_after_most_repeats():
    clock = Clock()
    flip = [0.0]

    def action():
        flip[0] = 1.0 - flip[0]
        clock.now += 0.001 + flip[0]

    assert measure(action, Limits(seconds=1e9, most=50), clock=clock).stopped == "most"


@pytest.mark.parametrize(
    ("n", "ranks", "coverage"),
    [(3, (0, 2), 0.75), (5, (0, 4), 0.9375), (6, (0, 5), 0.96875), (10, (1, 8), 0.978516), (20, (5, 14), 0.958611)],
)
def test_the_interval_of_a_median_is_that_of_order_statistics(n, ranks, coverage):
    """Ranks and coverages of the binomial table: sum of C(n, i) / 2^n."""
    low, high, covered = median_interval(list(range(n)))
    assert (low, high) == ranks
    assert covered == pytest.approx(coverage, abs=1e-6)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    rng = random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high, _ = median_interval([rng.expovariate(1.0) for _ in range(12)])
        hits += low <= 0.693147 <= high
    assert 0.95 < hits / 2000 < 0.975  # 12 values: ranks 2 and 9, coverage 0.961


def test_cells_are_timed_alternately_and_each_comes_as_soon_as_it_is_done():
    clock, calls = Clock(), []

    def action(name, seconds):
        def run():
            calls.append(name)
            clock.now += seconds

        return run

    cells = {
        name: Cell(action(name, s), Limits(seconds=5.0), clock=clock) for name, s in (("slow", 3.0), ("quick", 0.01))
    }
    outcomes = list(interleave(cells))
    assert calls[:8] == ["slow", "quick"] * 4
    assert [name for name, _ in outcomes] == ["slow", "quick"]
    assert [len(outcome.values) for _, outcome in outcomes] == [3, 10]


def test_a_machine_that_becomes_slower_does_so_for_all_cells():
    """It slows down by half while it measures. Timed one after the other, the ratio would be 1.5."""
    clock = Clock()

    def twice_as_slow_from(at, seconds):
        def run():
            clock.now += seconds * (1.5 if clock.now > at else 1.0)

        return run

    cells = {
        name: Cell(twice_as_slow_from(5.0, 0.1), Limits(seconds=100, enough=60, most=60, target=1e-9), clock=clock)
        for name in "ab"
    }
    a, b = (median(outcome) for _, outcome in interleave(cells))
    assert a / b == pytest.approx(1.0, abs=0.01)


def test_an_error_ends_its_own_cell_only():
    clock = Clock()

    def broken():
        raise MemoryError("no more")

    outcomes = dict(interleave({"broken": Cell(broken, clock=clock), "fine": Cell(clock.lasting(0.1), clock=clock)}))
    assert isinstance(outcomes["broken"], MemoryError)
    assert median(outcomes["fine"]) == pytest.approx(0.1)


def test_an_interrupt_ends_all_cells():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(interleave({"a": Cell(stop)}))


def test_an_action_may_time_its_own_parts():
    clock = Clock()

    def action():
        clock.now += 3.0
        return {"read": 1.0, "write": 2.0}

    sample = measure(action, Limits(seconds=10), clock=clock)
    assert sample.of("read").values == (1.0, 1.0, 1.0)
    assert sample.of("write").values == (2.0, 2.0, 2.0)


def test_the_device_is_waited_for_before_and_after_each_call():
    clock, order = Clock(), []

    def action():
        order.append("run")
        clock.now += 1.0

    measure(action, Limits(seconds=1), clock, sync=lambda: order.append("sync"))
    assert order[:6] == ["sync", "run", "sync"] * 2


def test_the_clock_of_a_cell_is_the_one_with_the_highest_resolution():
    assert Cell(lambda: None).clock is time.perf_counter


@pytest.mark.parametrize(
    "limits", [{"least": 0}, {"least": 5, "enough": 3}, {"seconds": -1.0}, {"target": 0.0}, {"most": 2}]
)
def test_limits_that_mean_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="limits: got"):
        Limits(**limits)


def test_quantiles_interpolate():
    assert quantile([4, 1, 3, 2], 0.5) == 2.5
    assert quantile([1, 2, 3, 4, 5], 0.25) == 2
    assert quantile([7], 0.75) == 7


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried"), True),
        (ValueError("other"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
    ],
)
def test_an_error_is_out_of_memory_by_its_type_or_text(error, is_it):
    assert is_out_of_memory(error) is is_it


def test_the_clock_says_what_it_is():
    assert clock_note("cuda").startswith("perf_counter after torch.cuda.synchronize; CPU ")
    assert clock_note("cpu").startswith("perf_counter; CPU ")
