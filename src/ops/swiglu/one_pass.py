"""The product of a SwiGLU on a CPU in one pass over memory forward and one backward, compiled by numba.

Arithmetic is float32, and nothing is kept but gate and up. These may be slices of a wider map: row r begins at
r x pitch. y, dy, dgate and dup are in C order. All hold float32 or bf16. Rows that whole vectors do not fill are padded
with zeros. A thread owns a range of rows.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from src.ops.compiler import untraced
from src.ops.lanes import EXACT, ONE, array_dtype, compiled, flat, parallel_for, rows_of
from src.ops.vector import LANES, load, padded, sigmoid, splat, store


@untraced
def run(gate, up):
    """Arguments as in `swiglu`, already checked: (..., F)."""
    dtype = torch.promote_types(gate.dtype, up.dtype)
    return _SwiGLU.apply(gate.to(dtype), up.to(dtype))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        (g, u), F = (padded(t) for t in (gate, up)), gate.shape[-1]
        y = torch.empty(g.shape, dtype=array_dtype(g))
        parallel_for(_products, g[..., 0].numel(), *rows_of(g), *rows_of(u), flat(y), g.shape[-1])
        return y[..., :F].to(gate.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (g, u), F = (padded(t) for t in ctx.saved_tensors), dy.shape[-1]
        dgate, dup = (torch.empty(g.shape, dtype=array_dtype(g)) for _ in range(2))
        given = *rows_of(g), *rows_of(u), flat(padded(dy))
        parallel_for(_gradients, g[..., 0].numel(), *given, flat(dgate), flat(dup), g.shape[-1])
        return dgate[..., :F].to(dy.dtype), dup[..., :F].to(dy.dtype)


@compiled(EXACT)
def _products(gate, gate_pitch, up, up_pitch, y, F, begin, end):
    """Fill rows begin .. end - 1 of y."""
    for row in range(begin, end):
        for i in range(0, F, LANES):
            g = load(gate, row * gate_pitch + i)
            store(y, row * F + i, g * sigmoid(g) * load(up, row * up_pitch + i))


@compiled(EXACT)
def _gradients(gate, gate_pitch, up, up_pitch, dy, dgate, dup, F, begin, end):
    """Fill rows begin .. end - 1 of the gradients."""
    one = splat(ONE)
    for row in range(begin, end):
        for i in range(0, F, LANES):
            g, d = load(gate, row * gate_pitch + i), load(dy, row * F + i)
            s = sigmoid(g)
            store(dup, row * F + i, d * g * s)
            store(dgate, row * F + i, d * load(up, row * up_pitch + i) * s * (one + g * (one - s)))
