"""The root mean square norm as two Triton kernels: each reads its rows once. README.md has the formulas.

A program computes a tile of whole rows. In the backward pass a program computes many tiles, so that it sums the
weight's gradient in registers; the sums of all programs are added at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.ops.tiles import as_rows, whole_rows

PROGRAMS = 512  # of the backward pass; each writes one row of partial sums


def run(x, weight, eps: float):
    """Arguments as in `rmsnorm`, already checked: (..., D) in x's dtype. RuntimeError for rows that are too long."""
    return _RmsNorm.apply(x, weight, eps)


@triton.jit
def _rmsnorm_forward(
    x, weight, y, scale, rows, C, stride, eps, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (at < C)[None, :]
    values = tl.load(x + row[:, None] * stride + at[None, :], mask=inside, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / C + eps)
    tl.store(scale + row, r, mask=row < rows)
    out = values * r[:, None]
    if WEIGHTED:
        out = out * tl.load(weight + at, mask=at < C, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row[:, None] * C + at[None, :], out, mask=inside)


@triton.jit
def _rmsnorm_backward(
    dy, x, weight, scale, dx, partial, rows, C, dy_stride, stride, WEIGHTED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    if WEIGHTED:
        w = tl.load(weight + at, mask=at < C, other=0.0).to(tl.float32)
        sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for tile in range(program, tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & (at < C)[None, :]
        g = tl.load(dy + row[:, None] * dy_stride + at[None, :], mask=inside, other=0.0).to(tl.float32)
        r = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        normal = tl.load(x + row[:, None] * stride + at[None, :], mask=inside, other=0.0).to(tl.float32) * r
        if WEIGHTED:
            sums += tl.sum(g * normal, axis=0)
            g = g * w[None, :]
        mean = tl.sum(g * normal, axis=1)[:, None] / C
        tl.store(dx + row[:, None] * C + at[None, :], r * (g - normal * mean), mask=inside)
    if WEIGHTED:
        tl.store(partial + program * C + at, sums, mask=at < C)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        rows = as_rows(x)
        n, C = rows.shape
        ROWS, BLOCK, warps = whole_rows("rmsnorm", C)
        weight = None if weight is None else weight.contiguous()
        y, scale = torch.empty(x.shape, dtype=x.dtype, device=x.device), rows.new_empty(n, dtype=torch.float32)
        _rmsnorm_forward[(triton.cdiv(n, ROWS),)](
            rows, weight, y, scale, n, C, rows.stride(0), eps, weight is not None, ROWS, BLOCK, num_warps=warps
        )
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        rows, gradient = as_rows(x), as_rows(dy)
        n, C = rows.shape
        ROWS, BLOCK, warps = whole_rows("rmsnorm", C)
        programs = min(triton.cdiv(n, ROWS), PROGRAMS)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        partial = None if weight is None else rows.new_empty(programs, C, dtype=torch.float32)
        _rmsnorm_backward[(programs,)](
            gradient, rows, weight, scale, dx, partial, n, C, gradient.stride(0), rows.stride(0), weight is not None,
            ROWS, BLOCK, num_warps=warps,
        )  # fmt: skip
        return dx, None if weight is None else partial.sum(0).to(weight.dtype), None
