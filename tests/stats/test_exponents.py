"""Exponents and crossovers come out as they were planted; rows are whole.  Run: python -m pytest tests/stats/test_exponents.py"""

import csv
import io
import json

import numpy as np
import pytest
from planted_metrics import good_metrics

from src.measure.timing import Sample
from src.stats.exponents import FLOOR_FACTOR, Crossover, crossover, fit
from src.storage.rows import FIELDS, check_row, make_row, rows_of, timed, to_csv, to_line

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
    """Percentile bootstraps of 10 repeats a length are a little narrow: 95 % in name, above 85 % in fact."""
    hits = sum(
        f.low <= 1.5 <= f.high for f in (fit(planted(lambda x: x**1.5, 0.1, seed=s), resamples=300) for s in range(60))
    )
    assert hits >= 51


def test_lengths_at_the_floor_take_no_part():
    """Cost = 1 + x / 1000: the first lengths cost about the floor and would pull the exponent to 0.6."""
    cost = planted(lambda x: 1 + x / 100)
    with_floor, without = fit(cost, floor=1.0), fit(cost)
    assert with_floor.below == (128, 256)
    assert with_floor.used == (512, 1024, 2048, 4096)
    assert with_floor.exponent > 0.9 > without.exponent
    assert all(np.median(cost[x]) >= FLOOR_FACTOR for x in with_floor.used)


def test_without_enough_lengths_above_the_floor_there_is_no_exponent_but_a_growth():
    found = fit(planted(lambda x: 1.0), floor=1.0)
    assert found.exponent is None
    assert found.r2 is None
    assert "3 needed" in found.note
    assert found.growth == pytest.approx(1.0, abs=0.05)
    assert found.growth_low < 1.0 < found.growth_high


def test_a_call_that_does_several_is_held_against_the_floor_whole():
    """A constant number of tokens a step: the step's time is flat for a linear layer, and one sequence's is linear."""
    step = planted(lambda x: 0.08)
    found = fit(step, floor=0.01, share={x: 8192 / x for x in LENGTHS})
    assert found.used == LENGTHS
    assert found.exponent == pytest.approx(1.0, abs=0.02)


def test_a_curve_that_bends_shows_in_its_tail_and_its_rest():
    found = fit(planted(lambda x: x + x**2 / 1000))
    assert 1.1 < found.exponent < found.tail < 2.0
    assert found.r2 < 0.999


def test_exact_numbers_have_an_interval_of_no_width():
    found = fit({x: [400.0 * x] for x in LENGTHS})
    assert found.exponent == pytest.approx(1.0)
    assert found.low == pytest.approx(found.high)
    assert found.r2 == pytest.approx(1.0)


@pytest.mark.parametrize("at", [200, 700, 1000, 3000])
def test_a_planted_crossover_comes_out(at):
    found = crossover(planted(lambda x: x**2 / at), planted(lambda x: float(x), seed=1))
    assert found.cheaper == "b"
    assert found.at == pytest.approx(at, rel=0.05)
    assert found.low <= at * 1.03
    assert found.high >= at * 0.97
    assert found.high / found.low < 1.25
    assert found.share == 1.0
    assert crossover(planted(lambda x: float(x)), planted(lambda x: x**2 / at, seed=1)).cheaper == "a"


def test_no_crossover_is_none_up_to_the_last_length():
    found = crossover(planted(lambda x: 2.0 * x), planted(lambda x: 1.0 * x, seed=1))
    assert found.at is None
    assert found.low is None
    assert found.cheaper == "b"
    assert found.words() == "none up to 4,096"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (1183.4, "1,180 [< 128, > 4,096]"),
        (87.654, "87.7 [< 128, > 4,096]"),
        (25_927_018.0, "25,900,000 [< 128, > 4,096]"),
    ],
)
def test_a_crossover_is_told_in_three_digits(at, words):
    assert Crossover(at, None, None, "b", 1.0, 128.0, 4096.0).words() == words


def test_a_crossover_that_noise_could_make_has_an_open_interval():
    found = crossover(planted(lambda x: 1.0 + 1e-9 * x, 0.2), planted(lambda x: 1.0, 0.2, seed=1))
    assert found.share < 1.0
    assert found.at is None or found.low is None or found.high is None


def test_the_last_crossing_counts_where_lines_cross_twice():
    """b is cheaper at 128, dearer at 512, cheaper from between 1024 and 2048 on."""
    a = {128: [2.0], 256: [2.0], 512: [1.0], 1024: [1.0], 2048: [4.0], 4096: [8.0]}
    b = {128: [1.0], 256: [1.0], 512: [2.0], 1024: [2.0], 2048: [2.0], 4096: [2.0]}
    assert 1024 < crossover(a, b).at < 2048


