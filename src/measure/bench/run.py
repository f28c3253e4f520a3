"""The items of `bench`, one after the other: the columns of an item in turns, and its rows as soon as it is measured.

measure(items, record, columns, cores, progress)      # raises KeyboardInterrupt; what was measured is on disk
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from src.measure.bench.items import COLUMN_WORDS, METRICS, Item
from src.measure.bench.quiet import most, was_busy
from src.measure.timing import clock_note
from src.stats.medians import median_interval, quantile
from src.storage import env
from src.storage.record import Record
from src.storage.rows import make_row
from src.utils.load import others_now


def measure(
    items: Sequence[Item], record: Record, columns: Sequence[str], cores: int, progress, quiet: bool = False
) -> None:
    """Measure what the record does not have yet, or has as a failure. cores: of this machine, which every row names.

    quiet: also measure again what was measured beside other programs.
    """
    bad = {row["panel"] for row in record.rows if row["status"] != "ok" or (quiet and was_busy(row))}
    record.drop(lambda row: row["panel"] in bad)
    done = {row["panel"] for row in record.rows}
    progress.begin([item.name for item in items], [item.name for item in items if item.name in done])
    machine = {"device": f"cpu: {env.cpu_model()}", "settings": {"cores": cores}, "versions": env.versions()}
    for item in items:
        if item.name in done:
            continue
        progress.now(item.says)
        record.add(*rows_of(item, [c for c in item.columns if c in columns], machine))
        progress.done(item.name)


def rows_of(item: Item, columns: Sequence[str], machine: dict) -> list[dict]:
    """The rows of an item: one per metric and column, or one that says why a column could not be measured."""
    found: dict[str, dict[str, list[float]]] = {column: {} for column in columns}
    failed: dict[str, str] = {}
    others: dict[str, list[float | None]] = {column: [] for column in columns}
    for _ in range(item.rounds):
        for column in columns:
            if column in failed:
                continue
            try:
                others[column].append(others_now())
                with tempfile.TemporaryDirectory(prefix="seq-bench-") as folder:
                    values = item.call(column, Path(folder))
                others[column].append(others_now())
            except (RuntimeError, OSError) as error:
                failed[column] = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
                continue
            for metric, repeats in values.items():
                found[column].setdefault(metric, []).append(quantile(repeats, 0.5))
    rows = []
    for column in columns:
        about = {"panel": item.name, "form": column, "clock": clock_note("cpu"), **machine}
        about["settings"] = {**machine["settings"], "others": most(others[column])}
        if column in failed:
            name = next(iter(found[column]), item.name)
            rows.append(make_row("bench", **about, metric=name, status="failed", note=failed[column]))
            continue
        rows += [row_of(metric, values, about) for metric, values in found[column].items()]
    return rows


def row_of(metric: str, values: Sequence[float], about: dict) -> dict:
    """The row of one metric: its median, quartiles, and the interval of the median.  values: the median per round."""
    low, high, _ = median_interval(values)
    return make_row(
        "bench",
        **about,
        metric=metric,
        unit=METRICS[metric].unit,
        value=quantile(values, 0.5),
        q1=quantile(values, 0.25),
        q3=quantile(values, 0.75),
        low=low,
        high=high,
        n=len(values),
        values=list(values),
        note=f"{METRICS[metric].words}; {COLUMN_WORDS[about['form']]}",
    )
