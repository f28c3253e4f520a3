"""A fault of Triton on Hopper GPUs that kernels of flash-linear-attention with a decay per head and token run into.

From version 3.4 and below 3.7.1 Triton compiles their backward pass (`chunk_bwd_dqkwg` with a gate) into wrong results
there, and the package refuses to run (its issue 640). It has another form of the kernel, which needs tilelang.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re

HOPPER = 9  # the major number of the compute capability
FAULTY = (3, 4, 0), (3, 7, 1)  # first version with the fault, first one without it


@functools.cache
def gated_backward_problem() -> str:
    """Why the gated backward pass cannot run on the present CUDA device, in words; empty where it can."""
    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return ""
    major, version = torch.cuda.get_device_capability()[0], importlib.metadata.version("triton")
    return problem(major, version, importlib.util.find_spec("tilelang") is not None)


def problem(major: int, version: str, has_tilelang: bool) -> str:
    """The same from what decides it.  major: of the compute capability.  version: of Triton, such as '3.6.0'."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if major != HOPPER or has_tilelang or not FAULTY[0] <= numbers < FAULTY[1]:
        return ""
    return (
        f"Triton {version} compiles the gated backward pass of flash-linear-attention wrongly on Hopper GPUs; it needs "
        "triton 3.7.1 or tilelang"
    )
