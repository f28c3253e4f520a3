"""Intervals and bins: what turns per-item scores into numbers with error bars.

Every score that a run reports comes with its interval, and every curve with a count a bin, so that a difference can be told from chance.
NumPy only, no random numbers: the same items give the same bytes.

    wilson(90, 100)                          -> (0.826, 0.945)      a share of 0..1 scores (also fractional ones)
    t_interval([0.91, 0.94, 0.89])           -> (0.851, 0.976)      a mean over seeds
    binned(hits, gaps, "log2")               -> [{"lo": 8.0, "hi": 16.0, "value": 0.97, "count": 120, "ci": [0.93, 0.99]}, ...]

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", 1927; Student's distribution for whole degrees of
freedom after Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3, 26.7.4 and 26.7.5.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np

BIN_RULES = ("auto", "each", "linear", "log2")
MOST_DISTINCT = 24  # "auto" keeps each value apart up to here
LINEAR_BINS = 10


def wilson(successes: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share.

    successes: the *sum* of `count` scores in [0, 1], not their mean (see `wilson_mean`); it may be fractional.  level: in (0, 1).
    Returns (lo, hi), within [0, 1]; (0, 1) when count is 0. Raises ValueError unless 0 <= successes <= count.
    """
    if count < 0 or not 0 <= successes <= count * (1 + 1e-12):
        raise ValueError(
            f"successes: got {successes} of {count}, allowed: 0 <= successes <= count (a sum of scores, not a mean)"
        )
    lo, hi = _wilson(np.asarray([min(successes, count)], dtype=np.float64), np.asarray([count]), level)
    return float(lo[0]), float(hi[0])


