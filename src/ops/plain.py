"""What the ops share that torch has too: rmsnorm, swiglu, rope, softmax, linear.

Each of them has two backends: "eager", torch's own form, and "triton", a kernel of this project. `implementation` finds
the module of a call, and `automatic` says what "auto" takes. "auto" takes "eager" on every device: on a CPU the kernels
do not run, and on CUDA nobody has timed them yet. An op may be called a hundred times per token, so "eager" is chosen
without a look at what is installed, and torch.compile can follow it.
"""

from __future__ import annotations

from types import ModuleType

import torch

from src.ops.backends import load_implementation
from src.ops.ran import note


def implementation(op: str, backend: str, eager: ModuleType, x) -> ModuleType:
    """The module that computes a call of `op` on x, which is noted for the record of a run.

    eager: the module of the backend "eager".  backend: "auto" or a name.
    Raises ValueError for an unknown backend, RuntimeError for one that cannot run on x.
    """
    if backend in ("auto", "eager"):
        note(op, "eager")
        return eager
    module = load_implementation(op, backend, x.device.type, x.dtype == torch.float64)
    note(op, backend)
    return module


def automatic(device_type: str, args=None) -> tuple[str, str]:
    """(backend, reason) of "auto" on a type of device, for the record of a run."""
    if device_type == "cuda":
        return "eager", "torch's own form; the triton kernel runs only if named, as nobody has timed it on CUDA yet"
    return "eager", "torch's own form; the triton kernel needs CUDA"
