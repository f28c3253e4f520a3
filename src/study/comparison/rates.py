"""The learning rates of a comparison: a grid per (task, setting), a choice on val per model, and where the grid grows.

All models of a task and setting share one grid, so that each of them gets the same number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HALF_DECADE = 10**0.5
NEAR = 0.05  # a rate is good if its score on val is at most so much below the best one, as a share of the scale


@dataclass(frozen=True)
class Trial:
    """What one learning rate gave on val: the primary metric (chance after a divergence) and the loss (infinite then).

    failed: the run has no result at all.  chance: the highest chance level.
    """

    score: float
    loss: float
    failed: bool = False
    chance: float = 0.0

    @property
    def order(self) -> tuple[float, float]:
        """Larger is better: the score, and at equal scores the lower loss."""
        return (-math.inf, -math.inf) if self.failed else (self.score, -self.loss)


def half_decades(rate: float) -> tuple[float, float, float]:
    """Three rates, half a decade apart, around this one: 1e-3, 3e-3, 1e-2 around 3e-3."""
    return (_neighbour(rate, -1), rate, _neighbour(rate, 1))


def _neighbour(rate: float, direction: int) -> float:
    """The next rate of the series 1, 3, 10, 30, ...; for a rate outside the series, times 10^0.5 to two digits."""
    exponent = math.floor(math.log10(rate) + 1e-9)
    digit = rate / 10**exponent
    for start, up, down in ((1, 3, 0.3), (3, 10, 1)):
        if math.isclose(digit, start, rel_tol=1e-9):
            return float(f"{(up if direction > 0 else down) * 10**exponent:.6g}")
    return float(f"{rate * HALF_DECADE**direction:.2g}")


def choose(trials: Mapping[float, Trial]) -> float | None:
    """The rate with the best score on val, at equal scores the lower loss; None where every run failed."""
    known = {rate: trial for rate, trial in trials.items() if not trial.failed}
    return max(known, key=lambda rate: known[rate].order) if known else None


def edges(grid: Sequence[float], chosen: Sequence[float | None]) -> set[int]:
    """The ends of the grid (-1 the smallest, 1 the largest) at which the choice of some model lies."""
    low, high = min(grid), max(grid)
    found = {-1 for rate in chosen if rate == low} | {1 for rate in chosen if rate == high}
    return found if low < high else set()


def grown(grid: Sequence[float], ends: set[int]) -> list[float]:
    """The rates that lie beyond these ends of the grid, as far off as the last two of it are apart."""
    rates = sorted(grid)
    new = []
    if -1 in ends:
        new.append(_beyond(rates[0], rates[1], -1))
    if 1 in ends:
        new.append(_beyond(rates[-1], rates[-2], 1))
    return new


def _beyond(end: float, inner: float, direction: int) -> float:
    ratio = max(end, inner) / min(end, inner)
    if 3 <= ratio <= 10 / 3 * (1 + 1e-9):
        return _neighbour(end, direction)
    return float(f"{end * ratio**direction:.3g}")


def good_decades(trials: Mapping[float, Trial], chance: float, ceiling: float = 1.0) -> float | None:
    """The width, in decades, of the range of rates around the best one that are good (NEAR). 0 for a single rate.

    None where even the best rate is not NEAR above chance, so that no rate is good.
    """
    best, near = choose(trials), NEAR * (ceiling - chance)
    if best is None or trials[best].score < chance + near:
        return None
    limit = trials[best].score - near
    rates = sorted(trials)
    low = high = rates.index(best)

    def good(i: int) -> bool:
        return not trials[rates[i]].failed and trials[rates[i]].score >= limit

    while low > 0 and good(low - 1):
        low -= 1
    while high < len(rates) - 1 and good(high + 1):
        high += 1
    return math.log10(rates[high] / rates[low])
