"""What the ops share that torch has too: rmsnorm, swiglu, rope, softmax, linear.

Each of them has two backends or three: "eager", torch's own form, "triton", a kernel of this project, and for two of
them "numba", one pass over memory on a CPU. `implementation` finds the module of a call, and `automatic` says what
"auto" takes: "numba" on a CPU for tensors of at least LEAST numbers, where one pass is faster than the passes of torch,
else "eager". On CUDA nobody has timed the kernels yet. An op may be called a hundred times per token, so a small
tensor goes to "eager" without a look at what is installed. torch.compile sees "eager" alone, which it can follow.
"""

from __future__ import annotations

from types import ModuleType

import torch

from src.ops.backends import load_implementation, usable
from src.ops.ran import note

# Numbers of a tensor from which "auto" takes "numba", by op. A call of a kernel has an overhead of about 60 us. Forward
# and backward pass on one thread of a busy Zen 4, eager and numba: rmsnorm of 768 x 128 float32 0.46 and 0.38 ms, of
# 4,096 x 256 10.6 and 2.6 ms; swiglu of 1,024 x 384 2.8 and 2.7 ms, of 4,096 x 256 9.3 and 6.9 ms.
LEAST = {"rmsnorm": 1 << 16, "swiglu": 1 << 19}


def implementation(op: str, backend: str, eager: ModuleType, x) -> ModuleType:
    """The module that computes a call of `op` on x, which is noted for the record of a run.

    eager: the module of the backend "eager".  backend: "auto" or a name.
    Raises ValueError for an unknown backend, RuntimeError for one that cannot run on x.
    """
    if backend == "auto" and _is_large(op, x) and "numba" in usable(op, "cpu"):
        backend = "numba"
    if backend in ("auto", "eager"):
        note(op, "eager")
        return eager
    module = load_implementation(op, backend, x.device.type, x.dtype == torch.float64)
    note(op, backend)
    return module


def _is_large(op: str, x) -> bool:
    """Whether x is large enough for numba's kernel, on a CPU and not float64, in a call that nobody traces."""
    if op not in LEAST or x.numel() < LEAST[op] or x.device.type != "cpu" or x.dtype == torch.float64:
        return False
    return not torch.compiler.is_compiling()


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run. For the ops without "numba"."""
    if device_type == "cuda":
        return "eager", "torch's own form; the triton kernel runs only if named, as nobody has timed it on CUDA yet"
    return "eager", "torch's own form; the triton kernel needs CUDA"


def automatic_one_pass(op: str, device_type: str) -> tuple[str, str]:
    """`automatic` of an op that has the backend "numba"."""
    if "numba" in usable(op, device_type):
        return "numba", f"one pass over memory on a CPU; torch's own form below {LEAST[op]:,} numbers"
    return automatic(device_type)
