"""The selective scan on a CPU as the recurrence itself, compiled by numba: float32, linear in T, no states kept.

The vector lanes are LANES neighbouring channels of E, a block. State and rates of a block stay in the first-level cache
while time passes. One exponential per state and token is most of the work, hence lanes.exp.

Backward, for one block after the other: a first pass leaves the state at the start of each chunk of time. Then, from
the last chunk to the first, the chunk's states and decays are computed again into a scratch buffer that fits the
second-level cache, and a sweep goes back through them:

    g_t = dy_t C_t + a_{t+1} g_{t+1}                  the gradient of h_t
    dB_t = sum_e g_t (delta u)_t                      d(delta u)_t = sum_n g_t B_t
    dC_t = sum_e dy_t h_t                             d(delta A)_t = g_t h_{t-1} da_t / d(delta A)

Buffers. All are float32 in C order: the last index is contiguous. i < LANES is the lane, channel first + i of E.

    u, delta, y, dy, du, ddelta  (B, T, E)  e contiguous            B, C  (B, T, N)            A  (E, N)
    start, last, dlast, dstart   (B, E, N)  n contiguous            D     (E,)

    per thread, written with the block's state n in line n:
                        lane 0    lane 1    ...  lane LANES - 1
    h, g, rate  n = 0  | h[0, 0] | h[0, 1] | ... | h[0, LANES - 1] |      (N, LANES), filled by `_transpose`
                n = 1  | h[1, 0] | h[1, 1] | ... |
    d, x, out          (LANES,), in the backward pass (chunk, LANES)      delta, delta u, and y (backward: dy)
    starts             (chunks, N, LANES)                                 the state at the start of each chunk
    states, decays     (chunk + 1, N, LANES), (chunk, N, LANES)           h and exp(delta A) of one chunk

    dB, dC  (B, blocks, T, N)  apart by item        dA (B, E, N), dD (B, E)  apart by batch row

A thread owns a range of items. Item row * blocks + block is one block of channels of one batch row, with all its
tokens. What items share (dA, dB, dC, dD) is added up afterwards, so the numbers do not depend on the number of threads.
dB and dC hold 1 / LANES of the numbers that the states would.
"""

from __future__ import annotations

import numpy as np
import torch

from src.ops.lanes import EXACT, SUMS, compiled, exp, f32, parallel_for

LANES = 64
# N x tokens of a chunk of the backward pass. Its states and decays, 2 x 1024 x LANES numbers, are 512 KiB.
CHUNK_STATES = 1024
ZERO = f32(0)


def forward(u, delta, A, B, C, D, state, neg_eigen: bool):
    """y (B, T, E) and the last state (B, E, N) of float32 tensors, without recording a gradient.

    D and state may be None.
    """
    inputs = _arrays(u, delta, A, B, C, D, state)
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(len(u), *A.shape)
    parallel_for(_scan, len(u) * _blocks(A), *inputs, y.numpy(), last.numpy(), *_transition(neg_eigen))
    return y, last


