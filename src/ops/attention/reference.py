"""The definition of causal attention: a loop over queries in float64, with no shortcut."""

from __future__ import annotations

import math

import torch


def attention_reference(q, k, v, bias=None, window: int = 0):
    """Causal attention without dropout.

    q: (B, H, S, K).  k, v: (B, H_kv, T, K), S <= T, H_kv a divisor of H.  bias: broadcastable to (H, S, T).
    Query i has position T - S + i and sees the last `window` keys (0 is all). Head h reads head h // (H / H_kv) of k
    and v. Returns (B, H, S, K) float64, differentiable.
    """
    q, k, v = q.double(), k.double(), v.double()
    (H, queries, K), keys = q.shape[1:], k.shape[2]
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
    bias = (
        torch.zeros(H, queries, keys, dtype=torch.float64) if bias is None else bias.double().expand(H, queries, keys)
    )
    rows = []
    for i in range(queries):
        seen = slice(max(0, keys - queries + i + 1 - window) if window else 0, keys - queries + i + 1)
        scores = (k[:, :, seen] * q[:, :, i, None]).sum(-1) / math.sqrt(K) + bias[:, i, seen]  # (B, H, keys seen)
        weights = (scores - scores.max(dim=-1, keepdim=True).values).exp()
        weights = weights / weights.sum(dim=-1, keepdim=True)
        rows.append((weights[..., None] * v[:, :, seen]).sum(dim=2))
    return torch.stack(rows, dim=2)
