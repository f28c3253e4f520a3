"""Linear attention on a CPU as the recurrence itself, compiled by numba: one pass over time forward, two backward.

Per head and token the state of K x V numbers is read and written once, in the first-level cache. The chunked form
writes scores, scaled copies and transposed layouts to memory instead. The backward pass keeps no state per token. For
each chunk, last one first, it computes the states again from the state at the chunk's start. Then it goes back through
the chunk with dS, the gradient of the state:

    dS_t = exp(decay_{t+1}) dS_{t+1} + scale q_t do_t^T
    dq_t = scale S_t do_t        dk_t = dS_t v_t        dv_t = dS_t^T k_t
    d decay_t = exp(decay_t) rowsum(S_{t-1} * dS_t)

The last line is a sum of products, without a difference of large numbers, so it is exact however strong the decay is.

Buffers. All are float32 in C order: the last index is contiguous. i < K counts key channels and is the vector lane,
j < V counts value channels. States are stored transposed, (V, K), because their V lines do not depend on each other.

    w, flat, one per thread                                    forward: line j holds S[:, j]; backward: dS[:, j]
    0        K       2K        3K         4K       5K      6K = FREE                                      6K + V K
    | gate   | key   | query   | dquery   | dkey   | dgate | line j = 0 | line j = 1 | ... | line j = V - 1 |

    states, flat, one per thread, backward pass only           the states of one chunk, s = 0 is the one at its start
    | j = 0: s = 0 | s = 1 | ... | s = CHUNK | j = 1: s = 0 | ... |       S[i, j] at (j (CHUNK + 1) + s) K + i

    starts  (B, H, chunks, V, K)     the state at the start of each chunk, written forward, read backward
    state, dstate  (B, H, V, K)      q, k, dq, dk  (B, T, H, K)      v, o, do, dv  (B, T, H, V)
    gate, ddecay  (B, T, H, K), or (B, T, H, 1), or with a last size of 0 where there is no decay

A thread owns a range of items. Item b H + h is head h of batch row b, with all its tokens. No number is written by two
threads. `w` is one buffer with offsets that are multiples of the constant K. The compiler then sees that stores and
loads do not overlap, which is twice as fast as separate arrays. The price is one compilation for each K, about one
second, kept on disk by numba.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from src.ops.compiler import untraced
from src.ops.lanes import SUMS, compiled, parallel_for
from src.ops.linear_attention.heads import per_head

CHUNK = 32  # tokens whose states the backward pass holds: 128 KB with K = V = 32
ARRAY, STARTS = "f4[:, :, :, ::1]", "f4[:, :, :, :, ::1]"


@untraced
def run(q, k, v, decay, state, scale):
    """Arguments and result as in chunked.run, for float32, bf16 and fp16 on a CPU."""
    q, k = per_head(q, v), per_head(k, v)
    (B, _, H, K), V = q.shape, v.shape[-1]
    state = q.new_zeros(B, H, K, V, dtype=torch.float32) if state is None else state.float()
    decay = None if decay is None else decay.float()
    o, state = _LinearAttention.apply(q.float(), k.float(), v.float(), decay, state, scale)
    return o.to(v.dtype), state


def gates(decay, B: int, T: int):
    """exp(decay) as (B, T, H, K), (B, T, H, 1), or an empty (B, T, 1, 0) without a decay."""
    if decay is None:
        return torch.empty(B, T, 1, 0)
    gate = decay.exp()
    return gate if gate.dim() == 4 else gate.expand(B, T, -1)[..., None]


def gather(gradient, shape):
    """Sum the gradient of the decay, (B, T, H, K) or (B, T, H, 1), to the decay's own shape."""
    if len(shape) == 4:
        return gradient
    return gradient[..., 0] if len(shape) == 3 else gradient[..., 0].sum((0, 1))


