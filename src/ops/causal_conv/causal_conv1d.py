"""The causal convolution by the CUDA kernels of causal-conv1d (`causal_conv1d_fn`), widths 2 to 4.

The package's layout with channels last takes an initial state, but only for channels and strides that are multiples of
8. The layout with time last, (B, D, T), takes any size. The state is put in front of x, and the first K - 1 outputs are
dropped. This copy of x is kept for the backward pass.
"""

from __future__ import annotations

import torch


def run(x, weight, bias, state, activation):
    """Outputs (B, T, D) in x's dtype. weight (D, K), bias (D,) or None and state (B, K - 1, D) or None are float32."""
    from causal_conv1d import causal_conv1d_fn

    inputs = x if state is None else torch.cat([state, x.float()], dim=1)  # the state keeps its float32
    y = causal_conv1d_fn(inputs.transpose(1, 2).contiguous(), weight.contiguous(), bias, activation=activation)
    return y[..., -x.shape[1] :].transpose(1, 2).to(x.dtype)
