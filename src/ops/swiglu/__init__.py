"""The product of a SwiGLU: `swiglu(gate, up)` = silu(gate) * up, elementwise.

    y = gate / (1 + exp(-gate)) * up

Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, equation 6, without its maps. The output gates of
Mamba, GLA and RetNet are the same product. All backends compute what reference.py defines (tests/ops/test_plain_ops.py
compares them). README.md has the gradients.

F channels of a row; (...) any leading axes.
"""

from __future__ import annotations

from src.ops.plain import automatic_one_pass, implementation
from src.ops.swiglu import eager

__all__ = ["automatic", "swiglu"]


def swiglu(gate, up, backend: str = "auto"):
    """Multiply `up` by silu(gate), number by number.

    gate, up: (..., F), of one shape.
    backend: "auto" or a name. "numba" takes float32, bf16 and fp16 on a CPU; "auto" chooses it there for at least
    524,288 numbers. "triton" takes float32, bf16 and fp16 on CUDA. Both compute in float32.
    Returns (..., F) in the dtype of gate x up.
    Kept for the backward pass: "numba" and "triton" keep gate and up, "eager" also silu(gate).
    Raises ValueError when shapes disagree or `backend` is unknown, RuntimeError when the named backend cannot run here.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate, up: got {tuple(gate.shape)} and {tuple(up.shape)}, allowed: two equal shapes")
    return implementation("swiglu", backend, eager, gate).run(gate, up)


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run."""
    return automatic_one_pass("swiglu", device_type)
