"""Softmax and cross-entropy as Triton kernels. README.md has the formulas.

Softmax keeps whole rows in registers. Cross-entropy walks along a row in blocks: it keeps the largest number so far and
the sum of exponentials below it, which it rescales when a larger number comes (Milakov & Gimelshein 2018,
arXiv:1805.02867). So each pass reads the logits once, and no probabilities are stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from src.ops.tiles import as_rows, part_rows, whole_rows


def run(x):
    """(..., C) -> probabilities (..., C) in x's dtype. RuntimeError for rows that are too long."""
    return _Softmax.apply(x)


def run_cross_entropy(logits, target, label_smoothing: float, ignore_index: int):
    """Arguments as in `cross_entropy`, already checked: a float32 scalar."""
    return _CrossEntropy.apply(logits, target, label_smoothing, ignore_index)


@triton.jit
def _softmax_forward(x, y, rows, C, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (at < C)
    values = tl.load(x + row * stride + at, mask=inside, other=-float("inf")).to(tl.float32)
    largest = tl.where(row < rows, tl.max(values, axis=1)[:, None], 0.0)
    powers = tl.exp(values - largest)
    total = tl.where(row < rows, tl.sum(powers, axis=1)[:, None], 1.0)
    tl.store(y + row * C + at, powers / total, mask=inside)


@triton.jit
def _softmax_backward(dy, y, dx, rows, C, dy_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (at < C)
    g = tl.load(dy + row * dy_stride + at, mask=inside, other=0.0).to(tl.float32)
    share = tl.load(y + row * C + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * C + at, share * (g - tl.sum(g * share, axis=1)[:, None]), mask=inside)


@triton.jit
def _cross_entropy_forward(
    logits, target, losses, sums, rows, C, stride, smoothing, ignored, SMOOTH: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """losses: nats per row, 0 where ignored.  sums: log of the sum of exponentials per row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    largest = tl.zeros((ROWS,), dtype=tl.float32) - float("inf")
    total = tl.zeros((ROWS,), dtype=tl.float32)
    plain = tl.zeros((ROWS,), dtype=tl.float32)  # the sum of the logits, for smoothing
    for start in range(0, C, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = real[:, None] & (at < C)[None, :]
        values = tl.load(logits + row[:, None] * stride + at[None, :], mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, tl.max(values, axis=1))
        shift = tl.where(higher == -float("inf"), 0.0, higher)  # -inf - -inf would be NaN
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(values - shift[:, None]), axis=1)
        largest = higher
        if SMOOTH:
            plain += tl.sum(tl.where(inside, values, 0.0), axis=1)
    log_sum = largest + tl.log(tl.where(real, total, 1.0))
    wanted = tl.load(target + row, mask=real, other=0)
    known = real & (wanted >= 0) & (wanted < C)
    picked = tl.load(logits + row * stride + wanted, mask=known, other=float("nan")).to(tl.float32)
    loss = log_sum - picked
    if SMOOTH:
        loss = (1.0 - smoothing) * loss + smoothing * (log_sum - plain / C)
    tl.store(losses + row, tl.where(wanted == ignored, 0.0, loss), mask=real)
    tl.store(sums + row, log_sum, mask=real)


@triton.jit
def _cross_entropy_backward(
    scale, logits, target, sums, dlogits, rows, C, stride, smoothing, ignored, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """scale: one number, the gradient of the mean over the number of rows that count."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (at < C)
    values = tl.load(logits + row * stride + at, mask=inside, other=-float("inf")).to(tl.float32)
    wanted = tl.load(target + row, mask=row < rows, other=ignored)
    log_sum = tl.load(sums + row, mask=row < rows, other=0.0)
    asked = tl.where(at == wanted, 1.0 - smoothing, 0.0) + smoothing / C
    gradient = (tl.exp(values - log_sum) - asked) * tl.load(scale)
    tl.store(dlogits + row * C + at, tl.where(wanted == ignored, 0.0, gradient), mask=inside)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        rows = as_rows(x)
        (n, C), (ROWS, BLOCK, warps) = rows.shape, whole_rows("softmax", rows.shape[1])
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _softmax_forward[(triton.cdiv(n, ROWS),)](rows, y, n, C, rows.stride(0), ROWS, BLOCK, num_warps=warps)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        gradient = as_rows(dy)
        (n, C), (ROWS, BLOCK, warps) = gradient.shape, whole_rows("softmax", gradient.shape[1])
        dx = torch.empty_like(y)
        grid = (triton.cdiv(n, ROWS),)
        _softmax_backward[grid](gradient, y, dx, n, C, gradient.stride(0), ROWS, BLOCK, num_warps=warps)
        return dx


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, smoothing, ignored):
        logits, target = as_rows(logits), target.contiguous()
        (n, C), (ROWS, BLOCK) = logits.shape, part_rows(logits.shape[1])
        losses = logits.new_empty(n, dtype=torch.float32)
        sums = torch.empty_like(losses)
        _cross_entropy_forward[(triton.cdiv(n, ROWS),)](
            logits, target, losses, sums, n, C, logits.stride(0), smoothing, ignored, smoothing > 0, ROWS, BLOCK
        )
        count = (target != ignored).sum()
        ctx.save_for_backward(logits, target, sums, count)
        ctx.options = smoothing, ignored
        return losses.sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        logits, target, sums, count = ctx.saved_tensors
        (n, C), (ROWS, BLOCK) = logits.shape, part_rows(logits.shape[1])
        dlogits = torch.empty((n, C), dtype=logits.dtype, device=logits.device)
        _cross_entropy_backward[(triton.cdiv(n, ROWS), triton.cdiv(C, BLOCK))](
            (dy / count).float(), logits, target, sums, dlogits, n, C, logits.stride(0), *ctx.options, ROWS, BLOCK
        )
        return dlogits, None, None, None
