"""How a cost grows: exponents with intervals, and the length from which one model is cheaper than another.

    fit({512: [0.9, 1.0, 1.1], 1024: [...], 2048: [...]}, floor=0.2)   -> Fit(exponent=1.02, low=0.97, high=1.06, r2=0.999, ...)
    crossover({512: [...], ...}, {512: [...], ...})                    -> Crossover(at=1180.0, low=1100.0, high=1260.0, cheaper="b", ...)

Both take the repeats of each x (a length, or a number of parameters) and work on log-log medians. Intervals are percentile intervals of a
bootstrap over the repeats (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): each resample draws, at every x, as many
repeats as there are, with replacement. They hold the noise of repeating one measurement, and nothing of a drift between two runs; of three
repeats they are too narrow. A quantity that is the same at each repeat (bytes) has an interval of width 0.

The floor rule. A call costs something before it does any work: launches, Python, the optimiser's loop over parameters. `floor` is that cost,
measured as the same call on next to nothing; an x takes part in a fit when its median is at least FLOOR_FACTOR times the floor. With a cost of
floor + c x^p that leaves at the first such x a local slope of at least p (1 - 1 / FLOOR_FACTOR). Fewer than LEAST_POINTS of them, and there is no exponent.
NumPy only; the random numbers are those of an explicit seed, so that the same repeats give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

FLOOR_FACTOR = 4.0
LEAST_POINTS = 3
RESAMPLES = 2000
LEVEL = 0.95
TAIL = 3  # of the longest x: their own slope shows a curve that has not yet reached its exponent


@dataclass(frozen=True)
class Fit:
    """cost ~ x^exponent.  low, high: 95 % bootstrap interval.  tail: the slope over the last TAIL points.  used, below: x in the fit, and under the floor.

    floor: in the values' unit.  exponent, low, high, r2 and tail are None where there is no fit, and note says why.
    growth: last median / first one over all x, floor or not, with its interval.
    """

    exponent: float | None
    low: float | None
    high: float | None
    r2: float | None
    tail: float | None
    used: tuple[float, ...]
    below: tuple[float, ...]
    floor: float
    growth: float | None
    growth_low: float | None
    growth_high: float | None
    note: str

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Crossover:
    """From which x one of two is cheaper for good.

    cheaper: "a" or "b", the one with the lower median at the largest x.  at: where the lines between log-log medians cross for the last time;
    None where they do not: then `cheaper` is so at every x measured, "none up to T".  low, high: 95 % interval of `at`; None for an end that lies
    outside the range measured (low: below the first x, high: beyond the last).  share: of the resamples in which `cheaper` is that at the end.
    """

    at: float | None
    low: float | None
    high: float | None
    cheaper: str
    share: float
    first: float
    last: float

    def as_dict(self) -> dict:
        return asdict(self)

    def words(self) -> str:
        """'1,180 [1,100, 1,260]', or 'none up to 4,096'."""
        if self.at is None:
            return f"none up to {self.last:,.0f}"
        low = _three_digits(self.low) if self.low is not None else f"< {self.first:,.0f}"
        high = _three_digits(self.high) if self.high is not None else f"> {self.last:,.0f}"
        return f"{_three_digits(self.at)} [{low}, {high}]"


def _three_digits(x: float) -> str:
    """1,183 -> '1,180': more digits than an interval bears out would only mislead."""
    return f"{round(x, 2 - math.floor(math.log10(x))):,.10g}"


def fit(
    samples: Mapping[float, Sequence[float]],
    floor: float = 0.0,
    *,
    share: Mapping[float, float] | None = None,
    factor: float = FLOOR_FACTOR,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit:
    """The exponent of positive repeats {x: values} over the x at or above `factor` times the floor.

    share: {x: how many} where a call does several of what the exponent is about, such as the sequences of a batch: a call is held against the floor
    whole, and then divided.  Raises ValueError for an x or a value that is not positive and finite, or an x without values.
    """
    xs, medians, draws = _medians(samples, resamples, seed)
    above = medians >= factor * floor
    if share is not None:
        parts = np.asarray([share[x] for x in xs.tolist()], dtype=np.float64)
        medians, draws = medians / parts, draws / parts
    used, below = tuple(xs[above].tolist()), tuple(xs[~above].tolist())
    growth = _growth(medians, draws)
    if len(used) < LEAST_POINTS:
        note = f"{len(used)} of {len(xs)} points at or above {factor:g} x the floor, {LEAST_POINTS} needed"
        return Fit(None, None, None, None, None, used, below, floor, *growth, note)
    x, y, resampled = np.log(xs[above]), np.log(medians[above]), np.log(draws[:, above])
    exponent = float(_slopes(x, y[None])[0])
    low, high = _percentiles(_slopes(x, resampled))
    residual = y - y.mean() - exponent * (x - x.mean())
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1.0 if spread <= 1e-18 else 1.0 - float((residual**2).sum()) / spread  # a constant is fitted without rest
    tail = float(_slopes(x[-TAIL:], y[None, -TAIL:])[0])
    return Fit(exponent, low, high, r2, tail, used, below, floor, *growth, "")


def crossover(
    a: Mapping[float, Sequence[float]], b: Mapping[float, Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Crossover | None:
    """Where, over the x that both have, the dearer of two at the largest x was the cheaper one last; None where they share fewer than two x."""
    shared = sorted(set(a) & set(b))
    if len(shared) < 2:
        return None
    xs, mine, my_draws = _medians({x: a[x] for x in shared}, resamples, seed)
    _, other, other_draws = _medians({x: b[x] for x in shared}, resamples, seed + 1)
    x, gap, gaps = np.log(xs), np.log(mine) - np.log(other), np.log(my_draws) - np.log(other_draws)
    sign = 1.0 if gap[-1] > 0 else -1.0  # 1: b is cheaper at the end
    points = _last_crossings(x, sign * gaps)
    at = float(_last_crossings(x, sign * gap[None])[0])
    low, high = (float(v) for v in np.quantile(points, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest"))
    crosses = math.isfinite(at)
    return Crossover(
        math.exp(at) if crosses else None,
        math.exp(low) if crosses and math.isfinite(low) else None,
        math.exp(high) if crosses and math.isfinite(high) else None,
        "b" if sign > 0 else "a",
        float((points < math.inf).mean()),
        float(xs[0]),
        float(xs[-1]),
    )


def _last_crossings(x, gaps):
    """Per row of gaps (R, X), dearer minus cheaper: the log x from which it stays positive; -inf where it always is, inf where it ends at 0 or below."""
    positive = gaps > 0
    n = gaps.shape[1]
    last_bad = np.where(positive.all(axis=1), -1, n - 1 - np.argmax(~positive[:, ::-1], axis=1))
    i = np.clip(last_bad, 0, n - 2)
    rows = np.arange(len(gaps))
    g0, g1 = gaps[rows, i], gaps[rows, i + 1]
    rise = np.where(g1 > g0, g1 - g0, 1.0)
    at = x[i] + (x[i + 1] - x[i]) * np.clip(-g0 / rise, 0.0, 1.0)
    return np.where(last_bad < 0, -np.inf, np.where(last_bad == n - 1, np.inf, at))


def _medians(samples, resamples: int, seed: int):
    """x sorted (X,), medians (X,), and medians of bootstrap resamples (R, X)."""
    if not samples:
        raise ValueError("samples: got none, allowed: at least one x with its repeats")
    rng = np.random.default_rng(seed)
    xs = sorted(samples)
    medians, draws = np.empty(len(xs)), np.empty((resamples, len(xs)))
    for i, x in enumerate(xs):
        values = np.asarray(samples[x], dtype=np.float64)
        if (
            values.ndim != 1
            or not len(values)
            or not (np.isfinite(values).all() and (values > 0).all() and x > 0 and math.isfinite(x))
        ):
            raise ValueError(
                f"samples: got {samples[x]!r:.60} at x = {x}, allowed: x > 0 and at least one repeat, all positive and finite"
            )
        medians[i] = np.median(values)
        draws[:, i] = np.median(values[rng.integers(0, len(values), (resamples, len(values)))], axis=1)
    return np.asarray(xs, dtype=np.float64), medians, draws


def _slopes(x, ys):
    """Least-squares slopes of rows ys (R, X) over x (X,)."""
    centred = x - x.mean()
    return (ys - ys.mean(axis=1, keepdims=True)) @ centred / (centred @ centred)


def _growth(medians, draws):
    if len(medians) < 2:
        return None, None, None
    return float(medians[-1] / medians[0]), *_percentiles(draws[:, -1] / draws[:, 0])


def _percentiles(values) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
