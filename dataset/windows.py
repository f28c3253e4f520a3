"""Windows of a text, random ones for training and consecutive ones for evaluation. A window is a (start, end) span."""

from __future__ import annotations

import numpy as np


def epoch_windows(n_chars: int, context_len: int) -> int:
    """Training windows per epoch: as many as cover the text once."""
    return -(-n_chars // context_len)


def windows_random(ids, n: int, context_len: int, rng: np.random.Generator) -> np.ndarray:
    """n windows at uniform random offsets: (n, 2) int64, their (start, end). ids: characters or their ids."""
    starts = rng.integers(0, len(ids) - context_len + 1, size=n)
    return np.stack([starts, starts + context_len], axis=1)


def windows_consecutive(n_chars: int, context_len: int) -> list[tuple[int, int]]:
    """(start, end) of the windows that cover a text once, in order. The last window may be shorter."""
    return [(start, min(start + context_len, n_chars)) for start in range(0, n_chars, context_len)]
