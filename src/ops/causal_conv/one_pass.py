"""The causal convolution on a CPU in one pass over memory, compiled by numba: sums in float32, memory in x's dtype.

The backward pass keeps x, and computes the sum before the activation again.

Buffers. All are flat. Those marked * are float32 or bf16, the others float32. d < D counts channels, is contiguous, and
is cut into vectors of LANES. Widths that these do not fill are padded with zeros.

    x*, read where it lies            x[b, t, d] at (b T + t) pitch + d
        x may be a slice of a wider tensor (Mamba's in_proj gives x and its gate side by side); then pitch > D:
        | t = 0: x[0 .. D - 1] | gate | t = 1: x[0 .. D - 1] | gate | ...
                                        ^ pitch
    y*, dy*, dx*    (B, T, D)         in C order, as all below
    weight          (K, D)            transposed, so that the lane is contiguous
    bias            (D,)              state, dstate  (B, K - 1, D)
    dweight         (B, K, D)         dbias  (B, D)          apart by batch row, added up afterwards
    g               (K, D)            one per thread: the gradients of the last K sums, that of token t in line t % K

Backward, token t gives g_t. Then all that input t - K + 1 needs is there: dx_(t-K+1) = sum_i weight_i g_(t-i).

A thread owns a range of batch rows, with all their tokens and channels. No number is written by two threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from src.ops.lanes import EXACT, ONE, ZERO, array_dtype, compiled, flat, parallel_for, rows_of
from src.ops.vector import LANES, load, padded, sigmoid, splat, store, whole_vectors


def run(x, weight, bias, state, activation):
    """Outputs (B, T, D) in x's dtype. weight (D, K), bias (D,) or None, and state (B, K - 1, D) or None are float32."""
    return _OnePass.apply(x, weight, bias, state, activation)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, state, activation):
        ctx.save_for_backward(x, weight, bias, state)
        ctx.activation = activation
        (B, T, D), K = x.shape, weight.shape[1]
        y = torch.empty(B, T, whole_vectors(D), dtype=array_dtype(x))
        sizes = T, y.shape[2], K
        parallel_for(_convolve_rows, B, *_inputs(x, weight, bias, state), flat(y), *sizes, activation == "silu")
        return y[..., :D].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, state = ctx.saved_tensors
        (B, T, D), K = x.shape, weight.shape[1]
        W = whole_vectors(D)
        dx, dstate = torch.empty(B, T, W, dtype=array_dtype(x)), torch.empty(B, K - 1, W)
        dweight, dbias = torch.zeros(B, K, W), torch.zeros(B, W)
        arrays = (flat(t) for t in (padded(dy), dx, dstate, dweight, dbias))
        silu = ctx.activation == "silu"
        parallel_for(_gradient_rows, B, *_inputs(x, weight, bias, state), *arrays, T, W, K, silu)
        dbias, dstate = None if bias is None else dbias.sum(0)[:D], None if state is None else dstate[..., :D]
        return dx[..., :D].to(x.dtype), dweight.sum(0).T[:D], dbias, dstate, None


def _inputs(x, weight, bias, state):
    """The first arguments of both kernels, with zeros in place of None."""
    D, K = weight.shape
    bias = torch.zeros(D) if bias is None else bias
    state = torch.zeros(len(x), K - 1, D) if state is None else state
    return (*rows_of(padded(x)), *(flat(padded(t)) for t in (weight.T, bias, state)))


@compiled(EXACT)
def _convolve_rows(x, pitch, weight, bias, state, y, T, D, K, silu, begin, end):
    """Fill batch rows begin .. end - 1 of y."""
    for row in range(begin, end):
        for t in range(T):
            for d in range(0, D, LANES):
                out = _sum(x, pitch, weight, bias, state, row, T, D, K, t, d)
                if silu:
                    out = out * sigmoid(out)
                store(y, (row * T + t) * D + d, out)


@compiled(EXACT)
def _sum(x, pitch, weight, bias, state, row, T, D, K, t, d):
    """bias + sum_i weight_i * input t - K + 1 + i, of channels d .. d + LANES - 1."""
    out = load(bias, d)
    for i in range(K):
        s = t - K + 1 + i
        if s < 0:
            out = out + load(weight, i * D + d) * load(state, (row * (K - 1) + K - 1 + s) * D + d)
        else:
            out = out + load(weight, i * D + d) * load(x, (row * T + s) * pitch + d)
    return out


@compiled(EXACT)
def _gradient_rows(x, pitch, weight, bias, state, dy, dx, dstate, dweight, dbias, T, D, K, silu, begin, end):
    """Fill batch rows begin .. end - 1 of the gradients. dweight and dbias come as zeros."""
    g = np.empty(K * D, np.float32)
    for row in range(begin, end):
        g[:] = ZERO  # there is no token before the first one
        for t in range(T + K - 1):
            for d in range(0, D, LANES):
                now = splat(ZERO)
                if t < T:
                    now = load(dy, (row * T + t) * D + d)
                    if silu:
                        out = _sum(x, pitch, weight, bias, state, row, T, D, K, t, d)
                        s = sigmoid(out)
                        now = now * s * (splat(ONE) + out * (splat(ONE) - s))
                    _add_to_parameters(x, pitch, state, now, dweight, dbias, row, T, D, K, t, d)
                store(g, t % K * D + d, now)
                before = splat(ZERO)
                for i in range(K):
                    before = before + load(weight, i * D + d) * load(g, (t - i + K) % K * D + d)
                s = t - K + 1
                if s < 0:
                    store(dstate, (row * (K - 1) + K - 1 + s) * D + d, before)
                else:
                    store(dx, (row * T + s) * D + d, before)


@compiled(EXACT)
def _add_to_parameters(x, pitch, state, g, dweight, dbias, row, T, D, K, t, d):
    """Add what token t, with the gradient g of its sum, gives to the gradients of weight and bias."""
    store(dbias, row * D + d, load(dbias, row * D + d) + g)
    for i in range(K):
        s, place = t - K + 1 + i, (row * K + i) * D + d
        if s < 0:
            store(dweight, place, load(dweight, place) + g * load(state, (row * (K - 1) + K - 1 + s) * D + d))
        else:
            store(dweight, place, load(dweight, place) + g * load(x, (row * T + s) * pitch + d))
