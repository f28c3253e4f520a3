"""The schema of a run's `metrics.json`: the one place that says what is in it, and the check of it.

`SPEC` below is the document; read it from top to bottom. Every key that it names must be there, and no other key
may be. So a typo or a forgotten field is an error and not a silent hole in a comparison. Numbers are finite. They are
null only if a `?` allows it.

    validate(json.loads(path.read_text()))   # ValueError: test.best.slices.gap.bins[3].ci: got [0.9, 0.2], allowed: ...

How to read it:
    "count"      a kind of value, listed in KINDS
    "count?"     the same, or null
    ("a", "b")   one of these words
    [x]          a list of x
    {"key": x}   exactly these keys
    {"*": x}     any further keys, each an x
    Maybe(x)     x or null
    MayLack(x)   x, or no such key
    a function   gives the spec that fits the other keys of the same object
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any, NamedTuple

SCHEMA_VERSION = 2


class Maybe(NamedTuple):
    """`spec` or null."""

    spec: Any


class MayLack(NamedTuple):
    """`spec`, at a key that older documents do not have."""

    spec: Any


def _is_number(v) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max


def _is_count(v) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and v >= 0


def _is_pair(v) -> bool:
    return isinstance(v, (list, tuple)) and len(v) == 2


def _is_range(v) -> bool:
    return _is_pair(v) and _is_number(v[0]) and _is_number(v[1]) and v[0] <= v[1]


def _is_json(v) -> bool:
    try:
        json.dumps(v, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


KINDS = {
    "number": (_is_number, "a finite number"),
    "share": (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "count": (_is_count, "a whole number >= 0"),
    "text": (lambda v: isinstance(v, str), "text"),
    "yes or no": (lambda v: isinstance(v, bool), "true or false"),
    "sha256": (
        lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef"),
        "64 hexadecimal digits",
    ),
    "range": (_is_range, "[lo, hi] with lo <= hi"),
    "point": (lambda v: _is_pair(v) and _is_count(v[0]) and _is_number(v[1]), "[step, finite number]"),
    "point or gap": (
        lambda v: _is_pair(v) and _is_count(v[0]) and (v[1] is None or _is_number(v[1])),
        "[step, finite number or null]",
    ),
    "anything": (_is_json, "anything that JSON can hold (no NaN, no infinity)"),
}

NUMBER_BIN = {
    "lo": "number",  # belongs to the bin; lo = hi if a bin is one value
    "hi": "number",  # does not belong to it, except in the last of linear bins
    "value": "number",  # the mean of the slice's metric over the bin
    "count": "count",  # examples or characters in it
    "ci": "range?",  # 95 %, as in RESULT (null for the loss of one sequence)
    "n_effective": "number",
}
NAMED_BIN = {"name": "text", **{k: NUMBER_BIN[k] for k in ("value", "count", "ci", "n_effective")}}

BASIS = {  # what an interval rests on
    "unit": ("sequence", "block of text"),  # what is independent of the others
    "units": "count",  # how many of them
    "count": "count",  # examples or characters, of which the value is the mean
    "n_effective": "number",  # as many independent items would give this interval
    "design_effect": "number",  # count / n_effective; 1 if the items are independent
}

SLICE = {
    "of": "text",  # what is on the x axis: gap, position, length, or a key of the task's meta
    "label": "text",  # the axis label, with its unit
    "level": ("example", "char"),  # what is counted
    "metric": "text",  # what is on the y axis
    "scale": ("linear", "log2", "category"),
    "bins": lambda s: [NAMED_BIN if s.get("scale") == "category" else NUMBER_BIN],
}

RESULT = {  # one evaluation of one checkpoint on one split
    "loss": "number",  # nats per scored character (data.unit: or token), never smoothed
    "bpc": "number?",  # the same in bits; null where the unit is a token
    "bits_per_byte": MayLack("number"),  # of language: bits of all scored units over their bytes of UTF-8
    "ppl": "number?",  # exp(loss); null if that overflows
    "token_acc": "share",  # share of scored characters whose likeliest prediction is right
    "exact_match": "share?",  # share of examples that are right as a whole; null for language
    "n_examples": "count",
    "n_scored": "count",  # scored characters
    "interval_of": ("test sampling",),  # what the intervals cover: the choice of the sequences, not seeds
    "intervals": {"*": "range"},  # metric -> 95 %: Wilson's on n_effective for a share, Student's for the loss
    "interval_basis": {"*": BASIS},  # the same metrics
    "slices": {"*": SLICE},
    "*": "number?",  # the task's own metrics and aliases; of language, on test, heldout_loss (nats, one pass over all)
}

CURVES = {"train": ["point"], "val": ["point"]}
CURVES_WITH_GAPS = {"train": ["point or gap"], "val": ["point or gap"]}

SPEC = {
    "schema": "count",  # SCHEMA_VERSION
    "sha256": "sha256",  # of all but itself and `machine`; see src/storage/files.py
    "status": ("done", "diverged"),
    "task": "text",
    "model": "text",
    "kind": ("answer", "labels", "language"),
    "primary": "text",  # the headline metric: a key of every result
    "args": {"*": "anything"},  # the resolved flags
    "data": {
        "digest": "text",  # of the examples or the text
        "source": "text?",  # of a language task: canonical, custom, ...
        "train_examples": "count",  # 0 = fresh ones
        "val_examples": "count",
        "test_examples": "count",
        "left_out": {"val": ["text"], "test": ["text"]},  # strata with too few distinct keys
        "vocab_size": "count",
        "unknown_rate": "share?",  # share of <unk>, if the task has it
        "unit": MayLack(("character", "token")),  # what one id stands for; a loss is per unit
    },
    "parameters": {
        "total": "count",
        "embedding": "count",
        "layers": MayLack("count?"),  # outside embeddings and head; null where a whole model shows neither
    },
    "fair_differences": MayLack(Maybe(["text"])),  # what --fair could not make equal; null without --fair
    "decode_state": {
        "cache": ("own", "replay"),
        "tokens": "count",
        "bytes": "count?",  # null where that failed
    },  # measured after that many tokens
    # Per block, before the first step: RMS of the output of its mixer (MLP) over that of the residual stream that it is
    # added to. null: a whole model of a user's own; a block without an MLP; a value that is not finite.
    "output_ratios": MayLack(Maybe({"mixer": ["number?"], "mlp": ["number?"]})),
    "precision": MayLack(("fp32", "bf16", "fp16")),  # of training, teacher-forced scores, decoding and samples alike
    "steps": "count",
    "best_step": "count?",  # of the lowest val loss
    "diverged_at": "count?",
    "stopped_at": MayLack("count?"),  # step at which a validation reached --stop_at
    "solved_at": MayLack(
        {
            "threshold": "share",  # --solved_at
            "step": "count?",  # of the first validation with the primary metric >= threshold; null if there was none
            "reason": "text?",  # why that is not known
        }
    ),
    "chars_seen": "count",
    "examples_seen": "count",
    "loss_curve": CURVES,  # nats per scored character
    "ppl_curve": CURVES_WITH_GAPS,  # exp of it at the same steps, null if that overflows
    "grad_norm": {
        "median": "number?",
        "max": "number?",
        "clipped_share": "share?",
    },  # null if no step had a finite norm
    "final_train": {"loss": "number?", "bpc": "number?", "ppl": "number?"},  # null after a divergence
    "val": {"best": Maybe(RESULT), "last": Maybe(RESULT)},
    "test": {"best": Maybe(RESULT), "last": Maybe(RESULT)},
    "test_items": MayLack("sha256"),  # that of test_items.json; see src/storage/items.py
    "final_test": Maybe(RESULT),  # test.best; null after a divergence, which scores the highest chance level
    "floors": {
        "*": {  # chance levels: reached without skill
            "primary": "number",
            "token_acc": "share?",
            "slice_acc": MayLack("share"),  # of answers: token_acc without <eos>, as in slices by character
        }
    },
    "baselines": {"*": "number"},  # reached by simple methods
    "ceiling": "number",  # of the primary metric
    "scaled": "number",  # (primary - highest chance) / (ceiling - highest chance); 0 after a divergence
    "length_curve": [
        {
            "length": "count",
            "in_distribution": "yes or no",
            "count": "count",
            "n_effective": "number?",  # of ci
            "value": "number?",  # the primary metric
            "ci": "range?",  # as in RESULT
            "token_acc": "share?",
            "loss": "number?",
            "loss_ci": MayLack("range?"),  # as in RESULT
            "undefined": "text?",  # why there is no value at this length
        }
    ],
    "length_mean": MayLack(  # null without --eval_lengths
        Maybe(
            {
                "lengths": ["count"],  # those that --eval_lengths names
                "value": "number?",  # mean of the primary metric over them; null where one of them has no value
                "scaled": "number?",
                "ci": "range?",  # half-widths of the lengths' intervals in quadrature; null for language
            }
        )
    ),
    "preset": MayLack(
        {
            "name": "text",
            "source": "text",
            "published": "text",  # the numbers of the paper
            "compare": "text",  # which number of this document they compare with
            "differences": ["text"],  # between the preset and its source
            "changed": {"*": "anything"},  # flags of the preset that this run has other values of
        }
    ),
    "failed": MayLack({"*": "text"}),  # decode_state, output_ratios, samples: "failed: reason", where one raised
    # versions of a user's file, other than that at the start, with which the run went on
    "other_code": MayLack([{"kind": ("task", "model"), "sha256": "sha256", "from_step": "count"}]),
    "notes": MayLack(["text"]),  # what limits the result, in sentences; see src/storage/notes.py
    "machine": {
        "sha256": "sha256",
        "*": "anything",
    },  # seconds, memory, paths, times: what differs from machine to machine; its own sha256
}


def validate(metrics: dict) -> None:
    """Raise ValueError, with the path of the first problem, unless `metrics` is as SPEC says and consistent."""
    if isinstance(metrics, dict) and metrics.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"schema: got {metrics['schema']!r:.40}, allowed: {SCHEMA_VERSION}; "
            "these metrics belong to another version of this program"
        )
    _check(metrics, SPEC, "", None)
    for path, problem in _disagreements(metrics):
        raise ValueError(f"{path}: {problem}")


def _check(value, spec, path: str, parent) -> None:
    if callable(spec):
        spec = spec(parent)
    if isinstance(spec, MayLack):
        spec = spec.spec
    if isinstance(spec, Maybe):
        if value is None:
            return
        spec = spec.spec
    if isinstance(spec, str):
        is_kind, words = KINDS[spec.rstrip("?")]
        if not (is_kind(value) or (value is None and spec.endswith("?"))):
            _refuse(path, value, words + (" or null" if spec.endswith("?") else ""))
    elif isinstance(spec, tuple):
        if value not in spec:
            _refuse(path, value, " or ".join(spec))
    elif isinstance(spec, list):
        if not isinstance(value, (list, tuple)):
            _refuse(path, value, "a list")
        for i, item in enumerate(value):
            _check(item, spec[0], f"{path}[{i}]", value)
    else:
        _check_object(value, spec, path)


def _check_object(value, spec: dict, path: str) -> None:
    if not isinstance(value, dict):
        _refuse(path, value, "an object")
    named = [key for key in spec if key != "*"]
    for key in named:
        if key not in value and not isinstance(spec[key], MayLack):
            raise ValueError(f"{_join(path, key)}: missing")
    for key in value:
        if not isinstance(key, str) or (key not in named and "*" not in spec):
            raise ValueError(f"{_join(path, key)}: unknown key, allowed: {', '.join(named)}")
    for key, item in value.items():
        _check(item, spec.get(key, spec.get("*")), _join(path, key), value)


def _disagreements(metrics: dict):
    """(path, problem) for every two places that contradict each other."""
    if (metrics["status"] == "diverged") != (metrics["diverged_at"] is not None):
        yield "diverged_at", f"got {metrics['diverged_at']}, but status is {metrics['status']}"
    for name in ("loss_curve", "ppl_curve"):
        for part, points in metrics[name].items():
            steps = [p[0] for p in points]
            if any(b <= a for a, b in itertools.pairwise(steps)):
                yield f"{name}.{part}", "steps must increase from point to point"
            if steps != [p[0] for p in metrics["loss_curve"][part]]:
                yield f"{name}.{part}", "its steps differ from those of loss_curve"
    yield from _solved_disagreements(metrics)
    for split in ("val", "test"):
        for which, result in metrics[split].items():
            if result is not None:
                yield from _result_disagreements(
                    result, f"{split}.{which}", metrics["primary"], metrics["kind"] == "language" and split == "test"
                )
    if metrics["status"] == "diverged" and metrics["final_test"] is not None:
        yield "final_test", "must be null, because status is diverged"
    if metrics["status"] == "done" and metrics["final_test"] != metrics["test"]["best"]:
        yield "final_test", "differs from test.best"


def _solved_disagreements(metrics: dict):
    solved = metrics.get("solved_at") or {"step": None}
    if solved["step"] is None:
        return
    if solved["reason"] is not None:
        yield "solved_at.step", f"got {solved['step']}, but there is a reason why it is not known"
    if solved["step"] not in [step for step, _ in metrics["loss_curve"]["val"]]:
        yield "solved_at.step", f"got {solved['step']}, at which there was no validation"


def _result_disagreements(result: dict, path: str, primary: str, has_heldout: bool):
    if primary not in result:
        yield f"{path}.{primary}", "missing, but it is the primary metric"
    if has_heldout != ("heldout_loss" in result):
        yield (
            f"{path}.heldout_loss",
            "missing" if has_heldout else "unknown key: only the test results of a language task have it",
        )
    for metric in result["intervals"]:
        if not _is_number(result.get(metric)):
            yield f"{path}.intervals.{metric}", "there is no such number in this result"
    if result["interval_basis"].keys() != result["intervals"].keys():
        yield f"{path}.interval_basis", "its metrics differ from those of intervals"
    for name, part in result["slices"].items():
        for i, b in enumerate(part["bins"]):
            if "lo" in b and b["lo"] > b["hi"]:
                yield f"{path}.slices.{name}.bins[{i}]", f"lo {b['lo']} is above hi {b['hi']}"


def _refuse(path: str, value, words: str) -> None:
    raise ValueError(f"{path or 'metrics'}: got {value!r:.60}, allowed: {words}")


def _join(path: str, key) -> str:
    return f"{path}.{key}" if path else str(key)