def test_lengths_that_one_of_two_lacks_take_no_part():
    a, b = planted(lambda x: x**2 / 500), planted(lambda x: float(x), lengths=LENGTHS[:4])
    assert crossover(a, b).last == 1024
    assert crossover(a, {128: [1.0]}) is None


@pytest.mark.parametrize("samples", [{}, {128: []}, {128: [1.0, -1.0]}, {128: [float("nan")]}, {0: [1.0]}])
def test_repeats_that_mean_nothing_are_refused(samples):
    with pytest.raises(ValueError, match="samples: got"):
        fit(samples)


# Rows ------------------------------------------------------------------------------------------------------------------------------------

GOOD = {"panel": "train", "model": "gru", "metric": "step_ms", "value": 1.0, "unit": "ms"}


def test_a_training_run_and_a_measurement_have_the_same_fields():
    measured = make_row("speed", **GOOD)
    for row in rows_of(good_metrics()):
        check_row(row)
        assert list(row) == list(measured) == list(FIELDS)


def test_a_training_run_becomes_rows_with_its_numbers():
    metrics = good_metrics()
    env = {
        "versions": {"torch": "2.13"},
        "device": {"name": "cpu", "kind": "Xeon"},
        "backends": {"attention": {"backend": "sdpa", "reason": "fast"}},
    }
    rows = rows_of(metrics, env)

    def value(metric, panel):
        return next(r for r in rows if r["metric"] == metric and r["panel"] == panel)

    assert value("loss", "quality")["value"] == metrics["final_test"]["loss"]
    assert value("loss", "quality")["unit"] == "nats"
    assert value("clipped_share", "training")["value"] == metrics["grad_norm"]["clipped_share"]
    assert value("grad_norm_max", "training")["value"] == metrics["grad_norm"]["max"]
    assert value("state_bytes", "cost")["value"] == metrics["decode_state"]["bytes"]
    assert {r["x"] for r in rows if r["panel"] == "length"} == {p["length"] for p in metrics["length_curve"]}
    assert all(
        r["device"] == "cpu: Xeon" and r["versions"] == env["versions"] and r["backend"] == env["backends"]
        for r in rows
    )


def test_a_run_that_diverged_has_rows_that_say_so():
    metrics = {
        **good_metrics(),
        "status": "diverged",
        "diverged_at": 7,
        "final_test": None,
        "length_curve": [],
        "scaled": 0.0,
    }
    rows = rows_of(metrics)
    assert {r["status"] for r in rows} == {"diverged"}
    assert next(r for r in rows if r["metric"] == metrics["primary"])["note"] == "diverged at step 7"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": None}, "needs a metric, a value"),
        ({"value": float("inf")}, "value got inf"),
        ({"n": -1}, "n got -1"),
        ({"n": True}, "n got True"),
        ({"kind": "guess"}, "kind got 'guess'"),
        ({"status": "failed"}, "needs a note and no value"),
        ({"speed": 1}, "unknown field 'speed'"),
        ({"note": 3}, "note got 3"),
        ({"values": [1, "x"]}, "values got"),
    ],
)
def test_a_row_that_is_not_of_the_schema_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        check_row({**make_row("speed", **GOOD), **change})


def test_rows_survive_the_way_through_their_files():
    sample = Sample({"": (0.001, 0.003, 0.002)}, {"": 0.5}, 2, "budget")
    row = make_row(
        "speed", **{**GOOD, **timed(sample)}, backend={"attention": {"backend": "sdpa", "reason": 'a "quoted", one'}}
    )
    assert json.loads(to_line(row)) == row
    assert row["value"] == 2.0
    assert row["first_ms"] == 500.0
    assert row["warmups"] == 3
    (read,) = csv.DictReader(io.StringIO(to_csv([row]).decode()))
    assert float(read["value"]) == row["value"]
    assert json.loads(read["backend"]) == row["backend"]
    assert read["task"] == ""
    assert "values" not in read


def test_a_rate_turns_the_quartiles_round():
    row = timed(Sample({"": (1.0, 2.0, 4.0)}, {"": 1.0}, 0, "budget"), "tokens/s", lambda s: 8 / s)
    assert row["value"] == 4.0
    assert row["low"] == 2.0
    assert row["high"] == 8.0
    assert row["q1"] < row["value"] < row["q3"]
