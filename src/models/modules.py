"""`Linear` and `RMSNorm`: torch's modules, computed by src/ops, so that `--backend` decides about them; `Dropout`.

    self.out = Linear(args.d_model, args.d_model, bias=args.bias, backend=args.backend)
    self.norm = RMSNorm(args.d_model, 1e-5, args.backend)

Parameters, their names, and their first values are those of `nn.Linear` and `nn.RMSNorm`. A layer of your own may as
well use `nn.Linear`; its maps then are torch's own under every `--backend`.
"""

from __future__ import annotations

from torch import nn

from src.ops.backends import parse_backend
from src.ops.linear import linear
from src.ops.rmsnorm import rmsnorm


class Linear(nn.Linear):
    """x (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, backend: str = "auto"):
        """backend: the --backend flag."""
        super().__init__(in_features, out_features, bias=bias)
        self.backend = parse_backend(backend, "linear")

    def forward(self, x):
        return linear(x, self.weight, self.bias, self.backend)


class RMSNorm(nn.RMSNorm):
    """x (..., channels) -> (..., channels) at a root mean square of 1, times a weight per channel."""

    def __init__(self, channels: int, eps: float, backend: str = "auto"):
        """backend: the --backend flag."""
        super().__init__(channels, eps=eps)
        self.backend = parse_backend(backend, "rmsnorm")

    def forward(self, x):
        return rmsnorm(x, self.weight, self.eps, self.backend)


class Dropout(nn.Dropout):
    """Dropout whose evaluation returns its input without a call of torch. Decoding does it a dozen times per token."""

    def forward(self, x):
        return super().forward(x) if self.training else x
