"""Causal attention by torch's `scaled_dot_product_attention`, which is fused where the device has a kernel."""

from __future__ import annotations

import torch.nn.functional as F

from src.ops.attention.masks import causal_mask
from src.ops.precision import HALF, no_autocast

SHORT = 768  # keys below which a CPU runs the fused kernel in float32 even when its inputs are bf16


def run(q, k, v, bias, dropout_p: float):
    """Output (B, H, S, K) in q's dtype. Arguments as in `attention`, already checked; bias may be None."""
    (B, H, queries, K), (H_kv, keys) = q.shape, k.shape[1:3]
    if H > H_kv and queries == 1:  # query heads that share keys become the rows of one head: nothing is copied
        bias = None if bias is None else bias.expand(1, H, 1, keys).view(1, H_kv, H // H_kv, keys)
        return _run(q.view(B, H_kv, H // H_kv, K), k, v, bias, dropout_p, causal=False).view(q.shape)
    return _run(q, k, v, bias, dropout_p, causal=queries > 1)


def _run(q, k, v, bias, dropout_p: float, causal: bool):
    """The call itself.  causal: False where each query sees all keys."""
    queries, keys = q.shape[2], k.shape[2]
    dtype = q.dtype
    # The CPU kernel's backward pass in bf16 takes 4 x its float32 time at T=64 and 3 x at T=128. The two are equal
    # between 512 and 1024. A bias is rounded to the inputs' dtype, so with a bias float32 is used at any length.
    if q.device.type == "cpu" and dtype in HALF and (keys < SHORT or bias is not None):
        q, k, v = q.float(), k.float(), v.float()
    if bias is not None:
        bias = bias.to(q.dtype)
        mask = bias + causal_mask(queries, keys, q) if causal else bias
        mask = mask.expand(1, *mask.shape[-3:]) if mask.dim() == 3 else mask
    else:
        mask = causal_mask(queries, keys, q) if causal and queries < keys else None
    shared = q.shape[1] > k.shape[1]
    if shared and q.device.type == "cuda" and (mask is not None or q.dtype not in HALF):
        # Of the CUDA kernels, the one that takes float32 or a mask has no shared keys.
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        shared = False
    with no_autocast(q):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=causal and mask is None, enable_gqa=shared
        )
    return out.to(dtype)
