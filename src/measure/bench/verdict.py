"""What is slower than in a record, by more than the interval of the ratio. No torch.

    lines = compared(rows, record_rows)      # ["slower than the record: ..., 1.21 x [1.15, 1.28]"]

A ratio above 1 is slower, also where a larger number is better. Its interval is a bootstrap over the repeats of both.
With fewer than ENOUGH repeats on a side there is no such interval. Then the ratio must exceed NOISE, which is what whole
commands differ by on a quiet machine. Times are compared between equal machines only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from src.measure.bench.items import METRICS

ENOUGH = 5
NOISE = 0.1
DRAWS, SEED = 2_000, 0
SAME_MACHINE = "device", "settings"


def key_of(row: Mapping) -> tuple[str, str]:
    """(metric, column) of a row."""
    return row["metric"], row["form"]


def machine_of(row: Mapping) -> str:
    """The machine of a row, in words."""
    return f"{row['device']}, {row['settings']['cores']} cores"


def compared(rows: Sequence[Mapping], record: Sequence[Mapping]) -> list[str]:
    """One line per metric that is slower than in the record; or one line that says why nothing is compared."""
    rows, record = [[r for r in part if r["status"] == "ok"] for part in (rows, record)]
    if not record:
        return ["no record to compare with; --update makes this run the record"]
    if not rows:
        return ["nothing was measured, so nothing is compared with the record"]
    here, there = machine_of(rows[0]), machine_of(record[0])
    if here != there:
        return [f"not compared with the record: it is of another machine ({there}; this one: {here})"]
    before = {key_of(row): row for row in record}
    pairs = [(row, before[key_of(row)]) for row in rows if key_of(row) in before and METRICS[row["metric"]].check]
    slow = [line for row, old in pairs if (line := slower(row, old))]
    return slow or [f"nothing is slower than the record ({len(pairs)} figures)"]


def slower(row: Mapping, old: Mapping) -> str:
    """The line about a metric that is slower than its record; "" where it is not."""
    ratio, low, high = slowdown(row["values"], old["values"], METRICS[row["metric"]].more)
    if low <= 1:
        return ""
    figures = f"{row['value']:.4g} {row['unit']}, before {old['value']:.4g}"
    words = f"{METRICS[row['metric']].words} ({row['metric']}, {row['form']})"
    return f"slower than the record: {words}: {figures}, {ratio:.2f} x [{low:.2f}, {high:.2f}]"


def slowdown(values: Sequence[float], old: Sequence[float], more: bool) -> tuple[float, float, float]:
    """(ratio of medians, low, high): above 1 where `values` are slower. more: a larger value is faster."""
    new, before = (np.asarray(v, dtype=float) for v in (values, old))
    top, bottom = (before, new) if more else (new, before)
    ratio = float(np.median(top) / np.median(bottom))
    if min(len(top), len(bottom)) < ENOUGH:
        return ratio, ratio / (1 + NOISE), ratio * (1 + NOISE)
    rng = np.random.default_rng(SEED)
    draws = [np.median(rng.choice(part, (DRAWS, len(part))), axis=1) for part in (top, bottom)]
    low, high = np.quantile(draws[0] / draws[1], (0.025, 0.975))
    return ratio, float(low), float(high)
