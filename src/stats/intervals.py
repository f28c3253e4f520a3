"""Intervals and bins: what turns scores per item into numbers with error bars.

Every score is reported with its interval, and every curve with a count per bin, so that a difference can be told from
random variation. No random numbers are used: the same items give the same bytes.

    wilson(90, 100)                          -> (0.826, 0.945)      a share of scores from 0 to 1, also fractional ones
    t_interval([0.91, 0.94, 0.89])           -> (0.851, 0.976)      a mean over seeds
    clustered(hits, rows)                    -> {"value": 0.97, "ci": [...], "n_effective": 41.2, ...}
    binned(hits, gaps, "log2", clusters=rows) -> [{"lo": 8.0, "hi": 16.0, "value": 0.97, "count": 120, ...}, ...]

Items that share a cluster depend on each other, as the characters of one sequence do. Only clusters are independent.
The mean of all items is then a ratio of two sums over clusters, p = sum of h_c / sum of n_c, and its variance follows
from the residuals e_c = h_c - p n_c of the k clusters:

    var = k / (k - 1) * sum of e_c^2 / N^2,    design effect D = var / (s^2 / N),    effective sample size = N / D

N: items.  s^2: the variance of one item, with N - 1. Without clusters every item is its own cluster, and D is 1.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Cochran, "Sampling
Techniques", 3rd ed., 1977, section 6.3 (ratio). Kish, "Survey Sampling", 1965, section 8.2 (design effect). Korn &
Graubard, "Confidence intervals for proportions with small expected number of positive counts", 1998 (effective size).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np

from src.stats.sums import add_to

Parts = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]  # values, bin and cluster of some items
BIN_RULES = ("auto", "each", "linear", "log2")
INTERVAL_OF = "test sampling"  # what the interval of a score covers. It does not cover seeds.
MOST_DISTINCT = 24  # "auto" has one bin per value up to this many
LINEAR_BINS = 10


def wilson(successes: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share.

    successes: the *sum* of `count` scores in [0, 1], not their mean; it may be fractional.  level: in (0, 1).
    Returns (lo, hi) within [0, 1], and (0, 1) if count is 0. Raises ValueError unless 0 <= successes <= count.
    """
    if count < 0 or not 0 <= successes <= count * (1 + 1e-12):
        raise ValueError(
            f"successes: got {successes} of {count}, allowed: 0 <= successes <= count (a sum of scores, not a mean)"
        )
    check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    lo, hi = _wilson(np.asarray([min(successes, count)], dtype=np.float64), np.asarray([count]), z)
    return float(lo[0]), float(hi[0])


