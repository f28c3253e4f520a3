"""One row per measurement, in one schema for all that this program measures: trainings, `speed`, kernels, profiles.

    row = make_row("speed", panel="train", model="gru", metric="step_ms", value=12.1, unit="ms", n=10, **machine)
    rows = rows_of(metrics, env)        # of a training run's metrics.json and env.json, one row per number

A measuring command writes such rows to `results.jsonl` as it measures them, and to `results.csv` without the repeats.
A training run writes its `results.jsonl` at its end, without times and memory, so that the same command gives the same
bytes.

`FIELDS` below is the schema, in the order of the columns. Every row has every field, null if it means nothing there.
A measurement that could not be made is a row too: `status` says what happened, `note` says it in words, and `value` is
null. Nothing here imports torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from src.storage.notes import listed
from src.storage.tables import csv_bytes

# Remarks that a note of a row of decoding may hold. Tables and figures show them beside the numbers.
NO_PREFILL = "no prefill written: the prompt is read token by token"
WRONG_DECODING = "WRONG: decoding differs from forward"
REMARKS = (NO_PREFILL, WRONG_DECODING)

ROW_SCHEMA = 1
KINDS = ("train-run", "speed", "kernel", "profile", "bench")
# failed: raised something else.  gate failed: the op differs from its reference, so it is not timed.
# not tried: a shorter one ran out of memory.  not reached: the run ended before, at the step x (a censored time).
STATUSES = ("ok", "out of memory", "gate failed", "failed", "unsupported", "not tried", "not reached", "diverged")

FIELDS = {
    "schema": "ROW_SCHEMA",
    "kind": "one of KINDS",
    "panel": "rows that are compared: train, memory, decode, scaling, quality, ...; for a kernel its op",
    "task": "of a training run or a profile",
    "model": "a registry name or the stem of a user's file; null for a kernel",
    "op": "of a kernel",
    "form": "which part is measured, if not the whole: forward, forward+backward, an operator group",
    "metric": "what was measured: step_ms, tokens_per_s, peak_bytes, kept_bytes, prefill_ms, state_bytes, ...",
    "value": "the median of the repeats, or the number itself; null without one",
    "unit": "of value, low, high and values: ms, s, tokens/s, bytes, nats, share, ...",
    "q1": "lower quartile of the repeats",
    "q3": "upper quartile of the repeats",
    "low": "lower end of a 95 % interval (of the median, over repeats; of a score, of test sampling)",
    "high": "upper end",
    "n": "repeats (scored items of a score)",
    "stopped": "why the repeats ended: settled (interval within 5 %), budget, most",
    "warmups": "calls that are not counted, the first included",
    "first_ms": "the first call, with compilation and empty caches; not in the median",
    "x_name": "what x is: length, position, parameters, step, ...",
    "x": "the place on that axis",
    "batch": "sequences in one call",
    "tokens": "tokens per step",
    "parameters": "of the model; in the panel memory of one layer alone",
    "settings": "the model's resolved flags, or the shape of a kernel",
    "backend": "{op: {backend, reason}}; for a kernel only its name",
    "precision": "fp32, bf16, fp16",
    "device": "cpu, cuda:0, and its name",
    "threads": "of torch",
    "clock": "which clock, what it waited for, the machine's frequency and load",
    "versions": "of Python and the packages that matter",
    "seed": "of weights and inputs",
    "status": "one of STATUSES",
    "note": "in words: why there is no value, what limits it, what it includes",
    "values": "the repeats, in the unit, for bootstraps; not in results.csv",
}
NUMBERS = ("value", "q1", "q3", "low", "high", "first_ms", "x")
COUNTS = ("n", "warmups", "batch", "tokens", "parameters", "threads", "seed")
TEXTS = (
    "panel",
    "task",
    "model",
    "op",
    "form",
    "metric",
    "unit",
    "stopped",
    "x_name",
    "precision",
    "device",
    "clock",
    "note",
)


def make_row(kind: str, **fields) -> dict:
    """A row of this kind with every field of FIELDS. Not given: status is ok, the note empty, any other field null.

    Raises ValueError as `check_row` does.
    """
    row = {**dict.fromkeys(FIELDS), "schema": ROW_SCHEMA, "kind": kind, "status": "ok", "note": "", **fields}
    row = {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()}
    check_row(row)
    return row


def timed(sample, unit: str = "ms", of=lambda seconds: 1e3 * seconds) -> dict:
    """The fields of a row that come from the repeats of one call (a timing.Sample): value, quartiles, interval, ...

    of: seconds of one repeat -> value in `unit`, a monotonic function; `lambda s: tokens / s` gives tokens per second.
    """
    from src.stats.medians import median_interval, quantile

    first = sample.first_seconds
    values = [of(s) for s in sample.values]
    low, high, _ = median_interval(values)
    return {
        "value": quantile(values, 0.5),
        "unit": unit,
        "q1": quantile(values, 0.25),
        "q3": quantile(values, 0.75),
        "low": low,
        "high": high,
        "n": len(values),
        "stopped": sample.stopped,
        "warmups": sample.warmups + 1,
        "first_ms": None if first is None else 1e3 * first,
        "values": values,
    }


def check_row(row) -> None:
    """Raise ValueError, which names the field, unless `row` is as FIELDS says."""
    if not isinstance(row, dict) or row.get("schema") != ROW_SCHEMA:
        raise ValueError(f"row: got {row!r:.60}, allowed: a dict with schema {ROW_SCHEMA}")
    odd = sorted(row.keys() ^ FIELDS.keys())
    if odd:
        raise ValueError(
            f"row: {'missing' if odd[0] in FIELDS else 'unknown'} field '{odd[0]}', allowed: {', '.join(FIELDS)}"
        )
    for name, allowed in (("kind", KINDS), ("status", STATUSES)):
        if row[name] not in allowed:
            raise ValueError(f"row: {name} got {row[name]!r:.40}, allowed: {', '.join(allowed)}")
    for name in NUMBERS:
        _expect(name, row[name], _is_number, "a finite number or null")
    for name in COUNTS:
        _expect(
            name,
            row[name],
            lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
            "a whole number >= 0 or null",
        )
    for name in TEXTS:
        _expect(name, row[name], lambda v: isinstance(v, str), "text or null")
    _expect(
        "values",
        row["values"],
        lambda v: isinstance(v, list) and all(map(_is_number, v)),
        "a list of finite numbers or null",
    )
    for name in ("settings", "versions"):
        _expect(name, row[name], lambda v: isinstance(v, dict), "an object or null")
    if row["status"] == "ok" and (row["value"] is None or not row["metric"] or not row["unit"]):
        raise ValueError(
            "row: status ok needs a metric, a value and a unit, "
            f"got {row['metric']!r}, {row['value']!r}, {row['unit']!r}"
        )
    if row["status"] not in ("ok", "diverged") and (row["value"] is not None or not row["note"]):
        raise ValueError(
            f"row: status '{row['status']}' needs a note and no value, got {row['note']!r:.40} and {row['value']!r}"
        )


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _expect(name: str, value, is_good, allowed: str) -> None:
    if value is not None and not is_good(value):
        raise ValueError(f"row: {name} got {value!r:.60}, allowed: {allowed}")


def to_line(row: dict) -> str:
    """The row as one line of results.jsonl, with its line break; fields in the order of FIELDS."""
    check_row(row)
    return json.dumps({name: row[name] for name in FIELDS}, allow_nan=False) + "\n"


def to_jsonl(rows: Iterable[dict]) -> bytes:
    """The lines of results.jsonl."""
    return "".join(map(to_line, rows)).encode("ascii")


def to_csv(rows: Iterable[dict]) -> bytes:
    """results.csv: one column per field except `values`; objects are compact JSON, null is an empty cell."""
    return csv_bytes([name for name in FIELDS if name != "values"], rows, _cell)


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return repr(value) if isinstance(value, float) else str(value)


def rows_of(metrics: dict, env: dict | None = None) -> list[dict]:
    """The rows of a training run: of its metrics.json (src/storage/schema.py) and, if given, its env.json.

    One row per number: the test result, the training loss, the gradient's norm and clipping, the step that solved the
    task, the decoding state, and speed and memory if metrics has its part "machine". One row per length of the length
    curve and per bin of a slice.
    The rows of a run that diverged have status "diverged"; its score is the highest chance level.
    """
    env = env or {}
    args, machine = metrics["args"], metrics.get("machine") or {}
    common = {
        "task": metrics["task"],
        "model": metrics["model"],
        "parameters": metrics["parameters"]["total"],
        "settings": args,
        "backend": env.get("backends"),
        "precision": args.get("precision"),
        "device": _device(env, machine),
        "threads": args.get("threads") or None,
        "versions": env.get("versions"),
        "seed": args.get("seed"),
        "status": "ok" if metrics["status"] == "done" else "diverged",
    }
    found = [*_scores(metrics), *_training(metrics), *_solved(metrics), *_machine(metrics, machine)]
    return [make_row("train-run", **{**common, **fields}) for fields in found]


def _device(env: dict, machine: dict) -> str | None:
    device = env.get("device")
    return f"{device['name']}: {device['kind']}" if device else machine.get("device")


def _scores(metrics: dict):
    """The fields of the rows of the test result."""
    primary, steps = metrics["primary"], {"x_name": "step", "x": metrics["steps"]}
    yield {
        "panel": "quality",
        "metric": "scaled",
        "value": metrics["scaled"],
        "unit": "share",
        **steps,
        "note": "share of the way from the highest chance level to the ceiling",
    }
    result = metrics["final_test"]
    if result is None:
        yield {
            "panel": "quality",
            "metric": primary,
            "value": None,
            "unit": "share",
            **steps,
            "note": f"diverged at step {metrics['diverged_at']}",
        }
        return
    basis = result["interval_basis"]
    for name, value in result.items():
        if not _is_number(value) or name in ("n_examples", "n_scored"):
            continue
        low, high = result["intervals"].get(name, (None, None))
        by_character = name in BY_CHARACTER
        n = result["n_scored" if by_character else "n_examples"]
        yield {
            "panel": "quality",
            "metric": name,
            "value": value,
            "unit": UNITS.get(name, "share" if name == primary else "number"),
            "low": low,
            "high": high,
            "n": basis[name]["count"] if name in basis else n,
            **steps,
            "note": "test set, best weights",
        }
    for point in metrics["length_curve"]:
        low, high = point["ci"] or (None, None)
        if point["value"] is None:
            yield {
                "panel": "length",
                "metric": primary,
                "status": "unsupported",
                "x_name": "length",
                "x": point["length"],
                "note": point["undefined"] or "no value",
            }
        else:
            yield {
                "panel": "length",
                "metric": primary,
                "value": point["value"],
                "unit": "share",
                "low": low,
                "high": high,
                "n": point["count"],
                "x_name": "length",
                "x": point["length"],
            }
    yield from _length_mean(metrics)
    for name, part in result["slices"].items():
        for item in part["bins"]:
            low, high = item["ci"] or (None, None)
            note = item["name"] if "name" in item else f"{item['lo']:g} to {item['hi']:g}"
            yield {
                "panel": f"slice {name}",
                "metric": part["metric"],
                "value": item["value"],
                "unit": UNITS.get(part["metric"], "share"),
                "low": low,
                "high": high,
                "n": item["count"],
                "x_name": part["of"],
                "x": item.get("lo"),
                "note": note,
            }


def _length_mean(metrics: dict):
    """The fields of the row of the mean over --eval_lengths, where it has a value."""
    mean = metrics.get("length_mean")
    if mean is not None and mean["value"] is not None:
        low, high = mean["ci"] or (None, None)
        yield {
            "panel": "length mean",
            "metric": metrics["primary"],
            "value": mean["value"],
            "unit": "share",
            "low": low,
            "high": high,
            "n": len(mean["lengths"]),
            "note": f"mean over {listed(mean['lengths'])}; scaled {mean['scaled']:.6g}",
        }


def _training(metrics: dict):
    """The fields of the rows of the training log: loss, gradient norm, clipping."""
    steps = {"panel": "training", "x_name": "step", "x": metrics["steps"]}
    numbers = (
        ("train_loss", metrics["final_train"]["loss"], "nats"),
        ("grad_norm_median", metrics["grad_norm"]["median"], "norm"),
        ("grad_norm_max", metrics["grad_norm"]["max"], "norm"),
        ("clipped_share", metrics["grad_norm"]["clipped_share"], "share"),
    )
    for name, value, unit in numbers:
        if value is not None:
            yield {**steps, "metric": name, "value": value, "unit": unit, "n": metrics["steps"]}


def _solved(metrics: dict):
    """The fields of the row of the step that solved the task; none of a run that is older than --solved_at.

    x is the last step of the run. A run that was not solved until then has no value, and the status "not reached".
    """
    solved = metrics.get("solved_at")
    if solved is None:
        return
    row = {"panel": "training", "metric": "solved_at", "x_name": "step", "x": metrics["steps"]}
    test = f"validation with {metrics['primary']} >= {solved['threshold']:g}"
    if solved["reason"] is not None:
        yield {**row, "status": "unsupported", "note": solved["reason"]}
    elif solved["step"] is not None:
        yield {**row, "value": solved["step"], "unit": "steps", "note": f"first {test}"}
    else:  # one that diverged keeps that status: it would never have been solved
        status = {} if metrics["status"] == "diverged" else {"status": "not reached"}
        yield {**row, **status, "note": f"no {test} in {metrics['steps']} steps"}


def _machine(metrics: dict, machine: dict):
    """The fields of the rows of speed and memory."""
    state = metrics["decode_state"]
    if state["bytes"] is not None:
        yield {
            "panel": "cost",
            "metric": "state_bytes",
            "value": state["bytes"],
            "unit": "bytes",
            "x_name": "position",
            "x": state["tokens"],
            "batch": 1,
            "note": f"cache={state['cache']}",
        }
    peak = machine.get("peak_memory_mib")
    numbers = (
        ("chars_per_s", machine.get("chars_per_second"), "characters/s"),
        ("train_s", machine.get("train_seconds"), "s"),
        ("step_ms", _times(machine.get("step_seconds_median"), 1e3), "ms"),
        ("peak_bytes", _times(peak, 2**20), "bytes"),
    )
    for name, value, unit in numbers:
        if value is not None:
            yield {"panel": "cost", "metric": name, "value": value, "unit": unit, "n": metrics["steps"]}


def _times(value, factor: float):
    return None if value is None else factor * value


# Means over scored characters (or tokens), not over examples.
BY_CHARACTER = ("loss", "bpc", "bits_per_byte", "ppl", "token_acc", "heldout_loss", "heldout_bits_per_byte")
UNITS = {
    "loss": "nats",
    "heldout_loss": "nats",
    "bpc": "bits",
    "bits_per_byte": "bits",
    "heldout_bits_per_byte": "bits",
    "ppl": "perplexity",
    "token_acc": "share",
    "exact_match": "share",
}
