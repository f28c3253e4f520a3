"""Claims: memory grows as O(T), and the decoding state has a constant size."""

from __future__ import annotations

import math

import numpy as np

from src.measure.speed.analysis import cells, exponent
from src.measure.speed.panels import Quantity, load
from src.stats.exponents import LEVEL
from src.stats.intervals import t_quantile
from src.study.claims.contract import NO, UNDECIDED, YES, Claim, claim_of, figure, lost

LINEAR = 1.1  # an exponent up to here counts as linear: caches and fixed costs change it by as much


MEMORY = {  # the panels whose peak is used, the first that was measured, and the peak's name in a sentence
    "memory": "the peak of one layer, forward and backward,",
    "train": "the peak per sequence of a training step, without weights,",
}


def peak_in(panel: str) -> Quantity:
    """The peak memory of a panel."""
    return next(q for q in load(panel).quantities if q.metric == "peak_bytes")


def linear_memory(rows, model: str) -> dict:
    """Does the memory peak grow no faster than T?

    The peak is that of one layer's forward and backward pass, or of a whole step for a model of several kinds of layer.
    """
    fits = {panel: exponent(rows, panel, peak_in(panel), model) for panel in MEMORY}
    panel = next((panel for panel, fit in fits.items() if fit is not None), None)
    if panel is None:
        return claim_of(
            "memory",
            model,
            UNDECIDED,
            f"fewer than two lengths were measured{lost(rows, 'memory', (model,))}",
            status="unsupported",
        )
    fit, q, what = fits[panel], peak_in(panel), MEMORY[panel]
    if fit.exponent is None:
        return claim_of("memory", model, UNDECIDED, f"{what} has no exponent: {fit.note}", status="unsupported")
    found = cells(rows, panel, "peak_bytes", model)
    less = cells(rows, panel, q.less, model) if q.less else {}
    y = [
        (found[x]["value"] - (less[x]["value"] if x in less else 0)) / (found[x]["batch"] if q.a_sequence else 1)
        for x in fit.used
    ]
    low, high = line_interval(fit.used, y)
    low, high = min(low, fit.low), max(high, fit.high)
    figures = [figure("memory_exponent", fit.exponent, low, high, "exponent", "length", fit.used[-1])]
    said = f"{what} grows as T^{fit.exponent:.2f} [{low:.2f}, {high:.2f}] from {fit.used[0]:,.0f} "
    said += f"to {fit.used[-1]:,.0f}, T^{fit.tail:.2f} at the end{lost(rows, panel, (model,))}"
    if low > LINEAR:
        return claim_of("memory", model, NO, said, figures)
    if high <= LINEAR and fit.tail <= LINEAR:
        return claim_of("memory", model, YES, said, figures)
    why = "the interval holds" if high > LINEAR else "the end is steeper than"
    return claim_of(
        "memory", model, UNDECIDED, f"{said}; {why} {LINEAR}, up to which an exponent counts as linear", figures
    )


def line_interval(xs, ys) -> tuple[float, float]:
    """Student's 95 % interval of the slope of log y against log x, from at least three points.

    Bytes are equal at each repeat, so a bootstrap over repeats gives no width. What is uncertain is whether the points
    are on a line at all.
    """
    x, y = np.log(np.asarray(xs, dtype=float)), np.log(np.asarray(ys, dtype=float))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    half = t_quantile(LEVEL, len(x) - 2) * math.sqrt(float(residual @ residual) / (len(x) - 2) / float(x @ x))
    return slope - half, slope + half


def constant_state(rows, model: str) -> dict:
    """Are the bytes of a live decoding state equal at the first and the last position, for one sequence?"""
    batch = min((r["batch"] for r in rows if r["panel"] == "decode" and r["model"] == model), default=None)
    found = cells(rows, "decode", "state_bytes", model, batch)
    if len(found) < 2:
        return claim_of(
            "state",
            model,
            UNDECIDED,
            f"fewer than two positions were measured{lost(rows, 'decode', (model,))}",
            status="unsupported",
        )
    first, last = min(found), max(found)
    a, b = found[first]["value"], found[last]["value"]
    figures = [
        figure("state_bytes", b, unit="bytes", x_name="position", x=last),
        figure("state_bytes", a, unit="bytes", x_name="position", x=first),
    ]
    said = f"{a:,.0f} bytes at position {first:,} and {b:,.0f} at {last:,}, batch {batch}"
    if a == b:
        return claim_of("state", model, YES, said, figures)
    return claim_of("state", model, NO, f"{said}{f': x {b / a:.1f}' if a else ''}", figures)


LINEAR_MEMORY = Claim("memory", "Memory grows as O(T)", lambda e: [linear_memory(e.rows, m) for m in e.models])
CONSTANT_STATE = Claim("state", "Decoding state is constant", lambda e: [constant_state(e.rows, m) for m in e.models])