def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool):
    """From the gradients of y and of the last state (None: zeros): those of u, delta, A, B, C, D and the initial state.

    The gradient of D is None where D is.
    """
    (rows, T, _), (E, N) = u.shape, A.shape
    inputs = _arrays(u, delta, A, B, C, D, state)
    last = u.new_zeros(rows, E, N) if dlast is None else dlast.contiguous()
    du, ddelta = torch.empty(u.shape), torch.empty(u.shape)
    dA, dstate = torch.empty(rows, E, N), torch.empty(rows, E, N)
    dB, dC, dD = torch.zeros(rows, _blocks(A), T, N), torch.zeros(rows, _blocks(A), T, N), torch.zeros(rows, E)
    outputs = (t.numpy() for t in (du, ddelta, dA, dB, dC, dD, dstate))
    chunk = min(T, max(8, CHUNK_STATES // N))
    inputs = (*inputs, dy.contiguous().numpy(), last.numpy())
    parallel_for(_gradients, rows * _blocks(A), *inputs, *outputs, *_transition(neg_eigen), chunk)
    return du, ddelta, dA.sum(0), dB.sum(1), dC.sum(1), None if D is None else dD.sum(0), dstate


def _blocks(A) -> int:
    return -(-len(A) // LANES)


def _arrays(u, delta, A, B, C, D, state):
    """Contiguous NumPy views, with zeros for what is None."""
    D = torch.zeros(len(A)) if D is None else D
    state = u.new_zeros(len(u), *A.shape) if state is None else state
    return tuple(t.detach().contiguous().numpy() for t in (u, delta, A, B, C, D, state))


def _transition(neg_eigen: bool):
    """(scale, shift) of a = scale * exp(delta A) + shift."""
    return (f32(2), f32(-1)) if neg_eigen else (f32(1), ZERO)


@compiled(EXACT)
def _scan(u, delta, A, B, C, D, start, y, last, scale, shift, begin, end):
    """Fill items begin .. end - 1 of y and last. Item i is block i % blocks of batch row i // blocks."""
    T, E = u.shape[1:]
    N = A.shape[1]
    rate, h = np.empty((N, LANES), np.float32), np.empty((N, LANES), np.float32)
    d, x, out = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    blocks = (E + LANES - 1) // LANES
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        width = min(LANES, E - first)
        _transpose(A[first : first + width], rate)
        _transpose(start[row, first : first + width], h)
        for t in range(T):
            for i in range(width):
                d[i] = delta[row, t, first + i]
                x[i] = d[i] * u[row, t, first + i]
                out[i] = D[first + i] * u[row, t, first + i]
            for n in range(N):
                b, c = B[row, t, n], C[row, t, n]
                for i in range(LANES):
                    h[n, i] = (scale * exp(d[i] * rate[n, i]) + shift) * h[n, i] + x[i] * b
                    out[i] += c * h[n, i]
            for i in range(width):
                y[row, t, first + i] = out[i]
        for n in range(N):
            for i in range(width):
                last[row, first + i, n] = h[n, i]


@compiled(EXACT)
def _gradients(
    u, delta, A, B, C, D, start, dy, dlast, du, ddelta, dA, dB, dC, dD, dstart, scale, shift, chunk, begin, end
):
    """Fill items begin .. end - 1 of the gradients. dB, dC and dD come as zeros."""
    T, E = u.shape[1:]
    N = A.shape[1]
    chunks = (T + chunk - 1) // chunk
    rate, drate = np.empty((N, LANES), np.float32), np.empty((N, LANES), np.float32)
    g, out = np.empty((N, LANES), np.float32), np.zeros((chunk, LANES), np.float32)
    d, x = np.zeros((chunk, LANES), np.float32), np.zeros((chunk, LANES), np.float32)
    dd, dx = np.empty((chunk, LANES), np.float32), np.empty((chunk, LANES), np.float32)
    starts = np.empty((chunks, N, LANES), np.float32)
    states, decays = np.empty((chunk + 1, N, LANES), np.float32), np.empty((chunk, N, LANES), np.float32)
    blocks = (E + LANES - 1) // LANES
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        width = min(LANES, E - first)
        _transpose(A[first : first + width], rate)
        _transpose(start[row, first : first + width], starts[0])
        _transpose(dlast[row, first : first + width], g)
        _clear(drate)
        for k in range(chunks - 1):
            t, stop = k * chunk, (k + 1) * chunk
            _load_inputs(delta[row, t:stop], u[row, t:stop], d, x, first, width)
            _copy(starts[k], starts[k + 1])
            _advance(starts[k + 1], rate, d, x, B[row, t:stop], scale, shift)
        for k in range(chunks - 1, -1, -1):
            t, stop = k * chunk, min(T, (k + 1) * chunk)
            _load_inputs(delta[row, t:stop], u[row, t:stop], d, x, first, width)
            _load(dy[row, t:stop], out, first, width)
            _copy(starts[k], states[0])
            b, c = B[row, t:stop], C[row, t:stop]
            db, dc = dB[row, item % blocks, t:stop], dC[row, item % blocks, t:stop]
            _states(states, decays, rate, d, x, b, scale, shift)
            _back(states, decays, rate, d, x, out, b, c, db, dc, g, drate, dd, dx, scale, shift)
            for q in range(stop - t):
                for i in range(width):
                    e, given = first + i, u[row, t + q, first + i]
                    du[row, t + q, e] = dx[q, i] * d[q, i] + out[q, i] * D[e]
                    ddelta[row, t + q, e] = dd[q, i] + dx[q, i] * given
                    dD[row, e] += out[q, i] * given
        for n in range(N):
            for i in range(width):
                dA[row, first + i, n] = drate[n, i]
                dstart[row, first + i, n] = g[n, i]


@compiled(EXACT)
def _transpose(source, target):
    """Write source (width, N) into the first lanes of target (N, LANES), zeros into the others."""
    for n in range(target.shape[0]):
        for i in range(LANES):
            target[n, i] = source[i, n] if i < source.shape[0] else ZERO


@compiled(EXACT)
def _clear(target):
    for n in range(target.shape[0]):
        for i in range(LANES):
            target[n, i] = ZERO


@compiled(EXACT)
def _copy(source, target):
    for n in range(target.shape[0]):
        for i in range(LANES):
            target[n, i] = source[n, i]


@compiled(EXACT)
def _load_inputs(delta, u, d, x, first, width):
    """Write delta and delta * u of one chunk, (tokens, E), into lanes, zeros into those past the last channel."""
    for q in range(delta.shape[0]):
        for i in range(width):
            d[q, i] = delta[q, first + i]
            x[q, i] = delta[q, first + i] * u[q, first + i]
        for i in range(width, LANES):
            d[q, i] = ZERO
            x[q, i] = ZERO


@compiled(EXACT)
def _load(source, target, first, width):
    """Write one chunk of source, (tokens, E), into lanes, zeros into those past the last channel."""
    for q in range(source.shape[0]):
        for i in range(width):
            target[q, i] = source[q, first + i]
        for i in range(width, LANES):
            target[q, i] = ZERO


@compiled(EXACT)
def _advance(h, rate, d, x, B, scale, shift):
    """Replace the state h before a chunk by the state after it."""
    for q in range(B.shape[0]):
        for n in range(rate.shape[0]):
            b = B[q, n]
            for i in range(LANES):
                h[n, i] = (scale * exp(d[q, i] * rate[n, i]) + shift) * h[n, i] + x[q, i] * b


@compiled(EXACT)
def _states(states, decays, rate, d, x, B, scale, shift):
    """Fill states[1:] of a chunk from states[0], and decays with exp(delta A) of each token."""
    for q in range(B.shape[0]):
        for n in range(rate.shape[0]):
            b = B[q, n]
            for i in range(LANES):
                e = exp(d[q, i] * rate[n, i])
                decays[q, n, i] = e
                states[q + 1, n, i] = (scale * e + shift) * states[q, n, i] + x[q, i] * b


@compiled(SUMS)
def _back(states, decays, rate, d, x, out, B, C, dB, dC, g, drate, dd, dx, scale, shift):
    """Go back through one chunk. g is the gradient of the state after it, and becomes that of the state before it.

    dd, dx: (tokens, LANES), filled with the gradients of delta (through the decay alone) and of delta * u. dB, dC and
    drate are added to.
    """
    for q in range(B.shape[0] - 1, -1, -1):
        for i in range(LANES):
            dd[q, i] = ZERO
            dx[q, i] = ZERO
        for n in range(rate.shape[0]):
            b, c = B[q, n], C[q, n]
            db, dc = ZERO, ZERO
            for i in range(LANES):
                whole = g[n, i] + out[q, i] * c
                slope = scale * decays[q, n, i]
                db += whole * x[q, i]
                dc += out[q, i] * states[q + 1, n, i]
                dx[q, i] += whole * b
                m = whole * states[q, n, i] * slope
                dd[q, i] += m * rate[n, i]
                drate[n, i] += m * d[q, i]
                g[n, i] = whole * (slope + shift)
            dB[q, n] += db
            dC[q, n] += dc
