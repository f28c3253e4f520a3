"""A short causal convolution, one kernel per channel: `--short_conv W` puts one on q, k and v, or on a layer's input.

    paper    here        shape           meaning
    x_t      x           (..., D)        input of the convolution at token t
    w_i      weight      (D, W)          kernel; w_{W-1} multiplies the present token
    y_t      y           (..., D)        output
             state       (B, W - 1, D)   the last W - 1 inputs

    y_t = act( sum_i w_i * x_{t - W + 1 + i} ) ,   i = 0 .. W - 1 ,   act is SiLU or the identity

Sources: without an activation on q, k and v, So et al. 2021 (Primer), arXiv:2109.08668, section 3. With SiLU, Gu & Dao
2023 (Mamba), arXiv:2312.00752, and Yang et al. 2024 (DeltaNet), arXiv:2406.06484. Initialisation: torch's for such a
kernel, uniform in +- W^(-1/2).

Differs: the convolution of Mamba and Mamba-2 has a bias, and is in their own files. That of Primer has width 3. As in
flash-linear-attention, this one has no bias.

Under `--fair` every layer has one of these with SiLU on its input, and none inside (src/models/backbone.py).

Cost per token O(D W); the state does not depend on T.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from src.flags.run_flags import RunArgs
from src.ops.backends import parse_backend
from src.ops.causal_conv import causal_conv, causal_conv_step


class ShortConv(nn.Module):
    """Depthwise causal convolution over `width` tokens, the present one included."""

    def __init__(self, channels: int, width: int, activation: str | None = None, backend: str = "auto"):
        """activation: None or "silu".  backend: the --backend flag."""
        super().__init__()
        self.activation = activation
        self.backend = parse_backend(backend, "causal_conv")
        self.weight = nn.Parameter(torch.empty(channels, width))
        nn.init.uniform_(self.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x, state=None):
        """x (B, T, D), state (B, W - 1, D) or None (zeros) -> y (B, T, D), state."""
        return causal_conv(x, self.weight, state=state, activation=self.activation, backend=self.backend)

    def init_state(self, batch_size: int):
        channels, width = self.weight.shape
        return self.weight.new_zeros(batch_size, width - 1, channels)

    def step(self, x, state):
        """x (B, D), state -> y (B, D), state."""
        return causal_conv_step(x, self.weight, state=state, activation=self.activation)


def make_conv(channels: int, args: RunArgs, activation: str | None) -> ShortConv | None:
    """The convolution that --short_conv asks for; None where it is 0."""
    return ShortConv(channels, args.short_conv, activation, args.backend) if args.short_conv > 0 else None
