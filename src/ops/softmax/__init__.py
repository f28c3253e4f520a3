"""Softmax over the last dimension, and the cross-entropy over the vocabulary that follows from it.

    softmax(x)_c = exp(x_c) / sum_j exp(x_j)
    cross_entropy(x, c) = log( sum_j exp(x_j) ) - x_c , the mean over rows

With label smoothing s the target is (1 - s) of the one class and s / C of every class (Szegedy et al. 2016,
arXiv:1512.00567, section 7). Both backends compute what reference.py defines (tests/ops/test_plain_ops.py compares
them). README.md has the gradients and the sum in one pass over memory.

C classes: the characters of the vocabulary; n rows; (...) any leading axes.
"""

from __future__ import annotations

from src.ops.plain import automatic, implementation
from src.ops.softmax import eager

__all__ = ["automatic", "cross_entropy", "softmax"]


def softmax(x, backend: str = "auto"):
    """Probabilities over the last dimension.

    x: (..., C).
    backend: "auto" or a name. "triton" takes float32, bf16 and fp16 on CUDA, and rows of at most 65,536 numbers.
    Returns (..., C) in x's dtype, computed in float32 at least.  Kept for the backward pass: the result.
    Raises ValueError for an unknown backend, RuntimeError when the named backend cannot run here.
    """
    return implementation("softmax", backend, eager, x).run(x)


def cross_entropy(logits, target, label_smoothing: float = 0.0, ignore_index: int = -100, backend: str = "auto"):
    """Mean cross-entropy in nats over the rows whose target is not `ignore_index`; NaN where there is none.

    logits: (n, C).  target: (n,) int64, 0 .. C - 1 or ignore_index.  label_smoothing: in [0, 1].
    backend: "auto" or a name. "triton" takes logits in float32, bf16 and fp16 on CUDA, of any C. It reads them once,
    while "eager" makes a float32 copy of bf16 and fp16 logits. With "triton" a target out of range gives NaN.
    Returns a scalar in float32 (float64 for float64 logits).
    Kept for the backward pass: "triton" keeps the logits and one number per row, "eager" the log-probabilities.
    Raises ValueError when shapes disagree, `label_smoothing` is out of range or `backend` is unknown, RuntimeError when
    the named backend cannot run here.
    """
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"logits, target: got {tuple(logits.shape)} and {tuple(target.shape)}, allowed: (n, C) and (n,)"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}, allowed: 0 to 1")
    module = implementation("softmax", backend, eager, logits)
    return module.run_cross_entropy(logits, target, label_smoothing, ignore_index)
