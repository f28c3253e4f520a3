"""Rotary positions in products and sums of torch, on any device."""

from __future__ import annotations

import torch

from src.ops.precision import accumulation_dtype


def run(x, cos, sin, layout: str):
    """Arguments as in `rope`, already checked: (B, T, H, K) in x's dtype."""
    wide = x.to(accumulation_dtype(x))
    cos, sin = cos[:, None], sin[:, None]  # (T, 1, K / 2)
    if layout == "halves":
        first, second = wide.chunk(2, dim=-1)
        turned = (first * cos).addcmul(second, sin, value=-1), (second * cos).addcmul(first, sin)
        return torch.cat(turned, dim=-1).to(x.dtype)
    first, second = wide.unflatten(-1, (cos.shape[-1], 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(x.dtype)
