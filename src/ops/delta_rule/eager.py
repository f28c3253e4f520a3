from __future__ import annotations

import torch

from src.ops.linear_attention import accumulation_dtype
from src.ops.linear_attention.eager import chunks

CHUNK = 64


def delta_rule_eager(q, k, v, beta, decay, state, scale):
    dtype = accumulation_dtype(q, k, v, beta, decay, state)
    out_dtype = v.dtype
    (B, T, H, K), V = q.shape, v.shape[-1]
    C = min(CHUNK, 1 << (T - 1).bit_length())
    N = -(-T // C)
    q, k, v, beta = (chunks(x.to(dtype), C) for x in (q, k, v, beta[..., None]))
    S = q.new_zeros(B, H, K, V) if state is None else state.to(dtype)
    mask = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    if decay is None:
        b = torch.zeros_like(beta)
    else:
        b = chunks(decay[..., None].to(dtype), C).cumsum(-2)
    L = (b - b.transpose(-1, -2)).masked_fill(~mask, -torch.inf).exp()
    kt = k.transpose(-1, -2)
    A = (beta * (k @ kt) * L).tril(-1)
    rhs = torch.cat([beta * v, beta * b.exp() * k], -1)
    UW = torch.linalg.solve_triangular(A, rhs, upper=False, unitriangular=True)
    U, W = UW[..., :V], UW[..., V:]
    scores = (q @ kt) * L
    total = b[..., -1:, :]
    k_out = (k * (total - b).exp()).transpose(-1, -2)
    M = torch.diag_embed(total.exp()[..., 0, :].expand(B, H, N, K)) - k_out @ W
    R = k_out @ U
    states = []
    for n in range(N):
        states.append(S)
        S = M[:, :, n] @ S + R[:, :, n]
    before = torch.stack(states, 2)
    o = scores @ (U - W @ before) + (q * b.exp()) @ before
    o = o.reshape(B, H, N * C, V)[:, :, :T].transpose(1, 2)
    return (o * scale).to(out_dtype), S
