"""Causal attention by the kernels of FlashAttention-2 (Dao 2023, arXiv:2307.08691; package `flash_attn`).

The package's layout is (B, T, H, K). Its causal mask ends at the last key, as ours does, and it has windows itself.
"""

from __future__ import annotations

from src.ops.precision import HALF


def run(q, k, v, bias, window: int, dropout_p: float):
    """Output (B, H, S, K) in q's dtype. Arguments as in `attention`.

    Raises RuntimeError for other tensors than fp16 and bf16 on CUDA, and for a bias.
    """
    _refuse(q, bias)
    from flash_attn import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    sides = (window - 1, 0) if window else (-1, -1)
    return flash_attn_func(q, k, v, dropout_p=dropout_p, causal=True, window_size=sides).transpose(1, 2)


def _refuse(q, bias) -> None:
    if q.device.type != "cuda" or q.dtype not in HALF or bias is not None:
        raise RuntimeError(
            f"backend 'flash_attn' needs fp16 or bf16 on a CUDA device and no bias (got {q.dtype} on {q.device.type}"
            f"{'' if bias is None else ', with a bias'}); use --backend attention=sdpa, or --precision bf16 without "
            "--pos alibi"
        )
