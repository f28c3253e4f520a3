"""The delta rule on a CPU as the recurrence itself, compiled by numba: one pass over time forward, two backward.

Per head and token the state of K x V numbers is read and written twice, in the first-level cache: once to ask what it
holds for the key, once to write. With a_t = exp(decay_t), e_t = v_t - a_t S_{t-1}^T k_t and u_t = beta_t e_t, the state
is S_t = a_t S_{t-1} + k_t u_t^T. The backward pass keeps no state per token. For each chunk, last one first, it
computes the states again from the state at the chunk's start. Then it goes back through the chunk with G, the gradient
of the state. Per token, from top to bottom:

    G        <- G + scale q_t do_t^T           dq_t    = scale S_t do_t
    du        = G^T k_t                        dv_t    = beta_t du             dbeta_t = du . e_t
    dk_t      = G u_t - a_t S_{t-1} dv_t       G      <- G - k_t dv_t^T
    d decay_t = a_t sum(S_{t-1} * G)           G      <- a_t G

Buffers. All are float32 in C order: the last index is contiguous. j < V counts value channels and is the vector lane,
i < K counts key channels.

    w, flat, one per thread                                        forward: line i holds S[i, :]; backward: G[i, :]
    0        V      2V      3V      4V       5V      6V = FREE                                      6V + K V
    | value  | out  | held  | grad  | dvalue | dgate | line i = 0 | line i = 1 | ... | line i = K - 1 |
      u_t      o_t    S^T k   do      dv       per lane of j, summed at the end

    states, flat, one per thread, backward pass only              the states of one chunk, s = 0 is the one at its start
    | i = 0: s = 0 | s = 1 | ... | s = CHUNK | i = 1: s = 0 | ... |           S[i, j] at (i (CHUNK + 1) + s) V + j

    errors  (CHUNK, V), one per thread, backward pass only                    e_t of each token of the chunk
    starts  (B, H, chunks, K, V)     the state at the start of each chunk, written forward, read backward
    state, dstate  (B, H, K, V)      q, k, dq, dk  (B, T, H, K)      v, o, do, dv  (B, T, H, V)
    beta, gate, dbeta, ddecay  (B, T, H)                                      gate is exp(decay), 1 without a decay

A thread owns a range of items. Item b H + h is head h of batch row b, with all its tokens. No number is written by two
threads. Why `w` is one buffer, and why each V is compiled for itself: see src/ops/linear_attention/recurrent.py, where
K has this role.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from src.ops.compiler import untraced
from src.ops.lanes import SUMS, compiled, parallel_for
from src.ops.linear_attention.recurrent import ARRAY, STARTS, arrays

CHUNK = 32  # tokens whose states the backward pass holds: 128 KB with K = V = 32
HEADS = "f4[:, :, ::1]"  # beta and gate


@untraced
def run(q, k, v, beta, decay, state, scale):
    """Arguments and result as in chunked.run, for float32, bf16 and fp16 on a CPU."""
    (B, _, H, K), V = q.shape, v.shape[-1]
    state = q.new_zeros(B, H, K, V, dtype=torch.float32) if state is None else state.float()
    decay = None if decay is None else decay.float()
    o, state = _DeltaRule.apply(q.float(), k.float(), v.float(), beta.float(), decay, state, scale)
    return o.to(v.dtype), state


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, beta, decay, state, scale):
        (B, T, H, K), V = q.shape, v.shape[-1]
        o, state = q.new_empty(B, T, H, V), state.clone(memory_format=torch.contiguous_format)
        starts = q.new_empty(B, H, -(-T // CHUNK) if any(ctx.needs_input_grad) else 0, K, V)
        forward, _ = kernels(V)
        parallel_for(forward, B * H, *arrays(q, k, v, beta, _gate(decay, beta)), scale, *arrays(state, starts, o))
        ctx.save_for_backward(q, k, v, beta, decay, starts)
        ctx.scale = scale
        return o, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dstate):
        q, k, v, beta, decay, starts = ctx.saved_tensors
        dq, dk, dv, dbeta, ddecay = (
            torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v, beta, beta)
        )
        dstate = dstate.clone(memory_format=torch.contiguous_format)
        _, backward = kernels(v.shape[3])
        inputs = arrays(q, k, v, beta, _gate(decay, beta))
        outputs = arrays(do, starts, dstate, dq, dk, dv, dbeta, ddecay)
        parallel_for(backward, q.shape[0] * q.shape[2], *inputs, ctx.scale, *outputs)
        return dq, dk, dv, dbeta, None if decay is None else ddecay, dstate, None


def _gate(decay, beta):
    """exp(decay) (B, T, H), ones without a decay."""
    return torch.ones(()).expand(beta.shape) if decay is None else decay.exp()


@functools.lru_cache(maxsize=16)
def kernels(V: int):
    """(forward, backward) for values of size V. Both fill items first .. last - 1."""
    VALUE, OUT, HELD, GRAD, DVALUE, DGATE, FREE = 0, V, 2 * V, 3 * V, 4 * V, 5 * V, 6 * V  # places in w, as drawn above

    @compiled(SUMS, f"({ARRAY}, {ARRAY}, {ARRAY}, {HEADS}, {HEADS}, f8, {ARRAY}, {STARTS}, {ARRAY}, i8, i8)")
    def forward(q, k, v, beta, gate, scale, state, starts, o, first, last):
        T, H, K = q.shape[1], q.shape[2], q.shape[3]
        w = np.empty(FREE + K * V, np.float32)
        factor = np.float32(scale)
        for item in range(first, last):
            b, h = item // H, item % H
            for i in range(K):
                for j in range(V):
                    w[FREE + i * V + j] = state[b, h, i, j]
            for t in range(T):
                if starts.shape[2] and t % CHUNK == 0:
                    for i in range(K):
                        for j in range(V):
                            starts[b, h, t // CHUNK, i, j] = w[FREE + i * V + j]
                for j in range(V):
                    w[HELD + j], w[OUT + j] = 0, 0
                for i in range(K):
                    S, key = FREE + i * V, k[b, t, h, i]
                    for j in range(V):
                        w[HELD + j] += key * w[S + j]
                strength, a = beta[b, t, h], gate[b, t, h]
                for j in range(V):
                    w[VALUE + j] = strength * (v[b, t, h, j] - a * w[HELD + j])
                for i in range(K):
                    S, key, query = FREE + i * V, k[b, t, h, i], q[b, t, h, i] * factor
                    for j in range(V):
                        x = a * w[S + j] + key * w[VALUE + j]
                        w[S + j] = x
                        w[OUT + j] += query * x
                for j in range(V):
                    o[b, t, h, j] = w[OUT + j]
            for i in range(K):
                for j in range(V):
                    state[b, h, i, j] = w[FREE + i * V + j]

    @compiled(
        SUMS,
        f"({', '.join([ARRAY] * 3)}, {HEADS}, {HEADS}, f8, {ARRAY}, {STARTS}, {', '.join([ARRAY] * 4)}, "
        f"{HEADS}, {HEADS}, i8, i8)",
    )
    def backward(q, k, v, beta, gate, scale, do, starts, dstate, dq, dk, dv, dbeta, ddecay, first, last):
        T, H, K = q.shape[1], q.shape[2], q.shape[3]
        w = np.empty(FREE + K * V, np.float32)
        states = np.empty(K * (CHUNK + 1) * V, np.float32)
        errors = np.empty((CHUNK, V), np.float32)
        factor = np.float32(scale)
        for item in range(first, last):
            b, h = item // H, item % H
            for i in range(K):
                for j in range(V):
                    w[FREE + i * V + j] = dstate[b, h, i, j]
            for n in range(starts.shape[2] - 1, -1, -1):
                begin, end = n * CHUNK, min((n + 1) * CHUNK, T)
                for i in range(K):
                    for j in range(V):
                        states[i * (CHUNK + 1) * V + j] = starts[b, h, n, i, j]
                for s in range(end - begin):
                    t = begin + s
                    for j in range(V):
                        w[HELD + j], w[GRAD + j] = 0, do[b, t, h, j] * factor
                    for i in range(K):
                        S, key = (i * (CHUNK + 1) + s) * V, k[b, t, h, i]
                        for j in range(V):
                            w[HELD + j] += key * states[S + j]
                    strength, a = beta[b, t, h], gate[b, t, h]
                    for j in range(V):
                        errors[s, j] = v[b, t, h, j] - a * w[HELD + j]
                        w[VALUE + j] = strength * errors[s, j]
                    for i in range(K):
                        S, key, dquery = (i * (CHUNK + 1) + s) * V, k[b, t, h, i], np.float32(0)
                        for j in range(V):
                            x = a * states[S + j] + key * w[VALUE + j]
                            states[S + V + j] = x
                            dquery += w[GRAD + j] * x
                        dq[b, t, h, i] = dquery
                for back in range(end - begin):
                    # max tells the compiler that no index is negative; without it no loop is vectorised.
                    s = max(end - begin - 1 - back, 0)
                    t = begin + s
                    for j in range(V):
                        w[GRAD + j], w[DVALUE + j], w[DGATE + j] = do[b, t, h, j] * factor, 0, 0
                    for i in range(K):
                        G, key, query = FREE + i * V, k[b, t, h, i], q[b, t, h, i]
                        for j in range(V):
                            g = w[G + j] + query * w[GRAD + j]
                            w[G + j] = g
                            w[DVALUE + j] += key * g
                    strength, a, dstrength, dgate = beta[b, t, h], gate[b, t, h], np.float32(0), np.float32(0)
                    for j in range(V):
                        dstrength += w[DVALUE + j] * errors[s, j]
                        w[VALUE + j] = strength * errors[s, j]
                        w[DVALUE + j] *= strength
                        w[HELD + j] = a * w[DVALUE + j]
                        dv[b, t, h, j] = w[DVALUE + j]
                    for i in range(K):
                        G, S, key, dkey = FREE + i * V, (i * (CHUNK + 1) + s) * V, k[b, t, h, i], np.float32(0)
                        for j in range(V):
                            g = w[G + j]
                            dkey += w[VALUE + j] * g - w[HELD + j] * states[S + j]
                            g -= key * w[DVALUE + j]
                            w[DGATE + j] += states[S + j] * g
                            w[G + j] = a * g
                        dk[b, t, h, i] = dkey
                    for j in range(V):
                        dgate += w[DGATE + j]
                    dbeta[b, t, h], ddecay[b, t, h] = dstrength, a * dgate
            for i in range(K):
                for j in range(V):
                    dstate[b, h, i, j] = w[FREE + i * V + j]

    return forward, backward
