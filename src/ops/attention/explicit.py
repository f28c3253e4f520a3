"""Causal attention as two matrix products and a softmax. It writes all scores to memory, O(T^2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from src.ops.attention.masks import causal_mask
from src.ops.precision import HALF, no_autocast


def run(q, k, v, bias, dropout_p: float):
    """Output (B, H, S, K) in q's dtype. Arguments as in `attention`, already checked; bias may be None."""
    (B, H, queries, K), (H_kv, keys) = q.shape, k.shape[1:3]
    batch, rows = B * H_kv, H // H_kv * queries  # the queries of all heads that share keys are rows of one product
    dtype = q.dtype
    if dtype in HALF:  # in bf16 a score of 20 has an error of up to 0.06, and its probability one of 6 %
        q, k, v = q.float(), k.float(), v.float()
    with no_autocast(q):
        mask = causal_mask(queries, keys, q)
        if bias is not None:
            mask = (mask + bias.to(q.dtype)).expand(B, H, queries, keys).reshape(batch, rows, keys)
        elif H > H_kv:
            mask = mask.repeat(H // H_kv, 1)
        scores = torch.baddbmm(
            mask, q.reshape(batch, rows, K), k.reshape(batch, keys, K).transpose(1, 2), alpha=1 / math.sqrt(K)
        )
        weights = F.dropout(scores.softmax(dim=-1), dropout_p)
        return torch.bmm(weights, v.reshape(batch, keys, K)).view(B, H, queries, K).to(dtype)
