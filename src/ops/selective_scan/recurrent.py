"""The selective scan as the recurrence itself, compiled by numba: float32 on a CPU, linear in T, with a backward pass that keeps no states.

Vector lanes are LANES neighbouring channels of E; state and decay rates of such a block, (N, LANES) numbers each, stay in the first-level
cache while time passes. One exponential a state and token is most of the work, hence lanes.exp.

Backward, one block of channels after the other: a first pass leaves the state at the start of every chunk of time; then, from the last chunk to
the first, the chunk's states and decays are formed again into a scratch that fits the second-level cache, and a sweep runs back through them:

    g_t = dy_t C_t + a_{t+1} g_{t+1}         gradient of h_t
    dB_t = sum_e g_t (delta u)_t ,  dC_t = sum_e dy_t h_t ,  d(delta u)_t = sum_n g_t B_t ,  d(delta A)_t = g_t h_{t-1} da_t/d(delta A)

Every pair of a row of the batch and a block of channels is computed by itself, and what they share (dA, dB, dC, dD) is added up afterwards, so
the numbers do not depend on the number of threads. The parts of dB and dC hold 1 / LANES of the numbers that the states would.
"""

from __future__ import annotations

import numpy as np
import torch

from src.ops.lanes import EXACT, SUMS, compiled, exp, f32, parallel_for

LANES = 64
CHUNK_STATES = 1024  # states of one channel in the scratch of the backward pass: N x tokens of a chunk. 2 x 1024 x LANES floats are 512 KiB
ZERO = f32(0)


def forward(u, delta, A, B, C, D, state, neg_eigen: bool):
    """y (B, T, E) and the last state (B, E, N) of float32 tensors; no gradient is recorded. D and state may be None."""
    inputs = _arrays(u, delta, A, B, C, D, state)
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(len(u), *A.shape)
    parallel_for(_scan, len(u) * _blocks(A), *inputs, y.numpy(), last.numpy(), *_transition(neg_eigen))
    return y, last


