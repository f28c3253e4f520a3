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
float32. i < LANES is the lane, channel first + i of E.

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

from src.ops.lanes import EXACT, compiled, f32, flat, parallel_for, rows_of
from src.ops.vector import (
    LANES,
    LOG2_E,
    exp2,
    load,
    load_first,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    store_first,
    total,
)

# N x tokens of a chunk of the backward pass. Its states and decays, 2 x 512 x LANES numbers, are 128 KiB.
CHUNK_STATES = 512
ZERO, TO_LOG2 = f32(0), f32(LOG2_E)


def forward(u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
    """y in u's dtype and the last state (B, E, N) float32, without recording a gradient.

    u, delta, B, C: float32 or bf16.  A and the others: float32. D and state may be None. bias (E,): delta is then
    softplus(delta + bias).
    """
    inputs = _inputs(u, delta, A, B, C, D, state, bias)
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), A.new_empty(len(u), *A.shape)
    parallel_for(_scan, len(u) * _blocks(A), *inputs, flat(y), flat(last), *u.shape[1:], *_transition(neg_eigen))
    return y, last


def backward(dy, dlast, u, delta, A, B, C, D, state, neg_eigen: bool, bias=None):
    """From the gradients of y and of the last state (None: zeros): those of u, delta, A, B, C, D, the state and bias.

    The gradients of D and of bias are None where these are. Those of u and delta have their dtypes, the others are
    float32.
    """
    (rows, T, E), N = u.shape, A.shape[1]
    inputs = _inputs(u, delta, A, B, C, D, state, bias)
    last = A.new_zeros(rows, E, N) if dlast is None else dlast.float()
    du, ddelta = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (u, delta))
    dA, dstate, dD, dbias = (torch.empty(rows, *shape) for shape in ((E, N), (E, N), (E,), (E,)))
    dB, dC = torch.empty(rows, _blocks(A), T, N), torch.empty(rows, _blocks(A), T, N)
    outputs = (flat(t) for t in (du, ddelta, dA, dB, dC, dD, dstate, dbias))
    chunk = min(T, max(8, CHUNK_STATES // N))
    gradients = flat(dy.to(u.dtype)), flat(last)
    parallel_for(_gradients, rows * _blocks(A), *inputs, *gradients, *outputs, T, E, *_transition(neg_eigen), chunk)
    dD, dbias = None if D is None else dD.sum(0), None if bias is None else dbias.sum(0)
    return du, ddelta, dA.sum(0), dB.sum(1), dC.sum(1), dD, dstate, dbias


def _blocks(A) -> int:
    return -(-len(A) // LANES)


def _inputs(u, delta, A, B, C, D, state, bias):
    """The first arguments of both kernels, with zeros for what is None."""
    D = A.new_zeros(len(A)) if D is None else D
    state = A.new_zeros(len(u), *A.shape) if state is None else state
    bias = A.new_empty(0) if bias is None else bias
    return (*(flat(t) for t in (u, delta, bias, A, D, state)), *rows_of(B), *rows_of(C))


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
        width = min(LANES, E - first)
        _transpose(A, first * N, rate, width, N, TO_LOG2)
        _transpose(start, (row * E + first) * N, h, width, N, f32(1))
        skip = load_first(D, first, width)
        for t in range(row * T, (row + 1) * T):
            at = t * E + first
            given, d = load_first(u, at, width), _steps(raw, bias, at, first, width)
            x, out = d * given, skip * given
            for n in range(N):
                state = (scales * exp2(d * load(rate, n * LANES)) + shifts) * load(h, n * LANES)
                state = state + x * spread(B, t * B_pitch + n)
                store(h, n * LANES, state)
                out = out + state * spread(C, t * C_pitch + n)
            store_first(y, at, out, width)
        _transpose_back(h, last, (row * E + first) * N, width, N)


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
        width = min(LANES, E - first)
        _transpose(A, first * N, rate, width, N, TO_LOG2)
        _transpose(start, (row * E + first) * N, starts, width, N, f32(1))
        _transpose(dlast, (row * E + first) * N, g, width, N, f32(1))
        drate[:] = ZERO
        dskip, dshift = splat(ZERO), splat(ZERO)
        for k in range(chunks - 1):
            now = (k + 1) * block
            starts[now : now + block] = starts[now - block : now]
            t = row * T + k * chunk
            _advance(
                u, raw, bias, B, B_pitch, rate, starts, now, 0, decays, sizes, t, t + chunk, E, first, width, scale,
                shift,
            )  # fmt: skip
        for k in range(chunks - 1, -1, -1):
            t, stop = row * T + k * chunk, row * T + min(T, (k + 1) * chunk)
            states[:block] = starts[k * block : (k + 1) * block]
            _advance(
                u, raw, bias, B, B_pitch, rate, states, 0, block, decays, sizes, t, stop, E, first, width, scale, shift
            )
            part = ((row * blocks + item % blocks) * T - row * T) * N
            more = _back(
                u, raw, bias, B, B_pitch, C, C_pitch, D, dy, rate, states, decays, sizes, g, drate, du, draw, dB, dC,
                part, t, stop, E, first, width, scale, shift,
            )  # fmt: skip
            dskip, dshift = dskip + more[0], dshift + more[1]
        store_first(dD, row * E + first, dskip, width)
        store_first(dbias, row * E + first, dshift, width)
        _transpose_back(drate, dA, (row * E + first) * N, width, N)
        _transpose_back(g, dstart, (row * E + first) * N, width, N)


@compiled(EXACT)
def _advance(
    u, raw, bias, B, B_pitch, rate, states, place, hop, decays, sizes, begin, end, E, first, width, scale, shift
):
    """Go from the state at states[place] through tokens begin .. end - 1.

    hop: N x LANES to keep the state after each token, after the one before it, and likewise its decays; 0 to keep only
    the last one. sizes is filled with the steps delta.
    """
    N = len(rate) // LANES
    scales, shifts = splat(scale), splat(shift)
    decay = 0
    for t in range(begin, end):
        at = t * E + first
        d = _steps(raw, bias, at, first, width)
        store(sizes, (t - begin) * LANES, d)
        x = d * load_first(u, at, width)
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
    end, E, first, width, scale, shift,
):  # fmt: skip
    """Go back from token end - 1 to begin. g is the gradient of the state after them, and becomes that before them.

    drate is added to. Returns what these tokens add to the gradients of D and of the bias.
    """
    N = len(rate) // LANES
    scales, shifts, zero, one_over = splat(scale), splat(shift), splat(ZERO), splat(f32(1) / TO_LOG2)
    dskip, dshift, skip = zero, zero, load_first(D, first, width)
    for t in range(end - 1, begin - 1, -1):
        at, place = t * E + first, (t - begin) * N * LANES
        given, out, d = load_first(u, at, width), load_first(dy, at, width), load(sizes, (t - begin) * LANES)
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
            dd = dd * sigmoid(load_first(raw, at, width) + load_first(bias, first, width))
        store_first(du, at, dx * d + out * skip, width)
        store_first(draw, at, dd, width)
        dskip, dshift = dskip + out * given, dshift + dd
    return dskip, dshift


@compiled(EXACT)
def _steps(raw, bias, at, first, width):
    """The steps delta of one token and block."""
    d = load_first(raw, at, width)
    return softplus(d + load_first(bias, first, width)) if len(bias) else d


@compiled(EXACT)
def _transpose(source, begin, target, width, N, factor):
    """Write factor x source[begin ..] (width, N) into the first lanes of target (N, LANES), zeros into the others."""
    for n in range(N):
        for i in range(LANES):
            target[n * LANES + i] = source[begin + i * N + n] * factor if i < width else ZERO


@compiled(EXACT)
def _transpose_back(source, target, begin, width, N):
    """Write the first lanes of source (N, LANES) into target[begin ..] (width, N)."""
    for n in range(N):
        for i in range(width):
            target[begin + i * N + n] = source[n * LANES + i]
