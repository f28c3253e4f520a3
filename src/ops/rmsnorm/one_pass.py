"""The root mean square norm on a CPU in one pass over memory forward and one backward, compiled by numba.

A row is read from memory once and stays in the first-level cache. Arithmetic is float32.

Buffers. All are flat. Those marked * are float32 or bf16, the others float32.

    x*, dy*    row r at r x pitch, because they may be slices of a wider tensor        y*, dx*  (rows, C)
    weight  (C,)        scale  (rows,)  1 / root mean square, kept for the backward pass
    dweight  (groups, C)  apart by group of GROUP rows, added up afterwards

Rows that whole vectors do not fill are padded with zeros; C is then the padded size and D the real one. A thread owns a
range of groups, so no result depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from src.ops.compiler import untraced
from src.ops.lanes import EXACT, ONE, ZERO, array_dtype, compiled, f32, flat, parallel_for, rows_of
from src.ops.vector import LANES, load, padded, splat, store, total

GROUP = 64  # rows


@untraced
def run(x, weight, eps: float):
    """Arguments as in `rmsnorm`, already checked: (..., D) in x's dtype."""
    return _RmsNorm.apply(x, weight, eps)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        D, rows, wide = x.shape[-1], x[..., 0].numel(), padded(x)
        y, scale = torch.empty(wide.shape, dtype=array_dtype(x)), torch.empty(rows)
        arrays = *rows_of(wide), _weight(weight, D), flat(y), flat(scale)
        parallel_for(_normalize, -(-rows // GROUP), *arrays, rows, wide.shape[-1], f32(D), f32(eps))
        ctx.save_for_backward(x, weight, scale)
        return y[..., :D].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        D, rows, wide = x.shape[-1], x[..., 0].numel(), padded(x)
        C, groups = wide.shape[-1], -(-rows // GROUP)
        dx, dweight = torch.empty(wide.shape, dtype=array_dtype(x)), torch.zeros(groups, C)
        given = *rows_of(wide), *rows_of(padded(dy)), _weight(weight, D), flat(scale)
        parallel_for(_gradients, groups, *given, flat(dx), flat(dweight), rows, C, f32(D))
        dweight = None if weight is None else dweight.sum(0)[:D].to(weight.dtype)
        return dx[..., :D].to(x.dtype), dweight, None


def _weight(weight, D: int):
    return flat(padded((torch.ones(D) if weight is None else weight.detach()).float()))


@compiled(EXACT)
def _normalize(x, pitch, weight, y, scale, rows, C, D, eps, begin, end):
    """Fill groups begin .. end - 1 of y and scale."""
    for row in range(begin * GROUP, min(rows, end * GROUP)):
        squares = splat(ZERO)
        for i in range(0, C, LANES):
            v = load(x, row * pitch + i)
            squares = squares + v * v
        scale[row] = ONE / np.sqrt(total(squares) / D + eps)
        r = splat(scale[row])
        for i in range(0, C, LANES):
            store(y, row * C + i, load(x, row * pitch + i) * r * load(weight, i))


@compiled(EXACT)
def _gradients(x, pitch, dy, dy_pitch, weight, scale, dx, dweight, rows, C, D, begin, end):
    """Fill groups begin .. end - 1 of the gradients. dweight comes as zeros."""
    for row in range(begin * GROUP, min(rows, end * GROUP)):
        r, products, place = splat(scale[row]), splat(ZERO), row // GROUP * C
        for i in range(0, C, LANES):
            normal, given = load(x, row * pitch + i) * r, load(dy, row * dy_pitch + i)
            store(dweight, place + i, load(dweight, place + i) + given * normal)
            products = products + given * load(weight, i) * normal
        mean = splat(total(products) / D)
        for i in range(0, C, LANES):
            normal, given = load(x, row * pitch + i) * r, load(dy, row * dy_pitch + i)
            store(dx, row * C + i, r * (given * load(weight, i) - normal * mean))
