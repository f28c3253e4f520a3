"""How a cost grows: exponents with intervals, and the length from which one model costs less than another.

    fit({512: [0.9, 1.0, 1.1], 1024: [...], 2048: [...]}, floor=0.2)   -> Fit(exponent=1.02, low=0.97, high=1.06, ...)
    crossover({512: [...], ...}, {512: [...], ...})                    -> Crossover(at=1180.0, low=1100.0, ...)

Both take the repeats at each x (a length, or a number of parameters) and work on log-log medians. Intervals are
percentile intervals of a bootstrap over the repeats (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13). Each resample draws, at every x, as many repeats as there are, with replacement. The intervals cover the
noise between repeats, and no drift between two runs. With three repeats they are too narrow. A quantity that is equal
at each repeat (bytes) has an interval of width 0.

The overhead rule. A call has a fixed cost before it does any work: launches, Python, the optimiser's loop over
parameters. `floor` is that overhead, measured as the same call on almost nothing. An x is used in a fit if its median
is at least FLOOR_FACTOR times the overhead. With a cost of floor + c x^p, the local slope at the first such x is at
least p (1 - 1 / FLOOR_FACTOR). With fewer than LEAST_POINTS of them there is no exponent.
The random numbers have an explicit seed, so the same repeats give the same bytes.
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
TAIL = 3  # the largest x; if their slope differs, the curve has not yet reached its exponent


@dataclass(frozen=True)
class Fit:
    """cost ~ x^exponent.

    low, high: 95 % bootstrap interval.  tail: the slope over the last TAIL points.
    used, below: the x in the fit, and those too close to the overhead.  floor: the overhead, in the values' unit.
    exponent, low, high, r2 and tail are None if there is no fit, and note says why.
    growth: last median divided by first median, over all x, with its interval.
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
    """The x from which one of two costs less, up to the largest x.

    winner: "a" or "b", the one with the lower median at the largest x.
    at: where the lines between log-log medians cross for the last time. None if they do not cross: then `winner` has
    the lower cost at every x measured, "none up to T".
    low, high: 95 % interval of `at`. None for an end outside the measured range (below the first x, above the last).
    share: the share of resamples in which `winner` has the lower cost at the largest x.
    """

    at: float | None
    low: float | None
    high: float | None
    winner: str
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
    """1,183 -> '1,180': the interval is too wide for more digits."""
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
    """The exponent of positive repeats {x: values}, over the x at or above `factor` times the overhead.

    share: {x: how many} if a call does several of what the exponent is about, such as the sequences of a batch. The
    whole call is compared with the overhead, and then divided.
    Raises ValueError for an x or a value that is not positive and finite, or an x without values.
    """
    xs, medians, draws = _medians(samples, resamples, seed)
    above = medians >= factor * floor
    if share is not None:
        parts = np.asarray([share[x] for x in xs.tolist()], dtype=np.float64)
        medians, draws = medians / parts, draws / parts
    used, below = tuple(xs[above].tolist()), tuple(xs[~above].tolist())
    growth = _growth(medians, draws)
    if len(used) < LEAST_POINTS:
        note = f"{len(used)} of {len(xs)} points at or above {factor:g} x the overhead, {LEAST_POINTS} needed"
        return Fit(None, None, None, None, None, used, below, floor, *growth, note)
    x, y, resampled = np.log(xs[above]), np.log(medians[above]), np.log(draws[:, above])
    exponent = float(_slopes(x, y[None])[0])
    low, high = _percentiles(_slopes(x, resampled))
    residual = y - y.mean() - exponent * (x - x.mean())
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1.0 if spread <= 1e-18 else 1.0 - float((residual**2).sum()) / spread  # a constant is fitted exactly
    tail = float(_slopes(x[-TAIL:], y[None, -TAIL:])[0])
    return Fit(exponent, low, high, r2, tail, used, below, floor, *growth, "")


def crossover(
    a: Mapping[float, Sequence[float]], b: Mapping[float, Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Crossover | None:
    """The x from which one of two costs less, over the x that both have; None if they share fewer than two x."""
    shared = sorted(set(a) & set(b))
    if len(shared) < 2:
        return None
    xs, mine, my_draws = _medians({x: a[x] for x in shared}, resamples, seed)
    _, other, other_draws = _medians({x: b[x] for x in shared}, resamples, seed + 1)
    x = np.log(xs)
    difference, drawn = np.log(mine) - np.log(other), np.log(my_draws) - np.log(other_draws)
    sign = 1.0 if difference[-1] > 0 else -1.0  # 1: b costs less at the end
    points = _last_crossings(x, sign * drawn)
    at = float(_last_crossings(x, sign * difference[None])[0])
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


def _last_crossings(x, differences):
    """The log x from which a difference stays positive, for each row of differences (R, X): higher cost minus lower.

    -inf if it always is positive; inf if it is not positive at the end.
    """
    positive = differences > 0
    n = differences.shape[1]
    last_bad = np.where(positive.all(axis=1), -1, n - 1 - np.argmax(~positive[:, ::-1], axis=1))
    i = np.clip(last_bad, 0, n - 2)
    rows = np.arange(len(differences))
    d0, d1 = differences[rows, i], differences[rows, i + 1]
    rise = np.where(d1 > d0, d1 - d0, 1.0)
    at = x[i] + (x[i + 1] - x[i]) * np.clip(-d0 / rise, 0.0, 1.0)
    return np.where(last_bad < 0, -np.inf, np.where(last_bad == n - 1, np.inf, at))


def _medians(samples, resamples: int, seed: int):
    """x sorted (X,), medians (X,), and medians of bootstrap resamples (R, X).

    By hand: scipy.stats.bootstrap refuses a single repeat, and a fit needs the resamples of all x, not their interval.
    """
    if not samples:
        raise ValueError("samples: got none, allowed: at least one x with its repeats")
    rng = np.random.default_rng(seed)
    xs = sorted(samples)
    medians, draws = np.empty(len(xs)), np.empty((resamples, len(xs)))
    for i, x in enumerate(xs):
        values = np.asarray(samples[x], dtype=np.float64)
        is_positive = values.ndim == 1 and len(values) and np.isfinite(values).all() and (values > 0).all()
        if not (is_positive and x > 0 and math.isfinite(x)):
            raise ValueError(
                f"samples: got {samples[x]!r:.60} at x = {x}, "
                "allowed: x > 0 and at least one repeat, all positive and finite"
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
