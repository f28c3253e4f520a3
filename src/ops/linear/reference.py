"""The definition of a linear map, in float64."""

from __future__ import annotations


def linear_reference(x, weight, bias=None):
    """x (..., I), weight (O, I), bias (O,) or None -> (..., O) float64, differentiable."""
    y = (x.double()[..., None, :] * weight.double()).sum(dim=-1)
    return y if bias is None else y + bias.double()
