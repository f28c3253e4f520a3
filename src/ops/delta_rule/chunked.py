"""The delta rule in torch: chunks of C tokens as matrix products and a triangular solve, and a recurrence over chunks.

README.md derives this form step by step. With the update S_i = exp(decay_i) S_{i-1} + k_i u_i^T, the u of a chunk solve
a unit lower triangular system (the WY form; Yang et al. 2024, arXiv:2406.06484, section 3.2; with decays:
arXiv:2412.06464, section 3.3):

    (I + A) u = beta (v - k_in S_start)      A_ij = beta_i exp(b_i - b_j) (k_i . k_j) for j < i,   k_in_i = exp(b_i) k_i
    u         = U - W S_start                U = (I + A)^-1 beta v,   W = (I + A)^-1 beta k_in
    S_end     = (exp(b_C) I - k_out^T W) S_start + k_out^T U          k_out_j = exp(b_C - b_j) k_j

b_i is the sum of the log decays from the chunk's start up to token i. U and W do not need S_start, so all chunks are
solved at once. `between`, `since` and `to_end` are the decays of src/ops/linear_attention/chunked.py.
"""

from __future__ import annotations

import torch

from src.ops.linear_attention.chunked import chunk_size, chunks, in_segments, scalar_decays, start, unchunk
from src.ops.precision import accumulation_dtype

CHUNK = 32


def run(q, k, v, beta, decay, state, scale):
    """Compute (o, state) on any device. The arguments are those of `delta_rule`, already checked."""
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
        between, since, to_end = scalar_decays(chunks(decay[..., None], C)[..., 0], dtype)
        q_in, k_in, k_out = q * since, k * since, k * to_end
        scores, overlaps = scores * between, overlaps * between
        eye = eye * since[..., -1:, :]
    # Forward substitution keeps its digits where beta is near 2 and keys repeat. Doubling powers of A does not: their
    # entries grow to 2^C before they cancel.
    A = (beta * overlaps).tril(-1)  # unitriangular: the ones on the diagonal of I + A are implied
    solved = torch.linalg.solve_triangular(A, beta * torch.cat([v, k_in], -1), upper=False, unitriangular=True)
    U, W = solved.split([V, K], -1)
    before, state = _carry(eye - k_out.mT @ W, k_out.mT @ U, state)
    return unchunk(scores @ (U - W @ before) + q_in @ before, T, scale), state


def _carry(transitions, writes, state):
    """The states at the start of each chunk (B, H, N, K, V), and the last: S_{n+1} = transitions_n S_n + writes_n."""
    states = []
    for transition, write in zip(transitions.unbind(2), writes.unbind(2), strict=True):
        states.append(state)
        state = write + transition @ state
    return torch.stack(states, dim=2), state
