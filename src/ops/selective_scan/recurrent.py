"""The selective scan on a CPU as the recurrence itself, compiled by numba: float32, linear in T, no states kept.

A vector holds LANES neighbouring channels of E, a block. State and rates of a block stay in the first-level cache while
time passes. One exponential per state and token is most of the work: rates are multiplied by log2(e) beforehand, so
that it is exp2 alone.

Backward, for one block after the other: a first pass leaves the state at the start of each chunk of time. Then, from
the last chunk to the first, the chunk's states and decays are computed again into a scratch buffer that fits the
second-level cache, and a sweep goes back through them:

    g_t = dy_t C_t + a_{t+1} g_{t+1}                  the gradient of h_t
    dB_t = sum_e g_t (delta u)_t                      d(delta u)_t = sum_n g_t B_t
    dC_t = sum_e dy_t h_t                             d(delta A)_t = g_t h_{t-1} da_t / d(delta A)

Buffers. All are flat and in C order: the last index is contiguous. Those marked * are float32 or bf16, the others
float32. i < LANES is the lane, channel first + i of E. Where E does not fill the vectors, channels of zeros are added.

    u*, raw*, y*, dy*, du*, draw*  (B, T, E)          raw: the steps delta, or with a bias what softplus makes steps of
    B*, C*  (B, T, N), token t of row b at (b T + t) B_pitch, because they may be slices of a wider tensor
    A, start, last, dlast, dstart  (B, E, N), A without B           D, bias  (E,), bias with a size of 0 for none

    per thread, written with the block's state n in line n:
                        lane 0    lane 1    ...  lane LANES - 1
    h, g, rate  n = 0  | h[0, 0] | h[0, 1] | ... | h[0, LANES - 1] |      (N, LANES), filled by `_transpose`
                n = 1  | h[1, 0] | h[1, 1] | ... |
    starts             (chunks, N, LANES)                                 the state at the start of each chunk
    states, decays     (chunk + 1, N, LANES), (chunk, N, LANES)           h and exp(delta A) of one chunk

    dB, dC  (B, blocks, T, N)  apart by item        dA (B, E, N), dD, dbias (B, E)  apart by batch row

A thread owns a range of items. Item row * blocks + block is one block of channels of one batch row, with all its
tokens. What items share (dA, dB, dC, dD, dbias) is added up afterwards, so the numbers do not depend on the number of
threads. dB and dC hold 1 / LANES of the numbers that the states would.
"""

from __future__ import annotations

import numpy as np
import torch

from src.ops.lanes import EXACT, ZERO, array_dtype, compiled, f32, flat, parallel_for, rows_of
from src.ops.vector import (
    LANES,
    LOG2_E,
    exp2,
    load,
    padded,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    total,
    whole_vectors,
)

# N x tokens of a chunk of the backward pass. Its states and decays, 2 x 512 x LANES numbers, are 128 KiB.
CHUNK_STATES = 512
TO_LOG2 = f32(LOG2_E)


