"""Rotary positions: `rope(x, cos, sin, layout)` rotates pairs of channels by an angle that depends on the position.

    y1 = x1 cos(a) - x2 sin(a) ,   y2 = x2 cos(a) + x1 sin(a)

Su et al. 2021, "RoFormer", arXiv:2104.09864, equation 34. Which channels make up a pair is the layout:

    "halves"   (i, i + K/2), as in GPT-NeoX and Llama
    "pairs"    (2i, 2i + 1), as in the paper

Both backends compute what reference.py defines (tests/ops/test_plain_ops.py compares them). README.md has the gradient.

B batch, T time, H heads, K channels of a head.
"""

from __future__ import annotations

from src.ops.plain import automatic, implementation
from src.ops.rope import eager

__all__ = ["LAYOUTS", "automatic", "rope"]

LAYOUTS = ("halves", "pairs")


def rope(x, cos, sin, layout: str = "halves", backend: str = "auto"):
    """Rotate each pair of channels of x by the angle of its position.

    x: (B, T, H, K), K even.  cos, sin: (T, K / 2), of the angle of each position and pair, in float32 (float64 for
    float64 x). They are tables, so they get no gradient.  layout: "halves" or "pairs".
    backend: "auto" or a name. "triton" takes float32, bf16 and fp16 on CUDA.
    Returns (B, T, H, K) in x's dtype, contiguous. Computed in float32 at least.
    Kept for the backward pass: cos and sin; "eager" repeats them for all heads of a sequence.
    Raises ValueError when shapes disagree, cos or sin asks for a gradient, or `layout` or `backend` is unknown,
    RuntimeError when the named backend cannot run here.
    """
    _check(x, cos, sin, layout)
    return implementation("rope", backend, eager, x).run(x, cos, sin, layout)


def _check(x, cos, sin, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got '{layout}', allowed: {', '.join(LAYOUTS)}")
    if x.dim() != 4 or x.shape[3] % 2 or cos.shape != (x.shape[1], x.shape[3] // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"x, cos, sin: got {tuple(x.shape)}, {tuple(cos.shape)} and {tuple(sin.shape)}, "
            "allowed: x (B, T, H, K) with an even K, cos and sin (T, K / 2)"
        )
    if cos.requires_grad or sin.requires_grad:
        raise ValueError("cos, sin: got a table that asks for a gradient, allowed: tables without one; detach them")
