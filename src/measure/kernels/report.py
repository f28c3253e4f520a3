"""The printed table of `kernels`, from the rows of a record. No torch, so that `--vis_only` prints it too."""

from __future__ import annotations

from src.measure.kernels.ceilings import ceilings_of
from src.measure.kernels.contract import Subject

PASSES = ("forward", "forward+backward")


def table(rows, subject: Subject) -> list[str]:
    """The ceilings, then the forms of each pass and length, the fastest first; last the forms without a time."""
    ceilings = ceilings_of(rows)
    found = [row for row in rows if row["op"] == subject.name]
    lines = [f"operations of {subject.name}: {subject.formula}"]
    if ceilings is not None:
        copy, product = ceilings.bytes_per_s / 1e9, ceilings.operations_per_s / 1e9
        lines.insert(0, f"ceilings here: copy {copy:.1f} GB/s, matrix product {product:.1f} GFLOP/s (medians)")
    for which in PASSES:
        lines += ["", heading(which)]
        for length in sorted({row["x"] for row in found}):
            lines += lines_at([row for row in found if row["form"] == which and row["x"] == length], subject, ceilings)
    return lines + without_a_time(found)


def heading(which: str) -> str:
    return (
        f"{which:<18}{'T':>8}{'ms':>12}{'quartiles':>22}{'GB/s':>9}{'GFLOP/s':>10}{'of roof':>9}{'x plain':>9}"
        f"{'first ms':>11}"
    )


def lines_at(rows, subject: Subject, ceilings) -> list[str]:
    """The lines of one pass and length."""
    by_form: dict = {}
    for row in rows:
        by_form.setdefault(row["backend"], {})[row["metric"]] = row
    timed = {name: cells for name, cells in by_form.items() if "ms" in cells and cells["ms"]["status"] == "ok"}
    plain = timed[subject.plain]["ms"]["value"] if subject.plain in timed else None
    lines = []
    for name, cells in sorted(timed.items(), key=lambda item: item[1]["ms"]["value"]):
        ms, rate = cells["ms"], cells["gflop_per_s"]["value"]
        roof = ceilings.roof(ms["settings"]["operations"] / ms["settings"]["bytes"]) / 1e9
        quartiles = f"{ms['q1']:.4g} to {ms['q3']:.4g}"
        ratio = f"{plain / ms['value']:.2f}" if plain else ""
        lines.append(
            f"  {name:<16}{ms['x']:>8,}{ms['value']:>12.4g}{quartiles:>22}{cells['gb_per_s']['value']:>9.3g}"
            f"{rate:>10.4g}{rate / roof:>9.1%}{ratio:>9}{ms['first_ms']:>11.4g}"
        )
    return lines


def without_a_time(rows) -> list[str]:
    """One line per reason why a form has no time, with its lengths and passes."""
    lost: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            reason = f"{row['backend']}: {row['status']}: {row['note']}"
            lost.setdefault(reason, []).append(f"{row['x']:,} {row['form']}")
    lines = [f"no time for {what} (T {', '.join(where)})" for what, where in lost.items()]
    return ["", *lines] if lines else []
