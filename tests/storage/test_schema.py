"""The schema accepts good metrics and names the path of a problem in bad ones.

python -m pytest tests/storage/test_schema.py
"""

import copy
import json
import math

import numpy as np
import pytest
from planted_metrics import good_metrics

from src.storage.files import seal
from src.storage.schema import validate


@pytest.mark.parametrize("kind", ["answer", "language"])
def test_good_metrics_pass(kind):
    validate(good_metrics(kind=kind))


def test_good_metrics_pass_after_writing_and_reading():
    validate(json.loads(json.dumps(good_metrics())))


@pytest.mark.parametrize("step", [1, 45, 200])
def test_a_diverged_run_passes_with_or_without_a_validation_before(step):
    metrics = good_metrics(diverged_at=step)
    assert (metrics["val"]["best"] is None) == (step < 60)
    validate(metrics)


LIMITS = {
    "stopped_at": 300,
    "solved_at": {"threshold": 0.95, "step": 120, "reason": None},
    "test_items": "ab" * 32,
    "length_mean": {"lengths": [128, 256], "value": 0.5, "scaled": 0.4, "ci": [0.4, 0.6]},
    "preset": dict.fromkeys(("name", "source", "published", "compare"), "") | {"differences": [], "changed": {"lr": 1}},
    "notes": ["the loss was still falling"],
}


@pytest.mark.parametrize("key", LIMITS)
def test_what_limits_a_result_is_in_the_schema_and_may_be_absent(key):
    validate(good_metrics() | LIMITS)
    validate(good_metrics() | {k: v for k, v in LIMITS.items() if k != key})
    with pytest.raises(ValueError, match=f"{key}"):
        validate(good_metrics() | {key: {"odd": 3}})


def put(*keys_and_value):
    """A change of metrics: put("a", "b", 3) sets metrics["a"]["b"] = 3."""
    *keys, last, value = keys_and_value

    def change(metrics):
        for key in keys:
            metrics = metrics[key]
        metrics[last] = value

    return change


def drop(*keys):
    def change(metrics):
        for key in keys[:-1]:
            metrics = metrics[key]
        del metrics[keys[-1]]

    return change


