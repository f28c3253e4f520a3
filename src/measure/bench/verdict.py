"""What is slower than in a record, by more than the interval of the ratio. No torch.

    lines = compared(rows, record_rows)      # ["slower than the record: ..., 1.41 x [1.12, 1.76]"]

A ratio above 1 is slower, also where a larger number is better. A value is the median of a round, which is a process of
its own: repeats inside of one process are alike, and say nothing about the next process. The interval begins at the
fastest round against the slowest one of the record, and ends at the reverse. With five rounds on both sides, equal
programs are apart like this in 1 of 252 cases. The rounds of an item follow one another within a minute or two. So the
interval is widened by a factor of 1 + NOISE on both sides, for what differs between two hours of one machine. Times are
compared between equal machines only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from src.measure.bench.items import METRICS

NOISE = 0.1


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
    top, bottom = (old, values) if more else (values, old)
    low, high = min(top) / max(bottom), max(top) / min(bottom)
    return median(top) / median(bottom), low / (1 + NOISE), high * (1 + NOISE)
