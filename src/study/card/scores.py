"""The score of a run in a row of the card, and how far sampling the test set may move it.

    score = score_of(row, ("value", "at_mean"))       # row: of results.csv, or of a table of baselines
    score.value                                       # the mean of the scaled columns: 0 chance, 1 the best possible
    mean, low, high = mean_of([score, ...])           # over seeds

A scaled column is (score - chance) / (ceiling - chance). `value` is the primary metric on the test set, `at_mean` its
mean over the lengths beyond training. A run that diverged, and a model without a score at such lengths, scores 0 there,
and the score says so. A score below chance counts as 0 too: to be worse than chance is no ability that ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.stats.intervals import t_quantile
from src.study.card.suite import BEYOND, VALUE

LEVEL = 0.95
NORMAL = 1.959963984540054  # the 97.5 % quantile of the normal distribution
DIVERGED = "diverged"


@dataclass(frozen=True)
class Score:
    """One run. within, beyond: scaled, at the lengths of training and beyond (None where the row has none).

    raw: the primary metric on the test set.  error: the standard error of `value` by sampling the test set.
    data: the digest of the test set; empty: unknown.  diverged: it counts as 0.  lacks_beyond: the row has lengths
    beyond training, and the model no score there, which counts as 0.
    """

    value: float
    within: float
    beyond: float | None
    raw: float
    error: float
    data: str = ""
    diverged: bool = False
    lacks_beyond: bool = False


def score_of(row: Mapping, measure: Sequence[str]) -> Score:
    """The score of a finished run."""
    diverged = row["status"] == DIVERGED
    scale = (row["ceiling"] - row["chance"]) or 1.0
    within = 0.0 if diverged else max(0.0, float(row["scaled"]))
    errors = [_error(row, VALUE, scale)]
    beyond = found = None
    if BEYOND in measure:
        found = None if diverged else _beyond(row, scale)
        beyond = max(0.0, found or 0.0)
        errors.append(_error(row, beyond_column(row), scale))
    parts = [within] if beyond is None else [within, beyond]
    return Score(
        value=sum(parts) / len(parts),
        within=within,
        beyond=beyond,
        raw=float(row["value"]),
        error=0.0 if diverged else math.sqrt(sum(e * e for e in errors)) / len(parts),
        data=str(row.get("data_digest") or "")[:DATA_DIGITS],
        diverged=diverged,
        lacks_beyond=beyond is not None and found is None and not diverged,
    )


DATA_DIGITS = 12  # of a digest of the test set, enough to tell test sets apart


def beyond_column(row: Mapping) -> str:
    """The column of lengths beyond training: the mean over several, or the only length."""
    if row.get(BEYOND) is not None:
        return BEYOND
    lengths = [name for name in row if name.startswith("at_") and name[3:].isdigit() and row[name] is not None]
    return max(lengths, key=lambda name: int(name[3:]), default=BEYOND)


def _beyond(row: Mapping, scale: float) -> float | None:
    """The scaled score beyond training; None where the model has no score there."""
    column = beyond_column(row)
    scaled = row.get(f"{column}_scaled")
    if _is_number(scaled):
        return float(scaled)
    value = row.get(column)
    return (float(value) - row["chance"]) / scale if _is_number(value) else None


def _error(row: Mapping, column: str, scale: float) -> float:
    """The standard error of a column by its 95 % interval of test sampling, on the scale from chance to the ceiling."""
    prefix = "" if column == VALUE else f"{column}_"
    low, high = row.get(f"{prefix}low"), row.get(f"{prefix}high")
    if not (_is_number(low) and _is_number(high)):
        return 0.0
    return (high - low) / (2 * NORMAL) / abs(scale)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def mean_of(scores: Sequence[Score]) -> tuple[float, float | None, float | None]:
    """(mean, low, high) over seeds, within the range of a score; no interval for one seed, nor if all have diverged."""
    values = [score.value for score in scores]
    mean, low, high = interval(values, [score.error for score in scores], share_test_set(scores))
    if low is None or all(score.diverged for score in scores):
        return mean, None, None
    return mean, max(0.0, low), min(1.0, high)


def in_words(value: float, low: float | None, high: float | None) -> str:
    """'0.98 [0.95, 1.00]', or '0.98' without an interval."""
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def share_test_set(scores: Sequence[Score]) -> bool:
    """Whether all seeds are tested on the same sequences, as on a text. Their sampling errors are then one error."""
    return len(scores) > 1 and bool(scores[0].data) and len({score.data for score in scores}) == 1


def interval(
    values: Sequence[float], errors: Sequence[float], is_one_test: bool
) -> tuple[float, float | None, float | None]:
    """The mean over seeds with its 95 % interval: the squares of Student's over seeds and of test sampling added.

    errors: standard errors by test sampling, one per seed. With few seeds that happen to be equal, Student's interval
    has no width; the sampling of the test set is then what is left. is_one_test: the seeds share the test sequences, so
    their mean has the error of one.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None, None
    by_seeds = t_quantile(LEVEL, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    squares = sum(e * e for e in errors) / n
    sampling = NORMAL * math.sqrt(squares if is_one_test else squares / n)
    half = math.hypot(by_seeds, sampling)
    return mean, mean - half, mean + half
