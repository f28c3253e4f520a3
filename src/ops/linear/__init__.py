"""A linear map: `linear(x, weight, bias)` = x weight^T + bias.

Both backends compute what reference.py defines (tests/ops/test_plain_ops.py compares them). README.md has the gradients
and the tiles of the kernel.

I inputs, O outputs; (...) any leading axes.
"""

from __future__ import annotations

from src.ops.linear import eager
from src.ops.plain import automatic, implementation

__all__ = ["automatic", "linear"]


def linear(x, weight, bias=None, backend: str = "auto"):
    """Multiply each row of x by a matrix.

    x: (..., I).  weight: (O, I).  bias: (O,) or None. Under autocast all three are cast, as torch does.
    backend: "auto" or a name. "triton" takes float32, bf16 and fp16 on CUDA; float32 is multiplied in TF32 only where
    `torch.backends.cuda.matmul.allow_tf32` allows it.
    Returns (..., O) in the dtype of x, under autocast in that of autocast. Sums are float32 at least.
    Kept for the backward pass: x and the weight.
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run here.
    """
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError(
            f"x, weight, bias: got {tuple(x.shape)}, {tuple(weight.shape)} and "
            f"{None if bias is None else tuple(bias.shape)}, allowed: x (..., I), weight (O, I), bias (O,) or None"
        )
    return implementation("linear", backend, eager, x).run(x, weight, bias)
