"""Cost: counts are exact, and verdicts about time follow a planted clock. A real clock runs under `-m slow` alone.

python -m pytest tests/checks/test_check_cost.py
"""

import pytest
import torch
from broken_layers import Mean, Replayed
from subjects import failed, rows, subject_of

from src import checks
from src.checks import cost
from src.models.template import GatedConv


class Clock:
    """A clock that stands still until a layer spends seconds on it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def planted_step(clock, seconds_at, prefill_seconds=0.0):
    """A right layer whose step at position n takes seconds_at(n), and whose prefill takes prefill_seconds."""

    class Planted(Mean):
        def prefill(self, x, state):
            clock.now += prefill_seconds
            return self.forward(x), (state[0], state[1] + x.shape[1])

        def step(self, x, state):
            clock.now += seconds_at(state[1] + 1)
            return self.value(x), (state[0], state[1] + 1)

    return Planted


def planted_forward(clock, seconds_for, base=Replayed):
    """A layer whose forward pass over T tokens takes seconds_for(T)."""

    class Planted(base):
        def mix(self, v):
            clock.now += seconds_for(v.shape[1])
            return super().mix(v)

    return Planted


def results(check_function, model_class, clock, **given):
    """{name: result} of a check that reads this clock."""
    return {r.name: r for r in check_function(subject_of(model_class, **given), clock)}


LATE = "step at 4,096 / step at 128"


@pytest.mark.parametrize(
    ("seconds_at", "ratio", "fails"),
    [
        (lambda n: 0.001, 1.0, False),
        (lambda n: 0.001 if n < 2000 else 0.00125, 1.25, False),
        (lambda n: 0.001 if n < 2000 else 0.00135, 1.35, True),
        (lambda n: 1e-6 * n, 4079 / 111, True),  # the medians of positions 94 to 128 and 4,062 to 4,096
    ],
    ids=["constant", "below the limit", "above the limit", "grows with T"],
)
def test_steps_that_get_slower_fail_under_strict(seconds_at, ratio, fails):
    clock = Clock()
    found = results(cost.decoding, planted_step(clock, seconds_at), clock)[LATE]
    assert found.value == pytest.approx(ratio, rel=1e-6)
    assert found.status == "measured"
    assert bool(failed(checks.strict([found]))) is fails


def test_decoding_goes_as_far_as_patience_allows():
    """A prefill of 256 tokens takes 1 s in each of two layers, so 3 s have passed after two prefills."""
    clock = Clock()
    found = results(cost.decoding, planted_step(clock, lambda n: 0.001, prefill_seconds=1.0), clock)
    assert "a later one takes more than 3 s" in found["state bytes at T = 552"].note
    assert found["step at 552 / step at 128"].value == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds_for", "exponent", "last", "fails"),
    [
        (lambda T: 1e-4 * T, 1.0, "1,024", False),
        (lambda T: 1e-6 * T**2, 2.0, "512", True),
        (lambda T: 1e-5 * T**1.25, 1.25, "2,048", False),
        (lambda T: 1e-5 * T**1.35, 1.35, "1,024", True),
    ],
    ids=["linear", "quadratic", "below the limit", "above the limit"],
)
def test_growth_of_time_is_the_planted_exponent(seconds_for, exponent, last, fails):
    """The lengths double until a step takes 0.15 s. The two layers of the model take seconds_for(T) each."""
    clock = Clock()
    found = results(cost.exponents, planted_forward(clock, seconds_for), clock)["time exponent in T"]
    assert found.value == pytest.approx(exponent, rel=1e-6)
    assert f", {last}; the longest takes" in found.note
    assert bool(failed(checks.strict([found]))) is fails


def test_the_fastest_of_several_steps_counts():
    """Noise only adds time. If every second step takes ten times as long, the time of the others counts."""
    clock, calls = Clock(), []

    def seconds_for(length):
        calls.append(length)
        is_noisy = (len(calls) - 1) // 2 % 2  # the two layers of every second step
        return 1e-4 * length * (10 if is_noisy else 1)

    found = results(cost.exponents, planted_forward(clock, seconds_for), clock)["time exponent in T"]
    assert found.value == pytest.approx(1, rel=1e-6)
    assert f"1,024; the longest takes {1e3 * 2 * 1e-4 * 1024:.3g} ms" in found.note


class Quadratic(Replayed):
    """Linear attention by the whole (T, T) matrix."""

    def mix(self, v):
        return (v @ v.transpose(1, 2)).tril() @ v / v.shape[1]


def test_growth_of_memory_is_quadratic_or_linear():
    """The bytes that are kept depend on no clock. The planted time only ends the doubling of the lengths."""
    row = "memory exponent in T"
    clock = Clock()
    quadratic = results(cost.exponents, planted_forward(clock, lambda T: 1e-4 * T, Quadratic), clock)[row]
    linear = results(cost.exponents, planted_forward(clock, lambda T: 1e-4 * T), clock)[row]
    assert quadratic.value == pytest.approx(2, abs=0.15)
    assert linear.value == pytest.approx(1, abs=0.05)
    assert failed(checks.strict([quadratic]))
    assert not failed([quadratic])
    assert not failed(checks.strict([linear]))


class KeepsEverything(Mean):
    """A step that reads all earlier inputs."""

    def init_state(self, batch_size, max_len):
        return (torch.zeros(batch_size, 0, self.value.in_features),)

    def step(self, x, state):
        kept = torch.cat([state[0], x[:, None]], dim=1)
        return self.value(kept.mean(1)), (kept,)

    def prefill(self, x, state):
        return self.forward(x), (torch.cat([state[0], x], dim=1),)


def test_state_bytes_are_those_of_the_live_tensors():
    def bytes_at(model_class, *positions):
        found = rows(cost.decoding, model_class)
        return [found[f"state bytes at T = {n:,}"].value for n in positions]

    layers, width, kernel, float32 = 2, 16, 4, 4
    assert bytes_at(GatedConv, 128, 4096) == [layers * kernel * width * float32] * 2
    assert bytes_at(KeepsEverything, 128, 4096) == [layers * n * width * float32 for n in (128, 4096)]


def test_replay_is_measured_up_to_512_tokens():
    assert "measured no later because replay is slow" in rows(cost.decoding, Replayed)["state bytes at T = 512"].note


def test_parameters_are_counted_once():
    subject = subject_of(GatedConv, tie_weights=True)
    model = subject.model()
    assert cost.parameters(subject).value == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_a_real_clock_tells_growth_from_constant_cost():
    """1.6 and 1.4 leave room for overhead and a busy machine."""
    quadratic, linear = (rows(cost.exponents, layer)["time exponent in T"].value for layer in (Quadratic, GatedConv))
    assert quadratic > 1.6
    assert linear < 1.4
    grown, constant = (rows(cost.decoding, layer)[LATE].value for layer in (KeepsEverything, GatedConv))
    assert grown > constant
