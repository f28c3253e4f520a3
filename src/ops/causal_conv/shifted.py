"""The causal convolution as K shifted sums in torch, on any device.

The backward pass is written out. Autograd would keep the sum before the activation as well as x. Here it is computed
again from x, with K multiply-adds per number.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable


def run(x, weight, bias, state, activation):
    """Outputs (B, T, D) in x's dtype.

    weight (D, K), bias (D,) or None, and state (B, K - 1, D) or None share one dtype, float32 or float64.
    """
    return _ShiftedSums.apply(x, weight, bias, state, activation)


class _ShiftedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, state, activation):
        ctx.save_for_backward(x, weight, bias, state)
        ctx.activation = activation
        y = _sums(_joined(x, state, weight), weight, bias)
        return (torch.nn.functional.silu(y, inplace=True) if activation == "silu" else y).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, state = ctx.saved_tensors
        K, T = weight.shape[1], x.shape[1]
        inputs = _joined(x, state, weight)
        g = dy.to(weight.dtype)
        if ctx.activation == "silu":
            g = torch.ops.aten.silu_backward(g, _sums(inputs, weight, bias))
        dinputs = torch.zeros_like(inputs)
        dweight = torch.empty_like(weight)
        for i in range(K):
            dinputs[:, i : i + T].addcmul_(g, weight[:, i])
            dweight[:, i] = (g * inputs[:, i : i + T]).sum(dim=(0, 1))
        dbias = None if bias is None else g.sum(dim=(0, 1))
        return dinputs[:, K - 1 :].to(x.dtype), dweight, dbias, None if state is None else dinputs[:, : K - 1], None


def _joined(x, state, weight):
    """state and x along time, (B, K - 1 + T, D), in the dtype of weight."""
    before = weight.shape[1] - 1
    if not before:
        return x.to(weight.dtype)
    if state is None:
        state = weight.new_zeros(1, 1, 1).expand(len(x), before, x.shape[2])
    return torch.cat([state, x.to(weight.dtype)], dim=1)


def _sums(inputs, weight, bias):
    """bias + sum_i weight_i * inputs shifted by i: (B, T, D)."""
    K = weight.shape[1]
    T = inputs.shape[1] - K + 1
    y = inputs[:, :T] * weight[:, 0] if bias is None else torch.addcmul(bias, inputs[:, :T], weight[:, 0])
    for i in range(1, K):
        y.addcmul_(inputs[:, i : i + T], weight[:, i])
    return y
