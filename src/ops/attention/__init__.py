"""Causal softmax attention: `attention(q, k, v)`, computed by torch's fused kernel, explicit matrix products or FlashAttention.

All backends compute the function that reference.py defines (tests/ops/test_attention.py holds them to it); README.md has the maths.
`choose_backend` decides between them and says why. Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.

S queries, T keys (S <= T), K size of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from src.ops.precision import HALF, accumulation_dtype, no_autocast

SHORT = 768  # keys below which a CPU runs the fused kernel in float32 even when its inputs are bf16


def attention(
    q, k, v, *, bias=None, window: int = 0, dropout_p: float = 0.0, training: bool = True, backend: str = "auto"
):
    """Causal attention of S queries, the last S of the T positions, over T keys.

    q: (B, H, S, K).  k, v: (B, H, T, K), S <= T: query i stands at position T - S + i and sees the keys up to there.
    bias: added to the scaled scores, broadcastable to (H, S, T), without the causal mask (which is always applied).
    window: a query sees the last `window` keys, itself included; 0 = all of them (Child et al. 2019; Beltagy et al. 2020, section 3.1).
    dropout_p: dropout of the attention probabilities, in training only.
    Returns (B, H, S, K) in q's dtype; scores and softmax are float32 at least (fp16 and bf16 inputs included).
    Raises ValueError when shapes disagree, `window` is negative or `backend` is unknown, RuntimeError when it cannot run on these inputs.
    """
    _check(q, k, v, window)
    dropout_p = dropout_p if training else 0.0
    if backend == "auto":
        backend, _ = choose_backend(q.device.type, k.shape[2], dropout_p=dropout_p)
    if backend == "flash_attn":
        return _flash_attn(q, k, v, bias, window, dropout_p)
    if backend not in COMPUTE:
        raise ValueError(f"backend: got '{backend}', allowed: auto, flash_attn, {', '.join(COMPUTE)}")
    return _windowed(COMPUTE[backend], q, k, v, bias, window, dropout_p)


def automatic(device_type: str, args) -> tuple[str, str]:
    """What `--backend auto` means for a run, and why."""
    return choose_backend(device_type, args.context_len, dropout_p=args.dropout)


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
        return (
            "explicit",
            "torch's fused CPU kernel has no dropout, and explicit products took 0.77 to 0.99 of its fallback's time",
        )
    if device_type == "cpu":
        return "sdpa", "torch's fused CPU kernel is faster at every length measured (1.3 x at T=64, 3 x at T=512)"
    return "sdpa", f"torch's fused kernels on {device_type} need no (T, T) memory"


def _windowed(compute, q, k, v, bias, window: int, dropout_p: float):
    """`compute` with at most `window` keys a query: O(S x window) where all positions ask and the window is short."""
    queries, keys = q.shape[2], k.shape[2]
    if not window or keys <= window:
        return compute(q, k, v, bias, dropout_p)
    if queries == 1:
        return compute(
            q, k[:, :, -window:], v[:, :, -window:], None if bias is None else bias[..., -window:], dropout_p
        )
    if queries == keys and bias is None and keys > 2 * window:
        return _blocks(compute, q, k, v, window, dropout_p)
    start = keys - min(keys, queries + window - 1)  # the first key that any of the queries sees
    outside = beyond(queries, keys - start, window, q)
    return compute(
        q, k[:, :, start:], v[:, :, start:], outside if bias is None else bias[..., start:] + outside, dropout_p
    )


def _blocks(compute, q, k, v, window: int, dropout_p: float):
    """Blocks of `window` queries, each over its own keys and those of the block before, as one batch of small attentions.

    The first block computes keys that do not exist (zeros) and masks them; a last, partial block is filled up and cut.
    """
    B, T = q.shape[0], q.shape[2]
    n = -(-T // window)

    def fold(x, before: int):
        return (
            F.pad(x, (0, 0, before, n * window - T)).unfold(2, window + before, window).permute(0, 2, 1, 4, 3)
        )  # (B, n, H, window + before, K)

    q, k, v = fold(q, 0), fold(k, window), fold(v, window)
    later = beyond(window, 2 * window, window, q)[None]
    first = later.clone()
    first[:, :, :window] = -math.inf
    out = []
    for blocks, bias in (
        (slice(0, 1), first),
        (slice(1, n), later),
    ):  # one bias for each call: all later blocks are alike
        out.append(compute(*(x[:, blocks].flatten(0, 1) for x in (q, k, v)), bias, dropout_p).unflatten(0, (B, -1)))
    return torch.cat(out, dim=1).transpose(1, 2).flatten(2, 3)[:, :, :T]


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
    with no_autocast(q):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=mask is None and queries > 1
        )
    return out.to(dtype)


def _explicit(q, k, v, bias, dropout_p):
    (B, H, queries, K), keys = q.shape, k.shape[2]
    dtype = q.dtype
    if dtype in HALF:  # a bf16 score of 20 is off by up to 0.06, its probability by 6 %
        q, k, v = q.float(), k.float(), v.float()
    with no_autocast(q):
        start = future(queries, keys, q)
        if bias is not None:
            start = (start + bias.to(q.dtype)).expand(B, H, queries, keys).reshape(B * H, queries, keys)
        scores = torch.baddbmm(
            start, q.reshape(B * H, queries, K), k.reshape(B * H, keys, K).transpose(1, 2), alpha=1 / math.sqrt(K)
        )
        weights = F.dropout(scores.softmax(dim=-1), dropout_p)
        return torch.bmm(weights, v.reshape(B * H, keys, K)).view(B, H, queries, K).to(dtype)


def _flash_attn(q, k, v, bias, window: int, dropout_p: float):
    """FlashAttention-2 (Dao 2023, arXiv:2307.08691). Its layout is (B, T, H, K), and its causal mask, like ours, ends at the last key."""
    if q.device.type != "cuda" or q.dtype not in HALF or bias is not None:
        raise RuntimeError(
            f"backend 'flash_attn' needs fp16 or bf16 on a CUDA device and no bias (got {q.dtype} on {q.device.type}"
            f"{'' if bias is None else ', with a bias'}); use --backend attention=sdpa, or --precision bf16 without --pos alibi"
        )
    from flash_attn import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    sides = (window - 1, 0) if window else (-1, -1)
    return flash_attn_func(q, k, v, dropout_p=dropout_p, causal=True, window_size=sides).transpose(1, 2)


COMPUTE = {"sdpa": _sdpa, "explicit": _explicit}


def future(queries: int, keys: int, like):
    """(queries, keys): 0 for the keys a query sees, -inf for those after it, in the dtype and on the device of `like`."""
    return torch.full((queries, keys), -math.inf, dtype=like.dtype, device=like.device).triu(keys - queries + 1)


def beyond(queries: int, keys: int, window: int, like):
    """(queries, keys): 0 for the keys within the window of a query, -inf for older ones; the causal mask comes on top."""
    return torch.full((queries, keys), -math.inf, dtype=accumulation_dtype(like), device=like.device).tril(
        keys - queries - window
    )


def _check(q, k, v, window: int) -> None:
    if window < 0:
        raise ValueError(f"window: got {window}, allowed: >= 1, or 0 for all keys")
    if (
        k.shape != v.shape
        or q.dim() != 4
        or q.shape[:2] != k.shape[:2]
        or q.shape[3] != k.shape[3]
        or not 0 < q.shape[2] <= k.shape[2]
    ):
        raise ValueError(
            f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
            "allowed: q (B, H, S, K), k and v (B, H, T, K) with 0 < S <= T"
        )
