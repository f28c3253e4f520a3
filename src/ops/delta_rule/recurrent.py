"""The delta rule on a CPU as the recurrence itself, compiled by numba: one pass over memory forward, two backward.

Per head and token the state of K x V numbers is read and written twice, in the first-level cache: once to ask what it holds for the key, once
to write. With a_t = exp(decay_t), e_t = v_t - a_t S_{t-1}^T k_t and u_t = beta_t e_t the state is S_t = a_t S_{t-1} + k_t u_t^T, and the backward pass, which
recomputes the states of a chunk from the state at its start and walks it back with the gradient G of the state, is

    G   <- G + scale q_t do_t^T     du = G^T k_t    dv_t = beta_t du    dbeta_t = du . e_t    dq_t = scale S_t do_t
    dk_t = G u_t - a_t S_{t-1} dv_t                 G <- G - k_t dv_t^T
    d decay_t = a_t sum(S_{t-1} * G)                G <- a_t G

float32 only. The buffer `w`, the constant V and the cache of compiled kernels: as in src/ops/linear_attention/recurrent.py with its K.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from src.ops import lanes
from src.ops.linear_attention.recurrent import ARRAY, STARTS, arrays, compiled

CHUNK = 32  # tokens whose states the backward pass holds: 128 KB with K = V = 32
HEADS = "f4[:, :, ::1]"  # beta and gate


@torch.compiler.disable  # numba cannot be traced
def run(q, k, v, beta, decay, state, scale):
    """The arguments and result of eager.run, for float32, bf16 and fp16 on a CPU."""
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
        lanes.parallel_for(forward, B * H, *arrays(q, k, v, beta, _gate(decay, beta)), scale, *arrays(state, starts, o))
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
        lanes.parallel_for(
            backward,
            q.shape[0] * q.shape[2],
            *inputs,
            ctx.scale,
            *arrays(do, starts, dstate, dq, dk, dv, dbeta, ddecay),
        )
        return dq, dk, dv, dbeta, None if decay is None else ddecay, dstate, None


def _gate(decay, beta):
    return torch.ones(()).expand(beta.shape) if decay is None else decay.exp()


@functools.lru_cache(maxsize=16)
def kernels(V: int):
    """(forward, backward) for values of size V."""
    VALUE, OUT, HELD, GRAD, DVALUE, DA, FREE = 0, V, 2 * V, 3 * V, 4 * V, 5 * V, 6 * V  # places in w

    @compiled(f"({ARRAY}, {ARRAY}, {ARRAY}, {HEADS}, {HEADS}, f8, {ARRAY}, {STARTS}, {ARRAY}, i8, i8)")
    def forward(q, k, v, beta, gate, scale, state, starts, o, first, last):
        T, H, K = q.shape[1], q.shape[2], q.shape[3]
        w = np.empty(FREE + K * V, np.float32)  # the state from FREE on
        factor = np.float32(scale)
        for row in range(first, last):
            b, h = row // H, row % H
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
        f"({ARRAY}, {ARRAY}, {ARRAY}, {HEADS}, {HEADS}, f8, {ARRAY}, {STARTS}, {ARRAY}, {ARRAY}, {ARRAY}, {ARRAY}, {HEADS}, {HEADS}, i8, i8)"
    )
    def backward(q, k, v, beta, gate, scale, do, starts, dstate, dq, dk, dv, dbeta, ddecay, first, last):
        T, H, K = q.shape[1], q.shape[2], q.shape[3]
        w = np.empty(FREE + K * V, np.float32)  # the gradient of the state from FREE on
        states = np.empty(K * (CHUNK + 1) * V, np.float32)  # of each row i, before each token of the chunk
        errors = np.empty((CHUNK, V), np.float32)
        factor = np.float32(scale)
        for row in range(first, last):
            b, h = row // H, row % H
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
                    s = max(
                        end - begin - 1 - back, 0
                    )  # max tells the compiler that no index is negative; without it no loop is vectorised
                    t = begin + s
                    for j in range(V):
                        w[GRAD + j], w[DVALUE + j], w[DA + j] = do[b, t, h, j] * factor, 0, 0
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
                            w[DA + j] += states[S + j] * g
                            w[G + j] = a * g
                        dk[b, t, h, i] = dkey
                    for j in range(V):
                        dgate += w[DA + j]
                    dbeta[b, t, h], ddecay[b, t, h] = dstrength, a * dgate
            for i in range(K):
                for j in range(V):
                    dstate[b, h, i, j] = w[FREE + i * V + j]

    return forward, backward
