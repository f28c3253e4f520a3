"""A linear map as one Triton kernel for three products: y = x W^T forward, dx = dy W and dW = dy^T x backward.

The kernel takes the strides of both factors, so a transposed factor needs no copy. A program computes one tile of the
result and sums in float32. Neighbouring programs share rows of the first factor, which then are in the cache (the
grouped order of Triton's tutorial on matrix products, Tillet et al. 2019).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.ops.precision import autocast_dtype, no_autocast
from src.ops.tiles import as_rows, power_of_two

GROUP = 8  # rows of tiles whose programs run side by side


def run(x, weight, bias):
    """Arguments as in `linear`, already checked: (..., O).  ValueError for factors of two dtypes without autocast."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if x.dtype != weight.dtype:
        raise ValueError(f"x, weight: got {x.dtype} and {weight.dtype}, allowed: one dtype, or autocast")
    with no_autocast(x):
        return _Linear.apply(x, weight, bias)


@triton.jit
def _linear_product(
    a, b, bias, out, M, N, K, a_row, a_col, b_row, b_col, BIASED: tl.constexpr, WIDEN: tl.constexpr,
    PRECISION: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out (M, N) = a (M, K) b (K, N) + bias (N,)."""
    across = tl.cdiv(N, COLS)
    group = tl.program_id(0) // (GROUP * across)
    height = min(tl.cdiv(M, ROWS) - group * GROUP, GROUP)
    inside_group = tl.program_id(0) % (GROUP * across)
    row = (group * GROUP + inside_group % height).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = (inside_group // height).to(tl.int64) * COLS + tl.arange(0, COLS)
    k = tl.arange(0, DEPTH).to(tl.int64)
    total = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for start in range(0, K, DEPTH):
        left = start + k < K
        first = tl.load(
            a + row[:, None] * a_row + (start + k)[None, :] * a_col, mask=(row < M)[:, None] & left[None, :], other=0.0
        )
        second = tl.load(
            b + (start + k)[:, None] * b_row + col[None, :] * b_col, mask=left[:, None] & (col < N)[None, :], other=0.0
        )
        if WIDEN:
            first, second = first.to(tl.float32), second.to(tl.float32)
        total = tl.dot(first, second, total, input_precision=PRECISION)
    if BIASED:
        total += tl.load(bias + col, mask=col < N, other=0.0).to(tl.float32)[None, :]
    tl.store(out + row[:, None] * N + col[None, :], total, mask=(row < M)[:, None] & (col < N)[None, :])


def product(a, b, bias=None):
    """a (M, K) b (K, N) + bias (N,) or None -> (M, N) in a's dtype, any strides."""
    (M, K), N = a.shape, b.shape[1]
    ROWS, COLS, DEPTH = (min(most, max(16, power_of_two(n))) for most, n in ((128, M), (128, N), (32, K)))
    out = torch.empty((M, N), dtype=a.dtype, device=a.device)
    _linear_product[(triton.cdiv(M, ROWS) * triton.cdiv(N, COLS),)](
        a, b, bias, out, M, N, K, *a.stride(), *b.stride(), bias is not None,
        a.device.type == "cpu",  # Triton's interpreter multiplies bf16 as if its bits were whole numbers
        "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee", GROUP, ROWS, COLS, DEPTH,
        num_warps=8 if ROWS * COLS >= 128 * 128 else 4,
    )  # fmt: skip
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        y = product(as_rows(x), weight.T, None if bias is None else bias.contiguous())
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        needed, gradient = ctx.needs_input_grad, as_rows(dy)
        dx = product(gradient, weight).view(x.shape) if needed[0] else None
        dweight = product(gradient.T, as_rows(x)) if needed[1] else None
        dbias = gradient.sum(0, dtype=torch.float32).to(dy.dtype) if ctx.has_bias and needed[2] else None
        return dx, dweight, dbias
