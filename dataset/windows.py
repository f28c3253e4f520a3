"""Windows of a text, random ones for training and consecutive ones for evaluation.

A window of T characters reads c0 .. c(T-1) and predicts c1 .. cT, so it takes T + 1 characters of the text. It is
written as a (start, end) span of the characters that it reads: text[start:end] predicts text[start + 1 : end + 1].
"""

from __future__ import annotations

import numpy as np


def epoch_windows(n_chars: int, context_len: int) -> int:
    """Training windows per epoch: as many as cover the text once."""
    return -(-n_chars // context_len)


def windows_random(ids, n: int, context_len: int, rng: np.random.Generator) -> np.ndarray:
    """n windows at uniform random offsets: (n, 2) int64, their (start, end). ids: characters or their ids.

    There must be more than context_len ids.
    """
    starts = rng.integers(0, len(ids) - context_len, size=n)
    return np.stack([starts, starts + context_len], axis=1)


def windows_consecutive(n_chars: int, context_len: int) -> list[tuple[int, int]]:
    """(start, end) of the windows that predict every character of a text once, except the first one, in order.

    The last window may be shorter. A text of fewer than two characters has no window.
    """
    return [(start, min(start + context_len, n_chars - 1)) for start in range(0, n_chars - 1, context_len)]
