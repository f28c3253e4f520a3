"""Sums of many numbers that come in parts, equal to the last bit to NumPy's sums of all of them at once.

    total = PairwiseSum(5)
    total.add(np.array([1.0, 2.0])), total.add(np.array([3.0, 4.0, 5.0]))
    total.value                                     # np.array([1.0, 2.0, 3.0, 4.0, 5.0]).sum()

    table = add_to(None, index, weights, size)      # np.bincount(index, weights, size)
    table = add_to(table, more, weights, size)      # np.bincount of both parts, in their order

So a result does not depend on whether the numbers fit into memory. NumPy adds an array in halves (pairwise summation,
Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, section 4.2), and the weights of a bin one
after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LEAF = 1 << 16  # numbers that NumPy adds at once; it needs at least its own 128


class PairwiseSum:
    """The sum of `count` float64 numbers, which `add` gets in their order."""

    def __init__(self, count: int):
        self._plan = _plan(count)
        self._wanted = next(self._plan)
        self._parts: list[np.ndarray] = []
        self._held = 0
        self._sums: list[float] = []

    def add(self, values: np.ndarray) -> None:
        """Add the next numbers. Raises ValueError for more than `count` in all."""
        self._parts.append(values)
        self._held += len(values)
        if self._held < self._wanted:
            return
        values, used = np.concatenate(self._parts), 0
        while self._wanted and len(values) - used >= self._wanted:
            self._sums.append(float(np.sum(values[used : used + self._wanted])))
            used += self._wanted
            self._wanted = self._add_halves()
        self._parts, self._held = [values[used:].copy()], len(values) - used
        if self._held and not self._wanted:
            raise ValueError(f"values: got {self._held} more than were announced")

    def _add_halves(self) -> int:
        """Add the halves that are complete. Returns the size of the next leaf, 0 after the last one."""
        for step in self._plan:
            if step:
                return step
            right = self._sums.pop()
            self._sums[-1] += right
        return 0

    @property
    def value(self) -> float:
        """The sum. Raises ValueError while numbers are missing."""
        if self._wanted:
            raise ValueError(f"values: fewer than were announced, the next {self._wanted - self._held} are missing")
        return self._sums[0]


def _plan(count: int) -> Iterator[int]:
    """The steps of NumPy's pairwise sum in their order: the size of the next leaf, or 0 to add the last two sums."""
    if count <= LEAF:
        yield count
        return
    half = count // 2
    half -= half % 8
    yield from _plan(half)
    yield from _plan(count - half)
    yield 0


def add_to(table: np.ndarray | None, index: np.ndarray, weights: np.ndarray | None, size: int) -> np.ndarray:
    """`np.bincount(index, weights, size)` with the items before it. table: (size,), the sums so far, None at first.

    weights: (N,), or None to count. Each sum goes on from its value in `table`, one weight after the other.
    """
    if table is None:
        return np.bincount(index, weights=weights, minlength=size)
    if weights is None:
        return table + np.bincount(index, minlength=size)
    places = np.concatenate([np.arange(size), index])
    return np.bincount(places, weights=np.concatenate([table, weights]), minlength=size)
