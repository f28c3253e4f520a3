"""What the ops share that torch has too: rmsnorm, swiglu, rope, softmax, linear.

Each of them has two backends or three: "eager", torch's own form, "triton", a kernel of this project, and for three of
them "numba", one pass over memory on a CPU. `implementation` finds the module of a call, and `automatic` says what
"auto" takes: "numba" on a CPU for tensors of at least LEAST numbers, where one pass is faster than the passes of torch,
and "eager" else. On CUDA nobody has timed the kernels yet. An op may be called a hundred times per token, so a small
tensor goes to "eager" without a look at what is installed. torch.compile sees "eager" alone, which it can follow.
"""

from __future__ import annotations

from types import ModuleType

import torch

from src.ops.backends import OPS, load_implementation, usable
from src.ops.ran import note

# Numbers of a tensor from which "auto" takes "numba": one call of it costs about 60 us, however small the tensor is.
LEAST = 1 << 15


def implementation(op: str, backend: str, eager: ModuleType, x) -> ModuleType:
    """The module that computes a call of `op` on x, which is noted for the record of a run.

    eager: the module of the backend "eager".  backend: "auto" or a name.
    Raises ValueError for an unknown backend, RuntimeError for one that cannot run on x.
    """
    if backend == "auto" and _is_large(x) and "numba" in OPS[op] and "numba" in usable(op, "cpu"):
        backend = "numba"
    if backend in ("auto", "eager"):
        note(op, "eager")
        return eager
    module = load_implementation(op, backend, x.device.type, x.dtype == torch.float64)
    note(op, backend)
    return module


def _is_large(x) -> bool:
    """Whether x is on a CPU, has at least LEAST numbers, and is not float64, and nobody traces the call."""
    on_cpu = x.device.type == "cpu" and x.dtype != torch.float64
    return on_cpu and x.numel() >= LEAST and not torch.compiler.is_compiling()


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run. For the ops without "numba"."""
    if device_type == "cuda":
        return "eager", "torch's own form; the triton kernel runs only if named, as nobody has timed it on CUDA yet"
    return "eager", "torch's own form; the triton kernel needs CUDA"


def automatic_one_pass(op: str, device_type: str) -> tuple[str, str]:
    """`automatic` of an op that has the backend "numba"."""
    if "numba" in usable(op, device_type):
        return "numba", f"one pass over memory on a CPU; torch's own form for less than {LEAST:,} numbers"
    return automatic(device_type)
