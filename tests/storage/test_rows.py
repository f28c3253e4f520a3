"""Rows are complete, valid and the same after writing and reading.

python -m pytest tests/storage/test_rows.py
"""

import csv
import io
import json

import pytest
from planted_metrics import good_metrics

from src.measure.timing import Sample
from src.storage.rows import FIELDS, check_row, make_row, rows_of, timed, to_csv, to_line

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


def test_the_rows_of_a_diverged_run_have_that_status():
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


def test_the_mean_over_lengths_is_a_row():
    mean = {"lengths": [128, 256], "value": 0.5, "scaled": 0.4, "ci": [0.4, 0.6]}
    (row,) = (r for r in rows_of(good_metrics() | {"length_mean": mean}) if r["panel"] == "length mean")
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.5, 0.4, 0.6, 2)
    assert row["note"] == "mean over lengths 128, 256; scaled 0.4"


def test_rows_are_the_same_after_writing_and_reading():
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


def test_a_rate_swaps_the_ends_of_its_interval():
    row = timed(Sample({"": (1.0, 2.0, 4.0)}, {"": 1.0}, 0, "budget"), "tokens/s", lambda s: 8 / s)
    assert row["value"] == 4.0
    assert row["low"] == 2.0
    assert row["high"] == 8.0
    assert row["q1"] < row["value"] < row["q3"]