GAP = ("test", "best", "slices", "gap")
BROKEN = {  # path of the error -> what breaks
    "schema: got 1, allowed: 2": put("schema", 1),
    "status: got 'finished', allowed: done or diverged": put("status", "finished"),
    "kind: got 'image'": put("kind", "image"),
    "sha256: got 'abc', allowed: 64 hexadecimal digits": put("sha256", "abc"),
    "machine.sha256: missing": drop("machine", "sha256"),
    "machine.seconds: got nan": put("machine", "seconds", math.nan),
    "machine: got [], allowed: an object": put("machine", []),
    "note: unknown key": put("note", "a second opinion"),
    "ceiling: missing": drop("ceiling"),
    "ceiling: got True, allowed: a finite number": put("ceiling", True),
    "scaled: got inf": put("scaled", math.inf),
    "steps: got 1.5, allowed: a whole number": put("steps", 1.5),
    "steps: got -1": put("steps", -1),
    "best_step: got '60', allowed: a whole number >= 0 or null": put("best_step", "60"),
    "args.lr: got nan": put("args", "lr", math.nan),
    "data.digest: missing": drop("data", "digest"),
    "data.left_out.test[0]: got 3, allowed: text": put("data", "left_out", "test", [3]),
    "data.unknown_rate: got 1.5, allowed: a number from 0 to 1 or null": put("data", "unknown_rate", 1.5),
    "decode_state.cache: got 'kv', allowed: own or replay": put("decode_state", "cache", "kv"),
    "parameters.head: unknown key, allowed: total, embedding, layers": put("parameters", "head", 3),
    "loss_curve.val[2]: got [180, None], allowed: [step, finite number]": put("loss_curve", "val", 2, [180, None]),
    "loss_curve.train[0]: got [10, nan]": put("loss_curve", "train", 0, [10, math.nan]),
    "loss_curve.train: got {}, allowed: a list": put("loss_curve", "train", {}),
    "loss_curve.train: steps must increase": put("loss_curve", "train", 1, [10, 2.0]),
    "ppl_curve.val: its steps differ": put("ppl_curve", "val", []),
    "diverged_at: got 30, but status is done": put("diverged_at", 30),
    "floors.uniform.token_acc: missing": drop("floors", "uniform", "token_acc"),
    "floors.uniform.primary: got None, allowed: a finite number": put("floors", "uniform", "primary", None),
    "baselines.n-gram: got '1.7'": put("baselines", "n-gram", "1.7"),
    "length_curve[1].ci: got [0.9, 0.1], allowed: [lo, hi] with lo <= hi or null": put(
        "length_curve", 1, "ci", [0.9, 0.1]
    ),
    "length_curve[0].in_distribution: got 1, allowed: true or false": put("length_curve", 0, "in_distribution", 1),
    "val.best.loss: got None": put("val", "best", "loss", None),
    "val.best.exact_match: got 1.2, allowed: a number from 0 to 1 or null": put("val", "best", "exact_match", 1.2),
    "val.last.n_scored: missing": drop("val", "last", "n_scored"),
    "val.last.mae: got [1], allowed: a finite number or null": put("val", "last", "mae", [1]),
    "val.best.hit_rate: missing, but it is the primary metric": drop("val", "best", "hit_rate"),
    "val.best.heldout_loss: unknown key": put("val", "best", "heldout_loss", 1.9),
    "test.best.interval_of: got 'seeds', allowed: test sampling": put("test", "best", "interval_of", "seeds"),
    "test.best.interval_basis.hit_rate.unit: got 'character', allowed: sequence or block of text": put(
        "test", "best", "interval_basis", "hit_rate", "unit", "character"
    ),
    "test.best.interval_basis: its metrics differ from those of intervals": drop(
        "test", "best", "interval_basis", "hit_rate"
    ),
    "val.best.intervals.mae: there is no such number": put("val", "best", "intervals", "mae", [0.1, 0.2]),
    "test.best.slices.gap.level: got 'token', allowed: example or char": put(*GAP, "level", "token"),
    "test.best.slices.gap.bins: missing": drop(*GAP, "bins"),
    "test.best.slices.gap.bins[3].ci: got [0.5], allowed: [lo, hi]": put(*GAP, "bins", 3, "ci", [0.5]),
    "test.best.slices.gap.bins[3].ci: got [0.5, nan]": put(*GAP, "bins", 3, "ci", [0.5, math.nan]),
    "test.best.slices.gap.bins[2].count: got 10.0": put(*GAP, "bins", 2, "count", 10.0),
    "test.best.slices.gap.bins[0].name: unknown key, allowed: lo, hi, value, count, ci, n_effective": put(
        *GAP, "bins", 0, "name", "near"
    ),
    "test.best.slices.gap.bins[1]: lo 99 is above hi": put(*GAP, "bins", 1, "lo", 99),
    "test.best.slices.gap.bins[0].name: missing": put(*GAP, "scale", "category"),
    "test.best.slices.haystack.bins[0].lo: missing": put("test", "best", "slices", "haystack", "scale", "linear"),
    "final_test: differs from test.best": put("final_test", "loss", 0.3),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_metrics_are_refused_by_path(message):
    metrics = copy.deepcopy(good_metrics())
    BROKEN[message](metrics)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole beginning is compared below)
        validate(metrics)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("step", "reason", "words"),
    [(121, None, "got 121, at which there was no validation"), (120, "why", "there is a reason why it is not known")],
)
def test_a_step_that_solved_the_task_is_one_of_a_validation(step, reason, words):
    with pytest.raises(ValueError, match=f"solved_at.step: .*{words}"):
        validate(good_metrics() | {"solved_at": {"threshold": 0.95, "step": step, "reason": reason}})


def test_language_results_on_test_need_the_heldout_loss():
    metrics = good_metrics(kind="language")
    del metrics["test"]["best"]["heldout_loss"]
    with pytest.raises(ValueError, match=r"^test\.best\.heldout_loss: missing"):
        validate({**metrics, "final_test": metrics["test"]["best"]})


def test_a_key_of_newer_metrics_may_be_absent_and_is_checked_if_present():
    metrics = copy.deepcopy(good_metrics())
    assert "loss_ci" not in metrics["length_curve"][0]
    metrics["length_curve"][0]["loss_ci"] = [0.2, 0.4]
    metrics["floors"]["uniform"]["slice_acc"] = 0.03
    validate(seal(metrics))
    metrics["length_curve"][0]["loss_ci"] = [0.4, 0.2]
    with pytest.raises(ValueError, match=r"length_curve\[0\].loss_ci: got \[0.4, 0.2\]"):
        validate(seal(metrics))


def test_a_diverged_run_has_no_final_result():
    metrics = good_metrics(diverged_at=200)
    with pytest.raises(ValueError, match=r"^final_test: must be null"):
        validate({**metrics, "final_test": metrics["test"]["best"]})


@pytest.mark.parametrize("value", [None, [], "metrics", 3])
def test_something_else_than_a_dict_is_refused(value):
    with pytest.raises(ValueError, match=r"^metrics: got"):
        validate(value)


def test_perplexity_may_overflow_if_the_loss_does_not():
    metrics = good_metrics()
    metrics["ppl_curve"]["train"][0][1] = None
    metrics["final_train"]["ppl"] = None
    validate(metrics)


def test_numpy_numbers_are_refused_before_they_reach_json():
    with pytest.raises(ValueError, match=r"^steps: got"):
        validate({**good_metrics(), "steps": np.int64(3)})
