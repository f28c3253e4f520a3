"""Causal softmax attention: `attention(q, k, v)`, by torch's fused kernel, explicit matrix products or FlashAttention.

All backends compute the function that reference.py defines (tests/ops/test_attention.py compares them). README.md has
the maths. `choose_backend` chooses one of them and says why. Vaswani et al. 2017, "Attention Is All You Need",
arXiv:1706.03762, section 3.2.

B batch, H heads of queries, H_kv heads of keys and values (a divisor of H), S queries, T keys (S <= T), K size of a
head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from src.flags.run_flags import drop_rate
from src.ops import stacked
from src.ops.attention import explicit, sdpa
from src.ops.attention.flash_attn import run as _flash_attn
from src.ops.attention.masks import window_mask
from src.ops.ran import note

# A table of functions, not `load_implementation`: torch.compile can follow a call, but not an import.
COMPUTE = {"sdpa": sdpa.run, "explicit": explicit.run}


def attention(
    q, k, v, *, bias=None, window: int = 0, dropout_p: float = 0.0, training: bool = True, backend: str = "auto"
):
    """Causal attention of S queries, the last S of the T positions, over T keys.

    q: (B, H, S, K).  k, v: (B, H_kv, T, K), S <= T. Query i has position T - S + i and sees the keys up to there.
    Head h of the queries reads head h // (H / H_kv) of keys and values (Ainslie et al. 2023, section 2.2).
    bias: added to the scaled scores, broadcastable to (H, S, T). The causal mask is applied in any case.
    window: a query sees the last `window` keys, its own included; 0 is all (Child et al. 2019; Beltagy et al. 2020,
    section 3.1).
    dropout_p: dropout of the attention probabilities, in training only.
    backend: "auto" or a name. "flash_attn" takes fp16 and bf16 on CUDA, without a bias.
    Returns (B, H, S, K) in q's dtype. "sdpa" and "explicit" compute scores and softmax in float32 at least.
    Raises ValueError when shapes disagree, `window` is negative or `backend` is unknown, RuntimeError when the named
    backend cannot run on these inputs.
    """
    _check(q, k, v, window)
    if stacked.inside():
        return stacked.folded(
            lambda q, k, v: attention(
                q, k, v, bias=bias, window=window, dropout_p=dropout_p, training=training, backend=backend
            ),
            *(q, k, v),
        )
    if backend == "auto" and bias is None and _is_plain_query(q, k, dropout_p if training else 0.0, window):
        note("attention", "sdpa")
        return F.scaled_dot_product_attention(q, k, v)
    dropout_p = dropout_p if training else 0.0
    if backend == "auto":
        backend, _ = choose_backend(q.device.type, k.shape[2], dropout_p=dropout_p)
    note("attention", backend)
    if backend == "flash_attn":
        return _flash_attn(q, k, v, bias, window, dropout_p)
    if backend not in COMPUTE:
        raise ValueError(f"backend: got '{backend}', allowed: auto, flash_attn, {', '.join(COMPUTE)}")
    return _windowed(COMPUTE[backend], q, k, v, bias, window, dropout_p)


def _is_plain_query(q, k, dropout_p: float, window: int) -> bool:
    """Whether `auto` would pass a call to sdpa as it is: one float32 query on a CPU, as in decoding.

    Then the decisions below cost more time than the attention over a short past.
    """
    return (
        q.shape[2] == 1
        and q.shape[1] == k.shape[1]
        and not dropout_p
        and not (window and k.shape[2] > window)
        and q.dtype == k.dtype == torch.float32
        and q.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def automatic(device_type: str, args) -> tuple[str, str]:
    """(backend, reason) of "auto" for a run with these flags, for its record."""
    return choose_backend(device_type, args.context_len, dropout_p=drop_rate(args, "attn"))


def choose_backend(device_type: str, T: int, *, dropout_p: float = 0.0) -> tuple[str, str]:
    """(backend, reason) for T keys on a type of device."""
    # Time of explicit / time of sdpa. Forward and backward pass, ratio of medians, one thread of a CPU with AMX, torch
    # 2.13, 4 heads of 32:
    #   B, T               48, 16   12, 64   32, 128   8, 512   2, 2048
    #   fp32                1.28     1.33      1.51     3.13      4.98
    #   bf16                1.17     1.09      1.33     2.95      5.70
    #   fp32, dropout 0.1   0.84     0.93      0.94     0.89      0.99
    #   bf16, dropout 0.1   0.87     0.94      0.88     0.79      0.77
    # The fused CPU kernel has no dropout. sdpa then computes explicit products itself, and reads the probabilities more
    # often.
    if device_type == "cpu" and dropout_p > 0:
        return (
            "explicit",
            "torch's fused CPU kernel has no dropout, and explicit products took 0.77 to 0.99 of its fallback's time",
        )
    if device_type == "cpu":
        return "sdpa", "torch's fused CPU kernel is faster at every length measured (1.3 x at T=64, 3 x at T=512)"
    return "sdpa", f"torch's fused kernels on {device_type} need no (T, T) memory"


def _windowed(compute, q, k, v, bias, window: int, dropout_p: float):
    """`compute` with at most `window` keys per query, O(S x window) where all positions ask and the window is short."""
    queries, keys = q.shape[2], k.shape[2]
    if not window or keys <= window:
        return compute(q, k, v, bias, dropout_p)
    if queries == 1:
        bias = None if bias is None else bias[..., -window:]
        return compute(q, k[:, :, -window:], v[:, :, -window:], bias, dropout_p)
    if queries == keys and bias is None and keys > 2 * window:
        return _blocks(compute, q, k, v, window, dropout_p)
    start = keys - min(keys, queries + window - 1)  # the first key that any of the queries sees
    mask = window_mask(queries, keys - start, window, q)
    mask = mask if bias is None else bias[..., start:] + mask
    return compute(q, k[:, :, start:], v[:, :, start:], mask, dropout_p)


def _blocks(compute, q, k, v, window: int, dropout_p: float):
    """Blocks of `window` queries, each over its own keys and those of the block before: a batch of small attentions.

    The first block has no block before it: zeros take that place, and are masked. A last, partial block is filled with
    zeros, and its output is cut.
    """
    B, T = q.shape[0], q.shape[2]
    n = -(-T // window)

    def fold(x, before: int):
        x = F.pad(x, (0, 0, before, n * window - T)).unfold(2, window + before, window)
        return x.permute(0, 2, 1, 4, 3)  # (B, n, H, window + before, K)

    q, k, v = fold(q, 0), fold(k, window), fold(v, window)
    later = window_mask(window, 2 * window, window, q)[None]
    first = later.clone()
    first[:, :, :window] = -math.inf
    out = []
    for blocks, bias in ((slice(0, 1), first), (slice(1, n), later)):  # all blocks of a call share one bias
        out.append(compute(*(x[:, blocks].flatten(0, 1) for x in (q, k, v)), bias, dropout_p).unflatten(0, (B, -1)))
    return torch.cat(out, dim=1).transpose(1, 2).flatten(2, 3)[:, :, :T]


def _check(q, k, v, window: int) -> None:
    if window < 0:
        raise ValueError(f"window: got {window}, allowed: >= 1, or 0 for all keys")
    if (
        k.shape != v.shape
        or q.dim() != 4
        or k.dim() != 4
        or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3])
        or not k.shape[1]
        or q.shape[1] % k.shape[1]
        or not 0 < q.shape[2] <= k.shape[2]
    ):
        raise ValueError(
            f"q, k, v: got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
            "allowed: q (B, H, S, K), k and v (B, H_kv, T, K) with 0 < S <= T and H_kv a divisor of H"
        )
