"""The loss: how improbable the right words were."""

from __future__ import annotations

import numpy as np


def cross_entropy_masked(logits: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of -log softmax(logits)[target] over the places that count: (loss, dlogits (B, T, V)).

    The unit of the loss is nats per target token.

    logits: (B, T, V).  targets: (B, T) int, in 0 .. V - 1.  mask: (B, T) bool, True at the places that count; at least
    one must. With p = softmax(logits): dlogits = (p - one_hot(target)) / number of places, and 0 elsewhere.
    """
    at = np.flatnonzero(mask)
    wanted = targets.ravel()[at]
    rows = logits.reshape(-1, logits.shape[-1])
    chosen = rows[at] if at.size < len(rows) else rows  # (N, V)
    shifted = chosen - chosen.max(axis=-1, keepdims=True)
    p = np.exp(shifted)
    sums = p.sum(axis=-1, keepdims=True)
    places = np.arange(at.size)
    loss = float(np.mean(np.log(sums[:, 0]) - shifted[places, wanted], dtype=np.float64))
    p /= sums
    p[places, wanted] -= 1
    p /= at.size
    if at.size == len(rows):
        return loss, p.reshape(logits.shape)
    dlogits = np.zeros_like(rows)
    dlogits[at] = p
    return loss, dlogits.reshape(logits.shape)
