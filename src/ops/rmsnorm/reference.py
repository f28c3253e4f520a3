"""The definition of the root mean square norm, row by row in float64."""

from __future__ import annotations


def rmsnorm_reference(x, weight=None, eps: float = 1e-5):
    """x (..., D), weight (D,) or None -> (..., D) float64, differentiable."""
    x = x.double()
    mean_square = (x * x).sum(dim=-1, keepdim=True) / x.shape[-1]
    y = x / (mean_square + eps).sqrt()
    return y if weight is None else y * weight.double()
