"""Triton kernels for rmsnorm and softmax, forward and backward: how fast a fused kernel makes two memory-bound ops.

One program computes one row. In rmsnorm's backward pass one program computes several rows, so that it sums the weight's
gradient in registers first. Sums are float32, and the output has the input's dtype. A row has at most MOST numbers.
This file is imported on CUDA only, by the form "triton" of `kernels`.

After the fused softmax of Tillet et al., "Triton", MAPL 2019, and Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.measure.kernels.contract import EPS

MOST = 65536  # numbers in a row: a program holds it in registers
PROGRAMS = 512  # in rmsnorm's backward pass; each writes one row of partial sums


def rmsnorm(x, weight):
    """x (..., D), weight (D,), contiguous on CUDA -> (..., D) in x's dtype. ValueError above MOST numbers per row."""
    return _RmsNorm.apply(x, weight)


def softmax(x):
    """Softmax over the last dimension: x (..., D), contiguous on CUDA -> (..., D) in x's dtype.

    Raises ValueError above MOST numbers per row.
    """
    return _Softmax.apply(x)


def _block(D: int) -> tuple[int, int]:
    """(numbers of a block, warps) for a row of D numbers."""
    if D > MOST:
        raise ValueError(f"x: got rows of {D}, allowed: at most {MOST} for the triton form; use eager")
    block = triton.next_power_of_2(D)
    return block, 4 if block <= 2048 else 8 if block <= 8192 else 16


@triton.jit
def _rmsnorm_forward(x, weight, y, scale, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    values = tl.load(x + row * D + at, mask=inside, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / D + eps)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(scale + row, r)
    tl.store(y + row * D + at, values * r * w, mask=inside)


@triton.jit
def _rmsnorm_backward(dy, x, weight, scale, dx, partial, rows, D, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < D
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(program, rows, tl.num_programs(0)):
        place = (tl.zeros((BLOCK,), dtype=tl.int64) + i) * D + at  # 64 bits before the product: rows x D may exceed 32
        g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(scale + i)
        normal = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * r
        sums += g * normal
        gw = g * w
        tl.store(dx + place, r * (gw - normal * (tl.sum(gw * normal, axis=0) / D)), mask=inside)
    tl.store(partial + program * D + at, sums, mask=inside)


@triton.jit
def _softmax_forward(x, y, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    values = tl.load(x + row * D + at, mask=inside, other=-float("inf")).to(tl.float32)
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * D + at, powers / tl.sum(powers, axis=0), mask=inside)


@triton.jit
def _softmax_backward(dy, y, dx, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    g = tl.load(dy + row * D + at, mask=inside, other=0.0).to(tl.float32)
    share = tl.load(y + row * D + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * D + at, share * (g - tl.sum(g * share, axis=0)), mask=inside)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x, D = x.contiguous(), x.shape[-1]
        rows = x.numel() // D
        block, warps = _block(D)
        y, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
        _rmsnorm_forward[(rows,)](x, weight.contiguous(), y, scale, D, EPS, BLOCK=block, num_warps=warps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        D = x.shape[-1]
        rows = x.numel() // D
        block, warps = _block(D)
        dx = torch.empty_like(x)
        programs = min(rows, PROGRAMS)
        partial = torch.empty(programs, D, dtype=torch.float32, device=x.device)
        _rmsnorm_backward[(programs,)](
            dy.contiguous(), x, weight.contiguous(), scale, dx, partial, rows, D, BLOCK=block, num_warps=warps
        )
        return dx, partial.sum(0).to(weight.dtype)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x, D = x.contiguous(), x.shape[-1]
        block, warps = _block(D)
        y = torch.empty_like(x)
        _softmax_forward[(x.numel() // D,)](x, y, D, BLOCK=block, num_warps=warps)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        D = y.shape[-1]
        block, warps = _block(D)
        dx = torch.empty_like(y)
        _softmax_backward[(y.numel() // D,)](dy.contiguous(), y, dx, D, BLOCK=block, num_warps=warps)
        return dx