def t_interval(values, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval (lo, hi) for the mean of `values`; None for fewer than two values.

    Raises ValueError for values that are not finite.
    """
    values = finite("values", values)
    if len(values) < 2:
        return None
    half = t_quantile(level, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def clustered(values, clusters=None, interval: str = "wilson", level: float = 0.95) -> dict:
    """The mean of `values` with an interval over clusters, and what the interval rests on.

    values: (N,), at least one.  clusters: (N,) integers, the cluster of each item; None if every item is its own.
    interval: "wilson" for a share of scores in [0, 1], "mean" for any finite numbers, such as losses.

    "wilson" is Wilson's interval on the effective sample size. Its quantile is Student's on k - 1 degrees where the
    variance is estimated from k clusters (in simulations of 10 clusters at a share of .5 it covers 94 to 98 %, and the
    normal one 91 to 96 %). Where every item is its own cluster it is the normal one.
    D is at least 1, and it is moved towards N / k, its value if the items of a cluster all agree, with weight 2^-m.
    m counts the clusters that hold a hit, or those that hold a miss, whichever are fewer. With few of these the
    estimate of D means little (100 clusters, share .995, correlation .5: 80 % coverage with it alone, 96 % as here).
    At a share of 0 or 1 the estimate is 0 / 0. The effective sample size is then k, the number of clusters. That is
    conservative: the same data with independent items would be worth N.
    "mean" is Student's interval on k - 1 degrees.

    Returns {"value", "ci", "count", "units", "n_effective", "design_effect"}: units is k, and ci is [lo, hi], or None
    if "mean" has a single cluster.
    Raises ValueError for lengths that differ, no values, or values out of range.
    """
    values = _checked(values, interval)
    if not len(values):
        raise ValueError("values: got none, allowed: at least one")
    index, clusters = np.zeros(len(values), dtype=np.int64), _checked_clusters(clusters, len(values))
    cell, bin_of = _cells(index, clusters)
    return _estimates(lambda: [(values, index, cell)], bin_of, 1, interval, level)[0]


def binned(values, xs, bins: str = "auto", interval: str = "wilson", level: float = 0.95, clusters=None) -> list[dict]:
    """The mean of per-item `values` as a function of `xs`.

    values: (N,) scores in [0, 1]; with interval="mean" any finite numbers, such as losses.
    xs: (N,) numbers, or categories: strings or bools.  bins: see `bin_edges`.
    clusters, interval: as for `clustered`. In each bin the clusters are those of its own items.
    Returns the bins that hold an item, in order: {"lo", "hi" (or "name"), "value", "count", "ci", "n_effective"}.
    Numbers are Python's own. ci is [lo, hi], or None if "mean" has a single cluster.
    Raises ValueError for lengths that differ, values out of range, or a rule that does not fit.
    """
    values = _checked(values, interval)
    if len(values) != len(xs):
        raise ValueError(
            f"values and xs: got {len(values)} and {len(xs)} items, allowed: as many of one as of the other"
        )
    names, index = bin_edges(xs, bins)
    cell, bin_of = _cells(index, _checked_clusters(clusters, len(values)))
    return _filled(names, _estimates(lambda: [(values, index, cell)], bin_of, len(names), interval, level))


def clustered_parts(parts: Parts, clusters: int, interval: str = "wilson", level: float = 0.95) -> dict:
    """`clustered`, to the last bit, for items that come in parts because memory does not hold them all.

    parts: called twice. Each time it gives all items in the same order: values (n,), their bin, here 0, and their
        cluster (n,).
    clusters: how many there are. They are numbered from 0.
    """
    return _estimates_of_parts(parts, 1, clusters, interval, level)[0]


def binned_parts(
    parts: Parts, names: list[dict], clusters: int, interval: str = "wilson", level: float = 0.95
) -> list[dict]:
    """`binned`, to the last bit, for items that come in parts. Arguments as for `clustered_parts`.

    names: the bins, as `bin_edges` gives them. `parts` numbers them from 0.
    """
    return _filled(names, _estimates_of_parts(parts, len(names), clusters, interval, level))


def bin_edges(xs, bins: str = "auto") -> tuple[list[dict], np.ndarray]:
    """The bins of a rule over `xs` (N,), some of which may be empty, and the bin (N,) of each item.

    each: one bin per distinct value (lo = hi).  linear: ten equal bins from the smallest to the largest value.
    log2: [2^k, 2^(k+1)), and a bin for 0 alone.  auto: each up to 24 distinct values, else linear.
    lo belongs to a bin. hi does not, except in the last linear bin.
    Categories ({"name"}, sorted) have only the rule each, which is also their auto.
    """
    if bins not in BIN_RULES:
        raise ValueError(f"bins: got '{bins}', allowed: {', '.join(BIN_RULES)}")
    xs = np.asarray(xs)
    if not xs.size:
        return [], np.zeros(0, dtype=np.int64)
    if is_category(xs):
        return _categories(xs, bins)
    xs = finite("xs", xs)
    distinct, index = np.unique(xs, return_inverse=True)
    if bins == "each" or (bins == "auto" and len(distinct) <= MOST_DISTINCT) or (bins != "log2" and len(distinct) == 1):
        return [{"lo": float(v), "hi": float(v)} for v in distinct], index
    return _log2_bins(xs) if bins == "log2" else _linear_bins(xs, distinct[0], distinct[-1])


def scale_of(xs, bins: str) -> str:
    """The `scale` of a slice whose bins follow this rule: linear, log2 or category."""
    return "category" if is_category(np.asarray(xs)) else "log2" if bins == "log2" else "linear"


def is_category(xs: np.ndarray) -> bool:
    """Whether xs are names (strings, or bools, shown as no and yes) rather than numbers."""
    return xs.dtype.kind in "USb" or (xs.dtype == object and all(isinstance(x, (str, bool)) for x in xs))


def t_quantile(level: float, freedom):
    """t such that Student's distribution with `freedom` degrees has `level` of its mass in [-t, t].

    freedom: a number >= 1, or an array of them.
    """
    check_level(level)
    if np.min(freedom) < 1:
        raise ValueError(f"freedom: got {np.min(freedom)}, allowed: >= 1")
    from scipy.special import (
        stdtrit,
    )  # what scipy.stats.t.ppf calls, without the second that importing scipy.stats takes

    quantile = stdtrit(freedom, (1 + level) / 2)
    return float(quantile) if np.ndim(quantile) == 0 else quantile


def check_level(level: float) -> None:
    """ValueError unless the level of an interval is in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, allowed: between 0 and 1, such as 0.95")


def _wilson(successes: np.ndarray, count: np.ndarray, z) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's intervals of many shares. SciPy's own takes one share at a time, and whole successes only.

    count: may be fractional, an effective sample size; 0 or at least 1.  z: the quantile, a number or one per share.
    """
    n = np.maximum(count, 1)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At a share of 0 or 1 one end is exact; rounding would miss it by 1e-17.
    lo = np.where((count == 0) | (share == 0), 0.0, np.maximum(centre - half, 0.0))
    hi = np.where((count == 0) | (share == 1), 1.0, np.minimum(centre + half, 1.0))
    return lo, hi


def _filled(names: list[dict], found: list[dict]) -> list[dict]:
    """The bins that hold an item, with what is shown of their estimates."""
    kept = ("value", "count", "ci", "n_effective")
    return [{**name, **{k: e[k] for k in kept}} for name, e in zip(names, found, strict=True) if e["count"]]


def _estimates_of_parts(parts: Parts, size: int, clusters: int, interval: str, level: float) -> list[dict]:
    """`_estimates` where every bin has a cell for each of `clusters`, which may be empty."""

    def with_cells():
        for values, index, cluster in parts():
            yield _checked(values, interval), index, index * clusters + cluster

    return _estimates(with_cells, np.repeat(np.arange(size), clusters), size, interval, level)


def _estimates(parts: Parts, bin_of: np.ndarray, size: int, interval: str, level: float) -> list[dict]:
    """`clustered` of each of `size` bins, some of which may be empty.

    parts: gives (values, bin, cell) of the items, called twice. A cell is what a cluster has in one bin.
    bin_of: (cells,), the bin of each cell.
    """
    if not size:
        return []
    count = total = None
    for values, index, _ in parts():
        count, total = add_to(count, index, None, size), add_to(total, index, values, size)
    mean = total / np.maximum(count, 1)
    single, units, squares, mixed = _over_clusters(parts, bin_of, size, mean)
    freedom, n = np.maximum(units - 1, 1), np.maximum(count, 1)
    variance = squares / freedom / (n * (n / np.maximum(units, 1)))
    # Of single items this is again `variance`: a design effect of exactly 1.
    single = single / np.maximum(n - 1, 1) / n
    own = units == count
    effect = np.where(own | (single == 0), 1.0, variance / np.where(single > 0, single, 1.0))
    effect = np.where(units == 1, n, effect)  # one sequence tells nothing about the next
    if interval == "wilson":
        weight = np.where(units > 1, np.ldexp(1.0, -np.minimum(mixed, 1_000)), 1.0)
        effect = np.where(own, 1.0, np.maximum(1.0, (1 - weight) * effect + weight * n / np.maximum(units, 1)))
        size_of = np.maximum(count / effect, np.minimum(count, 1))
        # Without a second cluster, or one that differs, no variance is estimated.
        estimated = ~own & (units > 1) & (mixed > 0)
        quantile = np.where(estimated, t_quantile(level, freedom), NormalDist().inv_cdf((1 + level) / 2))
        ends = np.stack(_wilson(np.minimum(mean * size_of, size_of), size_of, quantile), axis=1).tolist()
    else:
        effect = np.where(effect > 0, effect, 1.0)
        size_of = count / effect
        half = t_quantile(level, freedom) * np.sqrt(variance)
        ends = np.stack((mean - half, mean + half), axis=1).tolist()
        ends = [pair if k > 1 else None for pair, k in zip(ends, units.tolist(), strict=True)]
    columns = (mean, ends, count, units, size_of.astype(float), effect)
    names = ("value", "ci", "count", "units", "n_effective", "design_effect")
    rows = zip(*(c if isinstance(c, list) else c.tolist() for c in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _cells(index: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The cell (N,) of each item, and the bin of each cell.  index: (N,), the bins of the items."""
    if clusters is None:
        return np.arange(len(index)), index
    _, number = np.unique(clusters, return_inverse=True)
    pairs = index * (number.max(initial=0) + 1) + number
    _, first, cell = np.unique(pairs, return_index=True, return_inverse=True)
    return cell, index[first]


def _over_clusters(parts: Parts, bin_of: np.ndarray, size: int, mean: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each bin: the squared residuals of its items, its clusters, their squared residuals, and how many are mixed.

    A residual is what an item, or a cluster, has more than the mean of its bin. Mixed counts the clusters with a hit or
    those with a miss, whichever are fewer.
    """
    single = residuals = items = hits = misses = None
    cells = len(bin_of)
    for values, index, cell in parts():
        more = values - mean[index]
        single, residuals = add_to(single, index, more**2, size), add_to(residuals, cell, more, cells)
        items = add_to(items, cell, None, cells)
        hits, misses = add_to(hits, cell[values > 0], None, cells), add_to(misses, cell[values < 1], None, cells)
    units, hit, miss = (np.bincount(bin_of, weights=n > 0, minlength=size) for n in (items, hits, misses))
    squares = np.bincount(bin_of, weights=residuals**2, minlength=size)
    return single, units.astype(np.int64), squares, np.minimum(hit, miss).astype(np.int64)


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


def _checked(values, interval: str) -> np.ndarray:
    """values as float64; ValueError unless they fit the interval."""
    values = finite("values", values)
    if interval not in ("wilson", "mean"):
        raise ValueError(f"interval: got '{interval}', allowed: wilson, mean")
    if interval == "wilson" and len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"values: got {values.min()} .. {values.max()}, allowed: 0 .. 1; use interval='mean' for a loss"
        )
    return values


def _checked_clusters(clusters, items: int) -> np.ndarray | None:
    if clusters is None:
        return None
    clusters = np.asarray(clusters)
    if clusters.shape != (items,) or clusters.dtype.kind not in "iu":
        raise ValueError(
            f"clusters: got {clusters.dtype} of shape {clusters.shape}, allowed: one integer per value, ({items},)"
        )
    return clusters


def finite(name: str, values) -> np.ndarray:
    """values as a float64 array (N,); ValueError, which names them, for anything else and for NaN or inf."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {values!r:.80}, allowed: numbers") from None
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}, allowed: one dimension")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: got {array[~np.isfinite(array)][0]} at {int(np.argmax(~np.isfinite(array)))}, "
            "allowed: finite numbers"
        )
    return array
