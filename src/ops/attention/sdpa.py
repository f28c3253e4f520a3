"""Causal attention by torch's `scaled_dot_product_attention`, which is fused where the device has a kernel."""

from __future__ import annotations

import torch.nn.functional as F

from src.ops.attention.masks import causal_mask
from src.ops.precision import HALF, no_autocast

SHORT = 768  # keys below which a CPU runs the fused kernel in float32 even when its inputs are bf16


def run(q, k, v, bias, dropout_p: float):
    """Output (B, H, S, K) in q's dtype. Arguments as in `attention`, already checked; bias may be None."""
    queries, keys = q.shape[2], k.shape[2]
    dtype = q.dtype
    # The CPU kernel's backward pass in bf16 takes 4 x its float32 time at T=64 and 3 x at T=128. The two are equal
    # between 512 and 1024. A bias is rounded to the inputs' dtype, so with a bias float32 is used at any length.
    if q.device.type == "cpu" and dtype in HALF and (keys < SHORT or bias is not None):
        q, k, v = q.float(), k.float(), v.float()
    if bias is not None:
        bias = bias.to(q.dtype)
        mask = bias if queries == 1 else bias + causal_mask(queries, keys, q)
        mask = mask.expand(1, *mask.shape[-3:]) if mask.dim() == 3 else mask
    else:
        mask = None if queries in (1, keys) else causal_mask(queries, keys, q)
    with no_autocast(q):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=mask is None and queries > 1
        )
    return out.to(dtype)
