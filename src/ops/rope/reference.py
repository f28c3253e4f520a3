"""The definition of rotary positions: one 2 x 2 rotation per pair of channels, in float64."""

from __future__ import annotations

import torch


def rope_reference(x, cos, sin, layout: str = "halves"):
    """x (B, T, H, K), cos and sin (T, K / 2) -> (B, T, H, K) float64, differentiable in x."""
    x, cos, sin = x.double(), cos.double(), sin.double()
    half = x.shape[-1] // 2
    y = [x.new_zeros(x.shape[:-1])] * (2 * half)
    for i in range(half):
        first, second = (i, i + half) if layout == "halves" else (2 * i, 2 * i + 1)
        rotation = torch.stack([cos[:, i], -sin[:, i], sin[:, i], cos[:, i]], dim=-1).view(-1, 1, 2, 2)  # (T, 1, 2, 2)
        y[first], y[second] = (rotation @ x[..., [first, second]].unsqueeze(-1)).squeeze(-1).unbind(-1)
    return torch.stack(y, dim=-1)