def forward(u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
    """y in u's dtype and the last state (B, E, N) float32, without recording a gradient.

    u, delta, B, C: float32 or bf16.  A and the others: float32. D and state may be None. bias (E,): delta is then
    softplus(delta + bias).
    """
    (rows, T, E), N = u.shape, A.shape[1]
    width = whole_vectors(E)
    y, last = torch.empty(rows, T, width, dtype=array_dtype(u)), torch.empty(rows, width, N)
    inputs = _inputs(u, delta, A, B, C, D, state, bias)
    parallel_for(_scan, rows * width // LANES, *inputs, flat(y), flat(last), T, width, *_transition(neg_eigen))
    return y[..., :E], last[:, :E]


def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
    """From the gradients of y and of the last state (None: zeros): those of u, delta, A, B, C, D, the state and bias.

    The gradients of D and of bias are None where these are. Those of u and delta have their dtypes, the others are
    float32.
    """
    (rows, T, E), N = u.shape, A.shape[1]
    width = whole_vectors(E)
    blocks = width // LANES
    du, draw = (torch.empty(rows, T, width, dtype=array_dtype(t)) for t in (u, delta))
    dA, dstate, dD, dbias = (torch.empty(rows, width, *shape) for shape in ((N,), (N,), (), ()))
    dB, dC = torch.empty(rows, blocks, T, N), torch.empty(rows, blocks, T, N)
    dlast = A.new_zeros(rows, E, N) if dlast is None else dlast
    inputs = *_inputs(u, delta, A, B, C, D, state, bias), flat(padded(dy.to(u.dtype))), flat(padded(dlast, 1))
    outputs = (flat(t) for t in (du, draw, dA, dB, dC, dD, dstate, dbias))
    chunk = min(T, max(8, CHUNK_STATES // N))
    parallel_for(_gradients, rows * blocks, *inputs, *outputs, T, width, *_transition(neg_eigen), chunk)
    dD, dbias = None if D is None else dD.sum(0)[:E], None if bias is None else dbias.sum(0)[:E]
    return du[..., :E], draw[..., :E], dA.sum(0)[:E], dB.sum(1), dC.sum(1), dD, dstate[:, :E], dbias


def _inputs(u, delta, A, B, C, D, state, bias):
    """The first arguments of both kernels, with zeros for what is None."""
    D = A.new_zeros(len(A)) if D is None else D
    state = A.new_zeros(len(u), *A.shape) if state is None else state
    bias = A.new_empty(0) if bias is None else bias
    channels = ((u, 2), (delta, 2), (bias, 0), (A, 0), (D, 0), (state, 1))
    return (*(flat(padded(t, axis)) for t, axis in channels), *rows_of(B), *rows_of(C))


def _transition(neg_eigen: bool):
    """(scale, shift) of a = scale * exp(delta A) + shift."""
    return (f32(2), f32(-1)) if neg_eigen else (f32(1), ZERO)


@compiled(EXACT)
def _scan(u, raw, bias, A, D, start, B, B_pitch, C, C_pitch, y, last, T, E, scale, shift, begin, end):
    """Fill items begin .. end - 1 of y and last. Item i is block i % blocks of batch row i // blocks."""
    N, blocks = len(A) // E, (E + LANES - 1) // LANES
    rate, h = np.empty(N * LANES, np.float32), np.empty(N * LANES, np.float32)
    scales, shifts = splat(scale), splat(shift)
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        _transpose(A, first * N, rate, N, TO_LOG2)
        _transpose(start, (row * E + first) * N, h, N, f32(1))
        skip = load(D, first)
        for t in range(row * T, (row + 1) * T):
            at = t * E + first
            given, d = load(u, at), _steps(raw, bias, at, first)
            x, out = d * given, skip * given
            for n in range(N):
                state = (scales * exp2(d * load(rate, n * LANES)) + shifts) * load(h, n * LANES)
                state = state + x * spread(B, t * B_pitch + n)
                store(h, n * LANES, state)
                out = out + state * spread(C, t * C_pitch + n)
            store(y, at, out)
        _transpose_back(h, last, (row * E + first) * N, N)


@compiled(EXACT)
def _gradients(
    u, raw, bias, A, D, start, B, B_pitch, C, C_pitch, dy, dlast, du, draw, dA, dB, dC, dD, dstart, dbias, T, E,
    scale, shift, chunk, begin, end,
):  # fmt: skip
    """Fill items begin .. end - 1 of the gradients."""
    N, blocks = len(A) // E, (E + LANES - 1) // LANES
    block, chunks = N * LANES, (T + chunk - 1) // chunk
    rate, drate, g = np.empty(block, np.float32), np.empty(block, np.float32), np.empty(block, np.float32)
    sizes, starts = np.empty(chunk * LANES, np.float32), np.empty((chunks + 1) * block, np.float32)
    states, decays = np.empty((chunk + 1) * block, np.float32), np.empty(chunk * block, np.float32)
    for item in range(begin, end):
        row, first = item // blocks, item % blocks * LANES
        _transpose(A, first * N, rate, N, TO_LOG2)
        _transpose(start, (row * E + first) * N, starts, N, f32(1))
        _transpose(dlast, (row * E + first) * N, g, N, f32(1))
        drate[:] = ZERO
        dskip, dshift = splat(ZERO), splat(ZERO)
        for k in range(chunks - 1):
            now = (k + 1) * block
            starts[now : now + block] = starts[now - block : now]
            t = row * T + k * chunk
            _advance(
                u, raw, bias, B, B_pitch, rate, starts, now, 0, decays, sizes, t, t + chunk, E, first, scale,
                shift,
            )  # fmt: skip
        for k in range(chunks - 1, -1, -1):
            t, stop = row * T + k * chunk, row * T + min(T, (k + 1) * chunk)
            states[:block] = starts[k * block : (k + 1) * block]
            _advance(u, raw, bias, B, B_pitch, rate, states, 0, block, decays, sizes, t, stop, E, first, scale, shift)
            part = ((row * blocks + item % blocks) * T - row * T) * N
            more = _back(
                u, raw, bias, B, B_pitch, C, C_pitch, D, dy, rate, states, decays, sizes, g, drate, du, draw, dB, dC,
                part, t, stop, E, first, scale, shift,
            )  # fmt: skip
            dskip, dshift = dskip + more[0], dshift + more[1]
        store(dD, row * E + first, dskip)
        store(dbias, row * E + first, dshift)
        _transpose_back(drate, dA, (row * E + first) * N, N)
        _transpose_back(g, dstart, (row * E + first) * N, N)


@compiled(EXACT)
def _advance(u, raw, bias, B, B_pitch, rate, states, place, hop, decays, sizes, begin, end, E, first, scale, shift):
    """Go from the state at states[place] through tokens begin .. end - 1.

    hop: N x LANES to keep the state after each token, after the one before it, and likewise its decays; 0 to keep only
    the last one. sizes is filled with the steps delta.
    """
    N = len(rate) // LANES
    scales, shifts = splat(scale), splat(shift)
    decay = 0
    for t in range(begin, end):
        at = t * E + first
        d = _steps(raw, bias, at, first)
        store(sizes, (t - begin) * LANES, d)
        x = d * load(u, at)
        for n in range(N):
            e = exp2(d * load(rate, n * LANES))
            state = (scales * e + shifts) * load(states, place + n * LANES) + x * spread(B, t * B_pitch + n)
            store(decays, decay + n * LANES, e)
            store(states, place + hop + n * LANES, state)
        place += hop
        decay += hop


@compiled(EXACT)
def _back(
    u, raw, bias, B, B_pitch, C, C_pitch, D, dy, rate, states, decays, sizes, g, drate, du, draw, dB, dC, part, begin,
    end, E, first, scale, shift,
):  # fmt: skip
    """Go back from token end - 1 to begin. g is the gradient of the state after them, and becomes that before them.

    drate is added to. Returns what these tokens add to the gradients of D and of the bias.
    """
    N = len(rate) // LANES
    scales, shifts, zero, one_over = splat(scale), splat(shift), splat(ZERO), splat(f32(1) / TO_LOG2)
    dskip, dshift, skip = zero, zero, load(D, first)
    for t in range(end - 1, begin - 1, -1):
        at, place = t * E + first, (t - begin) * N * LANES
        given, out, d = load(u, at), load(dy, at), load(sizes, (t - begin) * LANES)
        x, dd, dx = d * given, zero, zero
        for n in range(N):
            i, line = n * LANES, place + n * LANES
            whole = load(g, i) + out * spread(C, t * C_pitch + n)
            slope = scales * load(decays, line)
            dB[part + t * N + n] = total(whole * x)
            dC[part + t * N + n] = total(out * load(states, line + N * LANES))
            dx = dx + whole * spread(B, t * B_pitch + n)
            m = whole * slope * load(states, line)
            dd = dd + m * load(rate, i)
            store(drate, i, load(drate, i) + m * d)
            store(g, i, whole * (slope + shifts))
        dd = dd * one_over + dx * given
        if len(bias):
            dd = dd * sigmoid(load(raw, at) + load(bias, first))
        store(du, at, dx * d + out * skip)
        store(draw, at, dd)
        dskip, dshift = dskip + out * given, dshift + dd
    return dskip, dshift


@compiled(EXACT)
def _steps(raw, bias, at, first):
    """The steps delta of one token and block."""
    d = load(raw, at)
    return softplus(d + load(bias, first)) if len(bias) else d


@compiled(EXACT)
def _transpose(source, begin, target, N, factor):
    """Write factor x source[begin ..] (LANES, N) into target (N, LANES)."""
    for n in range(N):
        for i in range(LANES):
            target[n * LANES + i] = source[begin + i * N + n] * factor


@compiled(EXACT)
def _transpose_back(source, target, begin, N):
    """Write source (N, LANES) into target[begin ..] (LANES, N)."""
    for n in range(N):
        for i in range(LANES):
            target[begin + i * N + n] = source[n * LANES + i]
