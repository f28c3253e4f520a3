"""Causal softmax attention: `attention(q, k, v)`, computed by torch's fused kernel or by explicit matrix products.

Both backends compute the function that reference.py defines (tests/test_attention.py holds them to it); README.md has the maths.
`choose_backend` decides between them and says why. Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.

S queries, T keys (S <= T), K size of a head.
"""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F

HALF = (torch.bfloat16, torch.float16)
SHORT = 768  # keys below which a CPU runs the fused kernel in float32 even when its inputs are bf16


def attention(q, k, v, *, bias=None, dropout_p: float = 0.0, training: bool = True, backend: str = "auto"):
    """Causal attention of S queries, the last S of the T positions, over T keys.

    q: (B, H, S, K).  k, v: (B, H, T, K), S <= T: query i stands at position T - S + i and sees the keys up to there.
    bias: added to the scaled scores, broadcastable to (H, S, T), without the causal mask (which is always applied).
    dropout_p: dropout of the attention probabilities, in training only.
    Returns (B, H, S, K) in q's dtype; scores and softmax are float32 at least (fp16 and bf16 inputs included).
    Raises ValueError when shapes disagree or `backend` is unknown.
    """
    _check(q, k, v)
    dropout_p = dropout_p if training else 0.0
    if backend == "auto":
        backend, _ = choose_backend(q.device.type, k.shape[2], dropout_p=dropout_p)
    if backend not in COMPUTE:
        raise ValueError(f"backend: got '{backend}', allowed: auto, {', '.join(COMPUTE)}")
    return COMPUTE[backend](q, k, v, bias, dropout_p)


def choose_backend(device_type: str, T: int, *, dropout_p: float = 0.0) -> tuple[str, str]:
    """(backend, reason) for T keys on a device. Pure, so that a run can record it."""
    # Time of explicit / time of sdpa, forward and backward, ratio of medians, one thread of a CPU with AMX, torch 2.13, 4 heads of 32:
    #   B, T               48, 16   12, 64   32, 128   8, 512   2, 2048
    #   fp32                1.28     1.33      1.51     3.13      4.98
    #   bf16                1.17     1.09      1.33     2.95      5.70
    #   fp32, dropout 0.1   0.84     0.93      0.94     0.89      0.99
    #   bf16, dropout 0.1   0.87     0.94      0.88     0.79      0.77
    # The fused CPU kernel has no dropout: sdpa then takes explicit products itself, with more passes over the probabilities.
    if device_type == "cpu" and dropout_p > 0:
        return "explicit", "torch's fused CPU kernel has no dropout, and explicit products took 0.77 to 0.99 of its fallback's time"
    if device_type == "cpu":
        return "sdpa", "torch's fused CPU kernel is faster at every length measured (1.3 x at T=64, 3 x at T=512)"
    return "sdpa", f"torch's fused kernels on {device_type} need no (T, T) memory"


def _sdpa(q, k, v, bias, dropout_p):
    queries, keys = q.shape[2], k.shape[2]
    dtype = q.dtype
    # The CPU kernel's backward in bf16 takes 4 x its float32 time at T=64 and 3 x at T=128; they meet between 512 and 1024.
    # A bias is rounded to the inputs' dtype, so it goes in float32 at any length.
    if q.device.type == "cpu" and dtype in HALF and (keys < SHORT or bias is not None):
        q, k, v = q.float(), k.float(), v.float()
    if bias is not None:
        bias = bias.to(q.dtype)
        mask = bias if queries == 1 else bias + future(queries, keys, q)
        mask = mask.expand(1, *mask.shape[-3:]) if mask.dim() == 3 else mask
    else:
        mask = None if queries in (1, keys) else future(queries, keys, q)
    with _no_autocast(q):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=mask is None and queries > 1)
    return out.to(dtype)


def _explicit(q, k, v, bias, dropout_p):
    (B, H, queries, K), keys = q.shape, k.shape[2]
    dtype = q.dtype
    if dtype in HALF:  # a bf16 score of 20 is off by up to 0.06, its probability by 6 %
        q, k, v = q.float(), k.float(), v.float()
    with _no_autocast(q):
        start = future(queries, keys, q)
        if bias is not None:
            start = (start + bias.to(q.dtype)).expand(B, H, queries, keys).reshape(B * H, queries, keys)
        scores = torch.baddbmm(start, q.reshape(B * H, queries, K), k.reshape(B * H, keys, K).transpose(1, 2), alpha=1 / math.sqrt(K))
        weights = F.dropout(scores.softmax(dim=-1), dropout_p)
        return torch.bmm(weights, v.reshape(B * H, keys, K)).view(B, H, queries, K).to(dtype)


COMPUTE = {"sdpa": _sdpa, "explicit": _explicit}


def future(queries: int, keys: int, like):
    """(queries, keys): 0 for the keys a query sees, -inf for those after it, in the dtype and on the device of `like`."""
    return torch.full((queries, keys), -math.inf, dtype=like.dtype, device=like.device).triu(keys - queries + 1)


def _no_autocast(q):
    """Autocast off where it is on: it would cast the float32 inputs of the products back to half precision."""
    device_type = q.device.type
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else contextlib.nullcontext()


def _check(q, k, v) -> None:
    if k.shape != v.shape or q.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3] or not 0 < q.shape[2] <= k.shape[2]:
        raise ValueError(f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
                         "allowed: q (B, H, S, K), k and v (B, H, T, K) with 0 < S <= T")
