"""The printed tables of `profile`, from the rows of a record. No torch, so that `--vis_only` prints them too."""

from __future__ import annotations

from src.stats.exponents import TAIL, fit

ROWS_SHOWN = 20


def table(rows) -> list[str]:
    """The slowest operators, the groups, and the lengths, in at most 120 columns."""
    whole = next((r["value"] for r in rows if r["form"] == "whole step"), None)
    lines = [f"{'operator':<58}{'group':<20}{'ms per step':>12}{'share':>8}{'quartiles':>20}"]
    found = sorted((r for r in rows if r["panel"] == "operators"), key=lambda r: -r["value"])
    lines += [f"{shorten(r['op'], 56):<58}{r['form']:<20}{cells(r, whole)}" for r in found[:ROWS_SHOWN]]
    rest = found[ROWS_SHOWN:]
    if rest:
        lines.append(f"{str(len(rest)) + ' more, in results.csv':<78}{sum(r['value'] for r in rest):>12.3f}")
    lines += ["", f"{'group':<78}{'ms per step':>12}{'share':>8}{'quartiles':>20}"]
    lines += [f"{r['form']:<78}{cells(r, whole)}" for r in rows if r["panel"] == "groups"]
    lines += [f"{'drawing a batch (before the step)':<78}{cells(r, whole)}" for r in rows if r["panel"] == "data"]
    return lines + length_table(rows)


def cells(row: dict, whole: float | None) -> str:
    share = f"{row['value'] / whole:>8.1%}" if whole else " " * 8
    quartiles = f"{row['q1']:.3f} to {row['q3']:.3f}"
    return f"{row['value']:>12.3f}{share}{quartiles:>20}"


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 4] + " ..."


def length_table(rows) -> list[str]:
    """One line per length: its batch, time and peak, or why it has none."""
    found = [r for r in rows if r["panel"] == "length"]
    if not found:
        return []
    heads = f"{'length':>10}{'rows':>8}{'tokens':>10}{'ms per step':>14}{'us per token':>14}{'peak MiB':>12}"
    lines = ["", heads]
    for length in sorted({r["x"] for r in found}, key=lambda x: x or 0):
        at = {r["metric"]: r for r in found if r["x"] == length}
        broken = next((r for r in at.values() if r["status"] != "ok"), None)
        if broken is not None:
            lines.append(f"{'' if length is None else format(length, ','):>10}  {broken['note']}")
        elif len(at) == 3:  # an interrupt may have left fewer
            step, token, peak = at["step_ms"], at["token_us"], at["peak_bytes"]
            lines.append(
                f"{length:>10,}{step['batch']:>8,}{step['tokens']:>10,}{step['value']:>14.3f}"
                f"{token['value']:>14.3f}{peak['value'] / 2**20:>12.2f}"
            )
    return lines + growth(found)


def growth(rows) -> list[str]:
    """How the time per sequence grows with its length, in words; nothing below three lengths."""
    timed = {r["x"]: r for r in rows if r["metric"] == "step_ms" and r["status"] == "ok"}
    if not timed:
        return []
    found = fit({x: r["values"] for x, r in timed.items()}, share={x: r["batch"] for x, r in timed.items()})
    if found is None or found.exponent is None:
        return []
    end = f", over the {TAIL} longest ~ length^{found.tail:.2f}" if len(found.used) > TAIL else ""
    interval = f"[{found.low:.2f}, {found.high:.2f}]"
    lines = [f"time per sequence ~ length^{found.exponent:.2f} {interval}{end}"]
    if found.exponent < 1:
        lines.append(
            "the exponent is below 1 because fixed overhead dominates short sequences; `speed` leaves these out"
        )
    else:
        lines.append(
            "the fixed overhead of a step is included; `speed` measures it and leaves out the lengths it dominates"
        )
    return lines
