"""Masks: who may see whom. True means "may be seen"; every mask fits scores (B, H, queries, keys) by broadcasting."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=256)
def causal(n: int) -> np.ndarray:
    """(n, n) bool: token i sees the tokens 0 .. i. Read-only, because it is kept for the next call.

    causal(3) -> [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    mask = np.tril(np.ones((n, n), dtype=bool))
    mask.flags.writeable = False
    return mask


def key_pad(real: np.ndarray) -> np.ndarray:
    """(B, 1, 1, S) bool from real (B, S), True at real tokens: nobody sees padding, whatever the head and the query."""
    return real[:, None, None, :]