class _LinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, decay, state, scale):
        (B, T, H, K), V = q.shape, v.shape[-1]
        o, state = q.new_empty(B, T, H, V), state.mT.clone(memory_format=torch.contiguous_format)
        starts = q.new_empty(B, H, -(-T // CHUNK) if any(ctx.needs_input_grad) else 0, V, K)
        forward, _ = kernels(K)
        parallel_for(forward, B * H, *arrays(q, k, v, gates(decay, B, T)), scale, *arrays(state, starts, o))
        ctx.save_for_backward(q, k, v, decay, starts)
        ctx.scale = scale
        return o, state.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dstate):
        q, k, v, decay, starts = ctx.saved_tensors
        B, T, H, K = q.shape
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        ddecay = q.new_empty(B, T, H, 0 if decay is None else K if decay.dim() == 4 else 1)
        dstate = dstate.mT.clone(memory_format=torch.contiguous_format)
        _, backward = kernels(K)
        inputs, outputs = arrays(q, k, v, gates(decay, B, T)), arrays(do, starts, dstate, dq, dk, dv, ddecay)
        parallel_for(backward, B * H, *inputs, ctx.scale, *outputs)
        return dq, dk, dv, None if decay is None else gather(ddecay, decay.shape), dstate.mT, None


def arrays(*tensors):
    """Contiguous NumPy arrays of the tensors."""
    return [t.detach().contiguous().numpy() for t in tensors]


@compiled(SUMS, f"(f4[::1], {ARRAY}, i8, i8, i8, i8)")
def _fill(w, gate, b, t, h, K):
    """Write the gate of one token to the start of w, one number per key channel for any kind of decay."""
    if gate.shape[3] == K:
        for i in range(K):
            w[i] = gate[b, t, h, i]
    else:
        one = gate[b, t, h, 0] if gate.shape[3] else np.float32(1)
        for i in range(K):
            w[i] = one


@functools.lru_cache(maxsize=16)
def kernels(K: int):
    """(forward, backward) for keys of size K. Both fill items first .. last - 1."""
    KEY, QUERY, DQUERY, DKEY, DGATE, FREE = K, 2 * K, 3 * K, 4 * K, 5 * K, 6 * K  # places in w, as drawn above

    @compiled(SUMS, f"({ARRAY}, {ARRAY}, {ARRAY}, {ARRAY}, f8, {ARRAY}, {STARTS}, {ARRAY}, i8, i8)")
    def forward(q, k, v, gate, scale, state, starts, o, first, last):
        T, H, V = q.shape[1], q.shape[2], v.shape[3]
        w = np.empty(FREE + V * K, np.float32)
        factor = np.float32(scale)
        for item in range(first, last):
            b, h = item // H, item % H
            for j in range(V):
                for i in range(K):
                    w[FREE + j * K + i] = state[b, h, j, i]
            for t in range(T):
                if starts.shape[2] and t % CHUNK == 0:
                    for j in range(V):
                        for i in range(K):
                            starts[b, h, t // CHUNK, j, i] = w[FREE + j * K + i]
                _fill(w, gate, b, t, h, K)
                for i in range(K):
                    w[KEY + i], w[QUERY + i] = k[b, t, h, i], q[b, t, h, i] * factor
                for j in range(V):
                    S, value, out = FREE + j * K, v[b, t, h, j], np.float32(0)
                    for i in range(K):
                        x = w[i] * w[S + i] + value * w[KEY + i]
                        w[S + i] = x
                        out += w[QUERY + i] * x
                    o[b, t, h, j] = out
            for j in range(V):
                for i in range(K):
                    state[b, h, j, i] = w[FREE + j * K + i]

    @compiled(SUMS, f"({', '.join([ARRAY] * 4)}, f8, {ARRAY}, {STARTS}, {', '.join([ARRAY] * 5)}, i8, i8)")
    def backward(q, k, v, gate, scale, do, starts, dstate, dq, dk, dv, ddecay, first, last):
        T, H, V, gated = q.shape[1], q.shape[2], v.shape[3], gate.shape[3]
        w = np.empty(FREE + V * K, np.float32)
        states = np.empty(V * (CHUNK + 1) * K, np.float32)
        factor = np.float32(scale)
        for item in range(first, last):
            b, h = item // H, item % H
            for j in range(V):
                for i in range(K):
                    w[FREE + j * K + i] = dstate[b, h, j, i]
            for n in range(starts.shape[2] - 1, -1, -1):
                begin, end = n * CHUNK, min((n + 1) * CHUNK, T)
                for j in range(V):
                    for i in range(K):
                        states[j * (CHUNK + 1) * K + i] = starts[b, h, n, j, i]
                for s in range(end - begin):
                    t = begin + s
                    _fill(w, gate, b, t, h, K)
                    for i in range(K):
                        w[KEY + i], w[DQUERY + i] = k[b, t, h, i], 0
                    for j in range(V):
                        S, value, grad = (j * (CHUNK + 1) + s) * K, v[b, t, h, j], do[b, t, h, j] * factor
                        for i in range(K):
                            x = w[i] * states[S + i] + value * w[KEY + i]
                            states[S + K + i] = x
                            w[DQUERY + i] += grad * x
                    for i in range(K):
                        dq[b, t, h, i] = w[DQUERY + i]
                for back in range(end - begin):
                    # max tells the compiler that no index is negative; without it no loop is vectorised.
                    s = max(end - begin - 1 - back, 0)
                    t = begin + s
                    _fill(w, gate, b, t, h, K)
                    for i in range(K):
                        w[KEY + i], w[QUERY + i], w[DKEY + i], w[DGATE + i] = k[b, t, h, i], q[b, t, h, i], 0, 0
                    for j in range(V):
                        G, S = FREE + j * K, (j * (CHUNK + 1) + s) * K
                        value, grad, dvalue = v[b, t, h, j], do[b, t, h, j] * factor, np.float32(0)
                        for i in range(K):
                            g = w[G + i] + grad * w[QUERY + i]
                            w[DKEY + i] += value * g
                            dvalue += w[KEY + i] * g
                            g *= w[i]
                            w[DGATE + i] += states[S + i] * g
                            w[G + i] = g
                        dv[b, t, h, j] = dvalue
                    total = np.float32(0)
                    for i in range(K):
                        dk[b, t, h, i] = w[DKEY + i]
                        total += w[DGATE + i]
                    if gated == 1:
                        ddecay[b, t, h, 0] = total
                    elif gated:
                        for i in range(K):
                            ddecay[b, t, h, i] = w[DGATE + i]
            for j in range(V):
                for i in range(K):
                    dstate[b, h, j, i] = w[FREE + j * K + i]

    return forward, backward
