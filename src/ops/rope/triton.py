"""Rotary positions as one Triton kernel, which also computes the backward pass: the same rotation by minus the angle.

A row is one head of one token. The kernel takes the strides of x, so that queries and keys are read inside the fused
map that they come from.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.ops.tiles import part_rows

MOST_PAIRS = 65536  # pairs of a head, all in one tile


def run(x, cos, sin, layout: str):
    """Arguments as in `rope`, already checked: (B, T, H, K) in x's dtype."""
    return _Rope.apply(x, cos.contiguous(), sin.contiguous(), layout == "pairs")


@triton.jit
def _rope_rotate(
    x, cos, sin, y, rows, T, H, HALF, of_batch, of_token, of_head, PAIRS: tl.constexpr, BACK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    i = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (i < HALF)
    token = row // H % T
    start = row // (H * T) * of_batch + token * of_token + row % H * of_head
    if PAIRS:
        first, second = 2 * i, 2 * i + 1
    else:
        first, second = i, i + HALF
    c = tl.load(cos + token * HALF + i, mask=inside, other=0.0)
    s = tl.load(sin + token * HALF + i, mask=inside, other=0.0)
    if BACK:
        s = -s
    a = tl.load(x + start + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + start + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * (2 * HALF) + first, a * c - b * s, mask=inside)
    tl.store(y + row * (2 * HALF) + second, b * c + a * s, mask=inside)


def _launch(x, cos, sin, pairs: bool, back: bool):
    """The rotated x (B, T, H, K) in memory of its own."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    (B, T, H, K), (ROWS, BLOCK) = x.shape, part_rows(x.shape[-1] // 2, MOST_PAIRS)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rope_rotate[(triton.cdiv(B * T * H, ROWS),)](
        x, cos, sin, y, B * T * H, T, H, K // 2, *x.stride()[:3], pairs, back, ROWS, BLOCK
    )
    return y


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin, pairs):
        ctx.save_for_backward(cos, sin)
        ctx.pairs = pairs
        return _launch(x, cos, sin, pairs, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        return _launch(dy, *ctx.saved_tensors, ctx.pairs, back=True), None, None, None
