"""Root mean square norm over the last dimension: `rmsnorm(x, weight, eps)`.

    y = x / sqrt( mean(x^2) + eps ) * weight

Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4. All backends compute what
reference.py defines (tests/ops/test_plain_ops.py compares them). README.md has the gradients.

D channels of a row; (...) any leading axes.
"""

from __future__ import annotations

from src.ops.plain import automatic_one_pass, implementation
from src.ops.rmsnorm import eager

__all__ = ["automatic", "rmsnorm"]


def rmsnorm(x, weight=None, eps: float = 1e-5, backend: str = "auto"):
    """Scale each row of x to a root mean square of 1, then each channel by its weight.

    x: (..., D).  weight: (D,), or None for ones.  eps: added to the mean square, > 0.
    backend: "auto" or a name. "numba" takes float32, bf16 and fp16 on a CPU; "auto" chooses it there for at least
    65,536 numbers. "triton" takes float32, bf16 and fp16 on CUDA, and rows of at most 65,536 numbers.
    Returns (..., D) in x's dtype. The mean square is computed in float32 at least.
    Kept for the backward pass: x and the weight, with "numba" and "triton" also one float32 number per row.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run here.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"weight: got {tuple(weight.shape)}, allowed: {tuple(x.shape[-1:])} or None")
    return implementation("rmsnorm", backend, eager, x).run(x, weight, eps)


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run."""
    return automatic_one_pass("rmsnorm", device_type)
