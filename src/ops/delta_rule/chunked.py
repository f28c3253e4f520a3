"""The delta rule in torch: chunks of C tokens as matrix products and one triangular solve, one recurrence of states from chunk to chunk.

With g_ij = exp(sum of log decays from j + 1 to i) and b_i the same sum from the chunk's start, the update of token i, S_i = exp(decay_i) S_{i-1}
+ k_i u_i^T, is u_i = beta_i (v_i - exp(b_i) S_start^T k_i - sum_{j < i} g_ij (k_i . k_j) u_j): a unit lower triangular system for the u of a chunk

    (I + A) u = beta (v - exp(b) k S_start)          A_ij = beta_i g_ij (k_i . k_j), j < i

(the WY or UT form; Yang et al. 2024, arXiv:2406.06484, section 3.2; gated: arXiv:2412.06464, section 3.3). It is solved for both parts of the
right side at once, U = (I + A)^-1 beta v and W = (I + A)^-1 beta exp(b) k, all chunks side by side. The states then follow one product a chunk,
S_end = M S_start + k_out^T U with M = exp(b_C) I - k_out^T W, and outputs are again products of all chunks at once. Forward substitution keeps its
digits where beta is near 2 and keys repeat; doubling powers of A does not (their entries grow to 2^C before they cancel).
"""

from __future__ import annotations

import torch

from src.ops.linear_attention.chunked import chunk_size, chunks, in_segments, scalar_decays, start, unchunk
from src.ops.precision import accumulation_dtype

CHUNK = 32


def run(q, k, v, beta, decay, state, scale):
    """Arguments as of `delta_rule`, checked, on any device. Returns (o, state)."""
    dtype, out_dtype = accumulation_dtype(q, k, v, beta, decay, state), v.dtype
    o, state = in_segments(
        lambda *tensors: _segment(*tensors, scale, dtype), (q, k, v, beta, decay), start(q, v, state, dtype)
    )
    return o.to(out_dtype), state


def _segment(q, k, v, beta, decay, state, scale, dtype):
    T, K, V = q.shape[1], q.shape[3], v.shape[3]
    C = chunk_size(T, CHUNK)
    q, k, v, beta = (chunks(x.to(dtype), C) for x in (q, k, v, beta[..., None]))
    q_in, k_in, k_out, scores, overlaps = q, k, k, (q @ k.mT).tril(), k @ k.mT
    eye = torch.eye(K, dtype=dtype, device=q.device)
    if decay is not None:
        between, since_start, to_end = scalar_decays(chunks(decay[..., None], C)[..., 0], dtype)
        q_in, k_in, k_out, scores, overlaps = (
            q * since_start,
            k * since_start,
            k * to_end,
            scores * between,
            overlaps * between,
        )
        eye = eye * since_start[..., -1:, :]
    solved = torch.linalg.solve_triangular(
        (beta * overlaps).tril(-1), beta * torch.cat([v, k_in], -1), upper=False, unitriangular=True
    )
    U, W = solved.split([V, K], -1)
    before, state = _carry(eye - k_out.mT @ W, k_out.mT @ U, state)
    return unchunk(scores @ (U - W @ before) + q_in @ before, T, scale), state


def _carry(transitions, writes, state):
    """States (B, H, N, K, V) at the start of each chunk, and the last: S_{n+1} = transitions_n S_n + writes_n."""
    states = []
    for transition, write in zip(transitions.unbind(2), writes.unbind(2), strict=True):
        states.append(state)
        state = write + transition @ state
    return torch.stack(states, dim=2), state
