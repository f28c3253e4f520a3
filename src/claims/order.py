"""The frontier of recall against state, beside the published one: the order of the layers at equal bytes of state.

    words = compared(points)        # points: {family: [(bytes, score, low, high), ...]} of src/claims/figures.py

A family's score at a number of bytes is read off its line, straight between two sizes on a logarithmic axis. Published
points: the figure of Zoology's README, read off to about .02. The sizes, tasks and layers there are larger, so only the
order compares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

PUBLISHED = {
    "deltanet": ((9.0e3, 0.79), (3.4e4, 0.96), (1.3e5, 0.995)),
    "gated_deltanet": ((1.7e4, 0.89), (6.7e4, 0.99), (2.6e5, 0.995)),
    "gla --short_conv 4": ((4.8e3, 0.53), (1.8e4, 0.77), (6.8e4, 0.95)),
    "mamba": ((8.2e3, 0.52), (1.6e4, 0.70), (4.9e4, 0.76), (9.8e4, 0.85)),
    "mamba2 --d_state 16": ((8.2e3, 0.52), (1.6e4, 0.69), (3.3e4, 0.785), (6.6e4, 0.83), (9.8e4, 0.845)),
}
CLOSE = 0.02  # scores that differ by less are level, here and there


def score_at(line: Sequence[Sequence[float]], size: float) -> float | None:
    """The score of a line at so many bytes; None outside of it."""
    for left, right in itertools.pairwise(sorted(line)):
        if left[0] <= size <= right[0]:
            share = math.log(size / left[0]) / math.log(right[0] / left[0])
            return left[1] + share * (right[1] - left[1])
    return None


def middle(lines: Mapping[str, Sequence]) -> float | None:
    """The geometric middle of the bytes that all lines share; None where they share none."""
    low = max(min(p[0] for p in line) for line in lines.values())
    high = min(max(p[0] for p in line) for line in lines.values())
    return math.sqrt(low * high) if low <= high else None


def ordered(lines: Mapping[str, Sequence], size: float) -> list[tuple[str, float]]:
    """(family, its score at these bytes), the best first."""
    found = [(name, score_at(line, size)) for name, line in lines.items()]
    return sorted(((n, s) for n, s in found if s is not None), key=lambda pair: -pair[1])


def compared(points: Mapping[str, Sequence]) -> str:
    """In words: the order at equal bytes here and in the published figure, and how many pairs have the same order."""
    mine = {name: points[name] for name in PUBLISHED if name in points}
    theirs = {name: PUBLISHED[name] for name in mine}
    here, there = (middle(lines) if len(lines) > 1 else None for lines in (mine, theirs))
    if here is None or there is None:
        return "The layers share no number of bytes, so their order at equal state is not known."
    a, b = dict(ordered(mine, here)), dict(ordered(theirs, there))
    pairs = [(x, y) for x, y in itertools.combinations(b, 2) if b[x] - b[y] > CLOSE]
    same = sum(a[x] - a[y] > CLOSE for x, y in pairs)
    level = sum(abs(a[x] - a[y]) <= CLOSE for x, y in pairs)
    return (
        f"At {here:,.0f} bytes the order here is {_listed(a)}. In the published figure, at {there:,.0f} bytes, it is "
        f"{_listed(b)}. Of the {len(pairs)} pairs that differ there, {same} have the same order here, {level} are "
        f"level within {CLOSE:g}, and {len(pairs) - same - level} are reversed."
    )


def _listed(scores: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}` {score:.2f}" for name, score in scores.items())
