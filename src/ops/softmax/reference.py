"""The definitions of softmax and cross-entropy in float64; only the largest number of a row is subtracted first."""

from __future__ import annotations

import torch


def softmax_reference(x):
    """x (..., C) -> (..., C) float64, differentiable."""
    x = x.double()
    powers = (x - x.max(dim=-1, keepdim=True).values).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def cross_entropy_reference(logits, target, label_smoothing: float = 0.0, ignore_index: int = -100):
    """logits (n, C), target (n,) -> a float64 scalar, differentiable: the mean of -sum_c wanted_c log softmax_c."""
    losses = []
    for row, wanted in zip(logits, target.tolist(), strict=True):
        if wanted != ignore_index:
            share = torch.full(row.shape, label_smoothing / len(row), dtype=torch.float64)
            share[wanted] += 1 - label_smoothing
            losses.append(-(share * softmax_reference(row).log()).sum())
    return torch.stack(losses).mean() if losses else logits.double().sum() * float("nan")
