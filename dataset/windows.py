"""Windows of a text, random ones for training and consecutive ones for evaluation.

A window of T characters reads c0 .. c(T-1) and predicts c1 .. cT, so it takes T + 1 characters of the text. It is
written as a (start, end) span of the characters that it reads: text[start:end] predicts text[start + 1 : end + 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # windows that are held at once


def epoch_windows(n_chars: int, context_len: int) -> int:
    """Training windows per epoch: as many as cover the text once."""
    return -(-n_chars // context_len)


def windows_random(ids, n: int, context_len: int, rng: np.random.Generator) -> np.ndarray:
    """n windows at uniform random offsets: (n, 2) int64, their (start, end). ids: characters or their ids.

    There must be more than context_len ids.
    """
    starts = rng.integers(0, len(ids) - context_len, size=n)
    return np.stack([starts, starts + context_len], axis=1)


@dataclass(frozen=True)
class Consecutive:
    """The windows that predict every character of a text once, except the first one, in order.

    windows[3] is the (start, end) of one of them, windows[rows] those of many, (n, 2) int64. They are computed when
    they are asked for, so that memory does not grow with the text. The last window may be shorter. A text of fewer than
    two characters has no window.
    """

    n_chars: int
    context_len: int

    def __len__(self) -> int:
        return epoch_windows(max(0, self.n_chars - 1), self.context_len)

    def __getitem__(self, rows: int | np.ndarray) -> np.ndarray:
        if isinstance(rows, int) and not 0 <= rows < len(self):  # this also ends a loop over the windows
            raise IndexError(f"window: got {rows}, allowed: 0 to {len(self) - 1}")
        start = np.asarray(rows, dtype=np.int64) * self.context_len
        return np.stack([start, np.minimum(start + self.context_len, self.n_chars - 1)], axis=-1)

    def first(self, n: int) -> Consecutive:
        """The first n windows, or all of them where there are fewer."""
        return Consecutive(min(self.n_chars, n * self.context_len + 1), self.context_len)

    @property
    def longest(self) -> int:
        """Tokens of the longest window, which is the first one."""
        return max(0, min(self.context_len, self.n_chars - 1))


def blocks_of(windows: Consecutive | np.ndarray) -> Iterator[np.ndarray]:
    """All windows in order, BLOCK at once: (n, 2)."""
    for at in range(0, len(windows), BLOCK):
        yield windows[np.arange(at, min(at + BLOCK, len(windows)))]
