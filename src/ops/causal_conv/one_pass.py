"""The causal convolution on a CPU in one pass over memory, compiled by numba: float32.

The backward pass keeps x, and computes the sum before the activation again.

Buffers. All are float32. d < D counts channels, is contiguous, and is the vector lane. A row of D numbers stays in the
cache while the K terms are added to it.

    x, flat, read where it lies       x[b, t, d] at b row_stride + t step_stride + d
        x may be a slice of a wider tensor (Mamba's in_proj gives x and its gate side by side); then step_stride > D:
        | t = 0: x[0 .. D - 1] | gate | t = 1: x[0 .. D - 1] | gate | ...
                                        ^ step_stride
    y, dy, dx       (B, T, D)         in C order, as all below
    weight          (K, D)            transposed, so that the lane is contiguous
    bias            (D,)              state, dstate  (B, K - 1, D)
    dweight         (B, K, D)         dbias  (B, D)          apart by batch row, added up afterwards
    g               (D,)              one per thread: the gradient of the sum of one token

A thread owns a range of batch rows, with all their tokens and channels. No number is written by two threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from src.ops.lanes import EXACT, ONE, compiled, f32, parallel_for, sigmoid

ZERO = f32(0)


def run(x, weight, bias, state, activation):
    """Outputs (B, T, D) in x's dtype. weight (D, K), bias (D,) or None, and state (B, K - 1, D) or None are float32."""
    return _OnePass.apply(x, weight, bias, state, activation)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, state, activation):
        ctx.save_for_backward(x, weight, bias, state)
        ctx.activation = activation
        y = torch.empty(x.shape)
        inputs = (*_flat(x), *_arrays(x, weight, bias, state))
        parallel_for(_convolve_rows, len(x), *inputs, y.numpy(), activation == "silu")
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, state = ctx.saved_tensors
        (B, T, D), K = x.shape, weight.shape[1]
        dx, dstate = torch.empty(B, T, D), torch.empty(B, K - 1, D)
        dweight, dbias = torch.zeros(B, K, D), torch.zeros(B, D)
        inputs = (*_flat(x), *_arrays(x, weight, bias, state), dy.float().contiguous().numpy())
        outputs = (t.numpy() for t in (dx, dstate, dweight, dbias))
        parallel_for(_gradient_rows, B, *inputs, *outputs, ctx.activation == "silu")
        dbias, dstate = None if bias is None else dbias.sum(0), None if state is None else dstate
        return dx.to(x.dtype), dweight.sum(0).T, dbias, dstate, None


def _flat(x):
    """(flat, row_stride, step_stride): x as a flat array with x[b, t, d] at b row_stride + t step_stride + d."""
    x = x.detach().float()
    x = x if x.stride(2) == 1 else x.contiguous()
    (B, T, D), (rows, steps, _) = x.shape, x.stride()
    return x.as_strided(((B - 1) * rows + (T - 1) * steps + D,), (1,)).numpy(), rows, steps


def _arrays(x, weight, bias, state):
    """Weight (K, D), bias (D,) and state (B, K - 1, D) as contiguous arrays, with zeros in place of None."""
    D, K = weight.shape
    bias = torch.zeros(D) if bias is None else bias
    state = torch.zeros(len(x), K - 1, D) if state is None else state
    return tuple(t.detach().contiguous().numpy() for t in (weight.T, bias, state))


@compiled(EXACT)
def _convolve_rows(x, row_stride, step_stride, weight, bias, state, y, silu, begin, end):
    """Fill batch rows begin .. end - 1 of y."""
    T, D = y.shape[1:]
    for row in range(begin, end):
        for t in range(T):
            _sum(x, row * row_stride, step_stride, weight, bias, state[row], t, y[row, t])
            if silu:
                for d in range(D):
                    y[row, t, d] = y[row, t, d] * sigmoid(y[row, t, d])


@compiled(EXACT)
def _sum(x, start, step_stride, weight, bias, state, t, out):
    """out (D,) = bias + sum_i weight_i * input t - K + 1 + i. The batch row begins at x[start]."""
    K, D = weight.shape
    for d in range(D):
        out[d] = bias[d]
    for i in range(K):
        before = K - 1 - i - t
        if before > 0:
            for d in range(D):
                out[d] += weight[i, d] * state[K - 1 - before, d]
        else:
            at = start - before * step_stride
            for d in range(D):
                out[d] += weight[i, d] * x[at + d]


@compiled(EXACT)
def _gradient_rows(x, row_stride, step_stride, weight, bias, state, dy, dx, dstate, dweight, dbias, silu, begin, end):
    """Fill batch rows begin .. end - 1 of the gradients. dweight and dbias come as zeros."""
    T, D = dy.shape[1:]
    K = len(weight)
    g = np.empty(D, np.float32)
    for row in range(begin, end):
        start = row * row_stride
        dx[row] = ZERO
        dstate[row] = ZERO
        for t in range(T):
            if silu:
                _sum(x, start, step_stride, weight, bias, state[row], t, g)
                for d in range(D):
                    s = sigmoid(g[d])
                    g[d] = dy[row, t, d] * s * (ONE + g[d] * (ONE - s))
            else:
                for d in range(D):
                    g[d] = dy[row, t, d]
            for d in range(D):
                dbias[row, d] += g[d]
            for i in range(K):
                before = K - 1 - i - t
                if before > 0:
                    for d in range(D):
                        dstate[row, K - 1 - before, d] += weight[i, d] * g[d]
                        dweight[row, i, d] += state[row, K - 1 - before, d] * g[d]
                else:
                    at = start - before * step_stride
                    for d in range(D):
                        dx[row, -before, d] += weight[i, d] * g[d]
                        dweight[row, i, d] += x[at + d] * g[d]