def wilson_mean(mean: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """`wilson` for those who hold the mean of `count` scores in [0, 1]; ValueError for a mean outside."""
    if not 0 <= mean <= 1:
        raise ValueError(f"mean: got {mean}, allowed: 0 .. 1")
    return wilson(mean * count, count, level)


def t_interval(values, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of `values` (one a seed, say): (lo, hi), or None for fewer than two values.

    Raises ValueError for values that are not finite.
    """
    values = _finite("values", values)
    if len(values) < 2:
        return None
    half = t_quantile(level, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def summary(values, level: float = 0.95) -> dict:
    """What to print of one number over seeds: n, mean, median, min, max, sd and ci (the last two None below two values)."""
    values = _finite("values", values)
    if not len(values):
        raise ValueError("values: got none, allowed: one a seed, at least one")
    interval = t_interval(values, level)
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "sd": float(values.std(ddof=1)) if interval else None,
        "ci": list(interval) if interval else None,
    }


def binned(values, xs, bins: str = "auto", interval: str = "wilson", level: float = 0.95) -> list[dict]:
    """The mean of per-item `values` as a function of `xs`.

    values: (N,) scores in [0, 1]; any finite numbers (losses) with interval="mean".  xs: (N,) numbers, or strings or bools, which are categories.
    bins: see `bin_edges`.  interval: "wilson", or "mean" for Student's interval of the mean.
    Returns the bins that hold an item, in order: {"lo", "hi" (or "name"), "value", "count", "ci"}; counts are exact, numbers plain Python ones,
    ci is [lo, hi], or None where "mean" has a single item. Raises ValueError for lengths that differ, values outside, or a rule that does not fit.
    """
    values = _finite("values", values)
    if len(values) != len(xs):
        raise ValueError(
            f"values and xs: got {len(values)} and {len(xs)} items, allowed: as many of one as of the other"
        )
    if interval not in ("wilson", "mean"):
        raise ValueError(f"interval: got '{interval}', allowed: wilson, mean")
    if interval == "wilson" and len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"values: got {values.min()} .. {values.max()}, allowed: 0 .. 1; use interval='mean' for a loss"
        )
    names, index = bin_edges(xs, bins)
    count = np.bincount(index, minlength=len(names))
    mean = np.bincount(index, weights=values, minlength=len(names)) / np.maximum(count, 1)
    if interval == "wilson":
        ci = np.stack(_wilson(np.minimum(mean * count, count), count, level), axis=1).tolist()
    else:
        ci = _mean_intervals(values, index, mean, count, level)
    return [
        {**names[i], "value": float(mean[i]), "count": int(count[i]), "ci": ci[i]}
        for i in range(len(names))
        if count[i]
    ]


def bin_edges(xs, bins: str = "auto") -> tuple[list[dict], np.ndarray]:
    """The bins of a rule over `xs` (N,), some of which may be empty, and the bin (N,) that each item falls into.

    each: a bin a distinct value (lo = hi).  linear: ten equal ones from the least to the largest value.  log2: [2^k, 2^(k+1)), and one that
    holds 0 alone.  auto: each up to 24 distinct values, else linear.  lo belongs to a bin and hi does not, but for the last linear one.
    Categories ({"name"}, sorted) have no other rule than each, which is also their auto.
    """
    if bins not in BIN_RULES:
        raise ValueError(f"bins: got '{bins}', allowed: {', '.join(BIN_RULES)}")
    xs = np.asarray(xs)
    if not xs.size:
        return [], np.zeros(0, dtype=np.int64)
    if is_category(xs):
        return _categories(xs, bins)
    xs = _finite("xs", xs)
    distinct, index = np.unique(xs, return_inverse=True)
    if bins == "each" or (bins == "auto" and len(distinct) <= MOST_DISTINCT) or (bins != "log2" and len(distinct) == 1):
        return [{"lo": float(v), "hi": float(v)} for v in distinct], index
    return _log2_bins(xs) if bins == "log2" else _linear_bins(xs, distinct[0], distinct[-1])


def scale_of(xs, bins: str) -> str:
    """The `scale` of a slice whose bins follow this rule: linear, log2 or category."""
    return "category" if is_category(np.asarray(xs)) else "log2" if bins == "log2" else "linear"


def is_category(xs: np.ndarray) -> bool:
    """Whether xs are names (strings, or bools, which read no and yes) rather than numbers."""
    return xs.dtype.kind in "USb" or (xs.dtype == object and all(isinstance(x, (str, bool)) for x in xs))


def t_quantile(level: float, freedom: int) -> float:
    """t such that Student's distribution with `freedom` degrees (a whole number >= 1) has `level` of its mass in [-t, t]."""
    z = _z(level)
    if freedom < 1:
        raise ValueError(f"freedom: got {freedom}, allowed: >= 1")
    if freedom > 100:  # the series would be long, and the expansion is good to 1e-6 here (26.7.5)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_mass(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_mass(angle: float, freedom: int) -> float:
    """The mass of Student's distribution in [-t, t], angle = atan(t / sqrt(freedom)): a finite series (26.7.3 odd, 26.7.4 even)."""
    odd = freedom % 2
    cosine = math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):  # terms in cos^(k-1): odd powers for odd degrees, even ones for even
        total += term
        term *= cosine**2 * k / (k + 1)
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, allowed: between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def _wilson(successes: np.ndarray, count: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    z = _z(level)
    n = np.maximum(count, 1)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # at a share of 0 or 1 one end is exact, which rounding would miss by 1e-17
    lo = np.where((count == 0) | (share == 0), 0.0, np.maximum(centre - half, 0.0))
    hi = np.where((count == 0) | (share == 1), 1.0, np.minimum(centre + half, 1.0))
    return lo, hi


def _mean_intervals(values, index, mean, count, level) -> list:
    squares = np.bincount(index, weights=(values - mean[index]) ** 2, minlength=len(count))
    intervals = []
    for m, s, n in zip(mean.tolist(), squares.tolist(), count.tolist(), strict=True):
        half = t_quantile(level, n - 1) * math.sqrt(s / (n - 1) / n) if n > 1 else None
        intervals.append(None if half is None else [m - half, m + half])
    return intervals


def _categories(xs: np.ndarray, bins: str):
    if bins not in ("auto", "each"):
        raise ValueError(f"bins: got '{bins}' for names such as '{xs[0]}', allowed: each, auto")
    names = np.array([("no", "yes")[x] if isinstance(x, bool) else str(x) for x in xs.tolist()])
    distinct, index = np.unique(names, return_inverse=True)
    return [{"name": str(name)} for name in distinct], index


def _linear_bins(xs, least, most):
    edges = np.linspace(least, most, LINEAR_BINS + 1)
    index = np.clip(np.searchsorted(edges, xs, side="right") - 1, 0, LINEAR_BINS - 1)
    return [{"lo": float(a), "hi": float(b)} for a, b in itertools.pairwise(edges)], index


def _log2_bins(xs):
    if xs.min() < 0:
        raise ValueError(f"xs: got {xs.min()}, allowed: >= 0 for log2 bins; drop the items that have no value")
    exponent = np.frexp(xs)[1] - 1  # floor(log2(x)) without rounding
    powers, index = np.unique(exponent[xs > 0], return_inverse=True)
    bins = [{"lo": math.ldexp(1.0, int(k)), "hi": math.ldexp(1.0, int(k) + 1)} for k in powers]
    if len(index) == len(xs):
        return bins, index
    zero = {"lo": 0.0, "hi": min([1.0, *(b["lo"] for b in bins[:1])])}
    with_zero = np.zeros(len(xs), dtype=np.int64)
    with_zero[xs > 0] = index + 1
    return [zero, *bins], with_zero


def _finite(name: str, values) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {values!r:.80}, allowed: numbers") from None
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}, allowed: one dimension")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: got {array[~np.isfinite(array)][0]} at {int(np.argmax(~np.isfinite(array)))}, allowed: finite numbers"
        )
    return array
