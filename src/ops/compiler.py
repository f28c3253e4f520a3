"""numba and torch.compile, loaded only as far as they are used.

    from src.ops.compiler import numba, untraced

numba comes without the linear algebra of SciPy. It asks once whether SciPy has a BLAS, when its first function is
compiled or read from its cache. For the answer it imports scipy.linalg, which takes 0.15 s. No kernel here uses it. A
place holder answers the question, and is taken away again. A user's own numba function with a matrix product then
imports the real module at its first use.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import numba
import torch

ASKED = "scipy.linalg.cython_blas"


def skip_scipy() -> None:
    """Let numba load its array functions without scipy.linalg. Nothing happens where these or SciPy are loaded."""
    if ASKED in sys.modules or "numba.np.arraymath" in sys.modules or find_spec("scipy") is None:
        return
    sys.modules[ASKED] = types.ModuleType(ASKED)
    try:
        import_module("numba.np.arraymath")
    finally:
        del sys.modules[ASKED]


skip_scipy()


def untraced(function: Callable) -> Callable:
    """Decorator: torch.compile leaves this function as it is, because numba cannot be traced.

    torch.compiler.disable does the same. It loads the compiler at once, for a second, where nothing is compiled too.
    """

    @functools.wraps(function)
    def call(*arguments):
        return (_disabled(function) if "torch._dynamo" in sys.modules else function)(*arguments)

    call._torchdynamo_disable = True  # so the compiler does not look into `call` either
    return call


_disabled = functools.cache(torch.compiler.disable)

__all__ = ["numba", "untraced"]