def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool):
    """Gradients of u, delta, A, B, C, D (None without D) and the initial state, from those of y and of the last state (None: zeros)."""
    (rows, T, _), (E, N) = u.shape, A.shape
    inputs = _arrays(u, delta, A, B, C, D, state)
    last = u.new_zeros(rows, E, N) if dlast is None else dlast.contiguous()
    du, ddelta = torch.empty(u.shape), torch.empty(u.shape)
    dA, dstate = torch.empty(rows, E, N), torch.empty(rows, E, N)
    dB, dC, dD = torch.zeros(rows, _blocks(A), T, N), torch.zeros(rows, _blocks(A), T, N), torch.zeros(rows, E)
    outputs = (t.numpy() for t in (du, ddelta, dA, dB, dC, dD, dstate))
    chunk = min(T, max(8, CHUNK_STATES // N))
    parallel_for(
        _gradients,
        rows * _blocks(A),
        *inputs,
        dy.contiguous().numpy(),
        last.numpy(),
        *outputs,
        *_transition(neg_eigen),
        chunk,
    )
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
    """Fill items begin .. end - 1 of y and last; item i is block i % blocks of row i // blocks."""
    T, E = u.shape[1:]
    N = A.shape[1]
    rate, h = np.empty((N, LANES), np.float32), np.empty((N, LANES), np.float32)
    d, x, out = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    blocks = (E + LANES - 1) // LANES
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        width = min(LANES, E - first)
        _turn(A[first : first + width], rate)
        _turn(start[row, first : first + width], h)
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
    """Fill items begin .. end - 1 of the gradients; dA (B, E, N) and dD (B, E) are apart by row, dB and dC (B, blocks, T, N) by item as well,
    and these last three come as zeros."""
    T, E = u.shape[1:]
    N = A.shape[1]
    chunks = (T + chunk - 1) // chunk
    rate, g, drate = (
        np.empty((N, LANES), np.float32),
        np.empty((N, LANES), np.float32),
        np.empty((N, LANES), np.float32),
    )
    d, x, out = (
        np.zeros((chunk, LANES), np.float32),
        np.zeros((chunk, LANES), np.float32),
        np.zeros((chunk, LANES), np.float32),
    )
    dd, dx = np.empty((chunk, LANES), np.float32), np.empty((chunk, LANES), np.float32)
    starts = np.empty((chunks, N, LANES), np.float32)
    states, decays = np.empty((chunk + 1, N, LANES), np.float32), np.empty((chunk, N, LANES), np.float32)
    blocks = (E + LANES - 1) // LANES
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        width = min(LANES, E - first)
        _turn(A[first : first + width], rate)
        _turn(start[row, first : first + width], starts[0])
        _turn(dlast[row, first : first + width], g)
        _clear(drate)
        for k in range(chunks - 1):
            _load(delta[row, k * chunk : (k + 1) * chunk], u[row, k * chunk : (k + 1) * chunk], d, x, first, width)
            _copy(starts[k], starts[k + 1])
            _advance(starts[k + 1], rate, d, x, B[row, k * chunk : (k + 1) * chunk], scale, shift)
        for k in range(chunks - 1, -1, -1):
            t, stop = k * chunk, min(T, (k + 1) * chunk)
            _load(delta[row, t:stop], u[row, t:stop], d, x, first, width)
            _pick(dy[row, t:stop], out, first, width)
            _copy(starts[k], states[0])
            _states(states, decays, rate, d, x, B[row, t:stop], scale, shift)
            _back(
                states,
                decays,
                rate,
                d,
                x,
                out,
                B[row, t:stop],
                C[row, t:stop],
                dB[row, item % blocks, t:stop],
                dC[row, item % blocks, t:stop],
                g,
                drate,
                dd,
                dx,
                scale,
                shift,
            )
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
def _turn(source, target):
    """source (width, N) into the first lanes of target (N, LANES), zeros into the others."""
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
def _load(delta, u, d, x, first, width):
    """delta and delta * u of one chunk, (tokens, E), into lanes, zeros into those beyond E."""
    for q in range(delta.shape[0]):
        for i in range(width):
            d[q, i] = delta[q, first + i]
            x[q, i] = delta[q, first + i] * u[q, first + i]
        for i in range(width, LANES):
            d[q, i] = ZERO
            x[q, i] = ZERO


@compiled(EXACT)
def _pick(source, target, first, width):
    """One chunk of source, (tokens, E), into lanes, zeros into those beyond E."""
    for q in range(source.shape[0]):
        for i in range(width):
            target[q, i] = source[q, first + i]
        for i in range(width, LANES):
            target[q, i] = ZERO


@compiled(EXACT)
def _advance(h, rate, d, x, B, scale, shift):
    """The state h after one chunk, in place."""
    for q in range(B.shape[0]):
        for n in range(rate.shape[0]):
            b = B[q, n]
            for i in range(LANES):
                h[n, i] = (scale * exp(d[q, i] * rate[n, i]) + shift) * h[n, i] + x[q, i] * b


@compiled(EXACT)
def _states(states, decays, rate, d, x, B, scale, shift):
    """states[1:] of a chunk from states[0], and exp(delta A) of every token."""
    for q in range(B.shape[0]):
        for n in range(rate.shape[0]):
            b = B[q, n]
            for i in range(LANES):
                e = exp(d[q, i] * rate[n, i])
                decays[q, n, i] = e
                states[q + 1, n, i] = (scale * e + shift) * states[q, n, i] + x[q, i] * b


@compiled(SUMS)
def _back(states, decays, rate, d, x, out, B, C, dB, dC, g, drate, dd, dx, scale, shift):
    """Back through one chunk: g, the gradient of the state after it from later tokens alone, becomes that of the state before it.

    dd, dx (tokens, LANES): gradients of delta (through the decay alone) and of delta * u; dB, dC and drate are added to.
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
