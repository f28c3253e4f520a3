"""The definition of the product of a SwiGLU, in float64."""

from __future__ import annotations


def swiglu_reference(gate, up):
    """gate, up (..., F) -> (..., F) float64, differentiable."""
    gate, up = gate.double(), up.double()
    return gate / (1 + (-gate).exp()) * up
