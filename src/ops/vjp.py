"""Gradients of several outputs by their inputs, for the backward passes of the ops.

    gradients = vjp(outputs, inputs, weights)           # as torch.autograd.grad(outputs, inputs, weights)

torch.autograd.grad checks given weights with a module for symbolic shapes. Its import loads sympy, which takes half a
second. So the weights are given by a function of one number, whose gradient they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def vjp(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The sum over outputs of weight times the derivative of the output, for each input.

    Raises ValueError where a weight does not have the shape of its output.
    """
    for output, weight in zip(outputs, weights, strict=True):
        if output.shape != weight.shape:
            raise ValueError(f"weights: got {tuple(weight.shape)}, allowed: {tuple(output.shape)}, as the output")
    with torch.enable_grad():  # a backward pass records nothing by itself
        total = _Weighted.apply(weights, *outputs)
    return torch.autograd.grad(total, inputs)


class _Weighted(torch.autograd.Function):
    """A number whose gradient with respect to each output is the weight of that output."""

    @staticmethod
    def forward(ctx, weights, *outputs):
        ctx.weights = tuple(weights)
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx, _):
        return None, *ctx.weights
