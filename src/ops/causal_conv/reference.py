"""The definition of the causal convolution: a float64 loop over time, with no shortcut."""

from __future__ import annotations

import torch


def causal_conv_reference(x, weight, bias=None, state=None, activation: str | None = None):
    """The convolution of `causal_conv`, with the same arguments and shapes.

    Returns y (B, T, D) and the last K - 1 inputs (B, K - 1, D), both float64 and differentiable.
    """
    (B, T, D), K = x.shape, weight.shape[1]
    x, weight = x.double(), weight.double()
    before = torch.zeros(B, K - 1, D, dtype=torch.float64) if state is None else state.double()
    inputs = [before[:, i] for i in range(K - 1)] + [x[:, t] for t in range(T)]
    outputs = []
    for t in range(T):
        y = torch.zeros(B, D, dtype=torch.float64) if bias is None else bias.double().expand(B, D)
        for i in range(K):
            y = y + weight[:, i] * inputs[t + i]
        outputs.append(y * torch.sigmoid(y) if activation == "silu" else y)
    last = torch.stack(inputs[T:], dim=1) if K > 1 else before
    return torch.stack(outputs, dim=1), last
