"""A layer beside the published ones in one row: ahead, behind, or no difference shown; its rank, and the nearest layer.

    against = compare(mine, theirs)                # Against: difference with interval, and a word
    place = place_of({"mamba": against, ...})      # Place: "3-5 of 14"

Seeds are the unit. The seeds of a row see the same data in every model, so differences are taken seed by seed. The
interval adds the squares of Student's over the seeds and of sampling the test sets of both models, as if these were
independent; that is too wide where both fail on the same sequences, never too narrow. A difference below LEAST is never
called one, however sure it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from src.study.card.scores import Score, interval, share_test_set

AHEAD, BEHIND, SAME = "ahead", "behind", "no difference shown"
LEAST = 0.01  # of the way from chance to the best possible score
TIE = 0.01  # layers whose differences are equal up to this are equally near in a row


@dataclass(frozen=True)
class Against:
    """value: the mean over common seeds of this layer's score minus the other's.  n: common seeds."""

    value: float
    low: float | None
    high: float | None
    n: int
    word: str


@dataclass(frozen=True)
class Place:
    """A place among the published layers and this one: from `best` to `worst` of `of`, 1 the highest score."""

    best: int
    worst: int
    of: int

    @property
    def words(self) -> str:
        """'3-5 of 14', or '4 of 14'; empty where there is no other layer."""
        if self.of < 2:
            return ""
        ends = f"{self.best}" if self.best == self.worst else f"{self.best}-{self.worst}"
        return f"{ends} of {self.of}"


def compare(mine: Mapping[int, Score], theirs: Mapping[int, Score]) -> Against | None:
    """The difference over the seeds that both have; None where fewer than two are common."""
    seeds = sorted(mine.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    pairs = [(mine[seed], theirs[seed]) for seed in seeds]
    errors = [math.hypot(a.error, b.error) for a, b in pairs]
    value, low, high = interval([a.value - b.value for a, b in pairs], errors, share_test_set([a for a, _ in pairs]))
    return Against(value, low, high, len(seeds), word_of(value, low, high))


def word_of(value: float, low: float, high: float) -> str:
    """The verdict about a difference and its interval."""
    if value >= LEAST and low > 0:
        return AHEAD
    if value <= -LEAST and high < 0:
        return BEHIND
    return SAME


def place_of(against: Mapping[str, Against]) -> Place:
    """The places that the verdicts leave open: after all that are ahead, before all that are behind."""
    words = [found.word for found in against.values()]
    total = len(words) + 1
    return Place(1 + words.count(BEHIND), total - words.count(AHEAD), total)


def profile_distance(mine: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The root of the mean square difference over the rows. {row: score}. Infinite where the other one lacks a row.

    A layer with records of two rows would else be the nearest of all by these two.
    """
    if not mine or mine.keys() - theirs.keys():
        return math.inf
    return math.sqrt(sum((mine[row] - theirs[row]) ** 2 for row in mine) / len(mine))


def nearest(against: Mapping[str, Against], distances: Mapping[str, float]) -> str:
    """The layer with the nearest score in a row; among ties the one that is nearest over all rows. Empty for none.

    distances: {layer: its profile distance}.
    """
    if not against:
        return ""
    least = min(abs(found.value) for found in against.values())
    ties = [label for label, found in against.items() if abs(found.value) <= least + TIE]
    return min(ties, key=lambda label: (distances.get(label, math.inf), abs(against[label].value)))
