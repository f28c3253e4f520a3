"""A short depthwise causal convolution as a module: `--short_conv K` puts one on q, k and v, or on a mixer's input.

    y_t = act( sum_i w_i * x_{t - K + 1 + i} ),   one kernel of K numbers a channel

On q, k, v without an activation: So et al. 2021 (Primer), arXiv:2109.08668, section 3; with SiLU: Gu & Dao 2023 (Mamba),
arXiv:2312.00752, and Yang et al. 2024 (DeltaNet), arXiv:2406.06484. Initialisation: torch's for such a kernel, uniform in +- K^-0.5.

State: the last K - 1 inputs (B, K - 1, D), whatever T.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step


class ShortConv(nn.Module):
    """Depthwise causal convolution of `channels` channels over `width` characters, the present one included."""

    def __init__(self, channels: int, width: int, activation: str | None = None, backend: str = "auto"):
        """activation: None or "silu".  backend: the --backend flag."""
        super().__init__()
        self.activation = activation
        self.backend = parse_backend(backend, "causal_conv")
        self.weight = nn.Parameter(torch.empty(channels, width))
        nn.init.uniform_(self.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x, state=None):
        """x (B, T, D), state (B, K - 1, D) or None -> y (B, T, D), state."""
        return causal_conv(x, self.weight, state=state, activation=self.activation, backend=self.backend)

    def init_state(self, batch_size: int):
        channels, width = self.weight.shape
        return self.weight.new_zeros(batch_size, width - 1, channels)

    def step(self, x, state):
        """x (B, D), state -> y (B, D), state."""
        return causal_conv_step(x, self.weight, state=state, activation=self.activation)
