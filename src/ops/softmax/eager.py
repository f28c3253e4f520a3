"""Softmax and cross-entropy by torch's own functions, on any device."""

from __future__ import annotations

import torch.nn.functional as F

from src.ops.precision import accumulation_dtype


def run(x):
    """(..., C) -> probabilities (..., C) in x's dtype."""
    return F.softmax(x, dim=-1, dtype=accumulation_dtype(x)).to(x.dtype)


def run_cross_entropy(logits, target, label_smoothing: float, ignore_index: int):
    """Arguments as in `cross_entropy`, already checked: a scalar, float32 at least."""
    logits = logits.to(accumulation_dtype(logits))
    return F.cross_entropy(logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing)
