"""The product of a SwiGLU as two Triton kernels: one pass over memory forward, one backward.

gate and up may be the two halves of one wider map: the kernels read them where they are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.ops.tiles import as_rows, part_rows

WIDEST = 2048  # columns of a tile


def run(gate, up):
    """Arguments as in `swiglu`, already checked: (..., F)."""
    dtype = torch.promote_types(gate.dtype, up.dtype)
    return _SwiGLU.apply(gate.to(dtype), up.to(dtype))


@triton.jit
def _swiglu_forward(gate, up, y, rows, C, gate_stride, up_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (at < C)
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * C + at, g / (1.0 + tl.exp(-g)) * u, mask=inside)


@triton.jit
def _swiglu_backward(
    dy, gate, up, dgate, dup, rows, C, dy_stride, gate_stride, up_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (at < C)
    d = tl.load(dy + row * dy_stride + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    s = 1.0 / (1.0 + tl.exp(-g))
    tl.store(dgate + row * C + at, d * u * s * (1.0 + g * (1.0 - s)), mask=inside)
    tl.store(dup + row * C + at, d * g * s, mask=inside)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        g, u = as_rows(gate), as_rows(up)
        (n, C), (ROWS, BLOCK) = g.shape, part_rows(g.shape[1], WIDEST)
        y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        grid = triton.cdiv(n, ROWS), triton.cdiv(C, BLOCK)
        _swiglu_forward[grid](g, u, y, n, C, g.stride(0), u.stride(0), ROWS, BLOCK)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        gate, up = ctx.saved_tensors
        d, g, u = as_rows(dy), as_rows(gate), as_rows(up)
        (n, C), (ROWS, BLOCK) = g.shape, part_rows(g.shape[1], WIDEST)
        dgate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        dup = torch.empty_like(dgate)
        grid = triton.cdiv(n, ROWS), triton.cdiv(C, BLOCK)
        _swiglu_backward[grid](d, g, u, dgate, dup, n, C, d.stride(0), g.stride(0), u.stride(0), ROWS, BLOCK)
        return dgate, dup
