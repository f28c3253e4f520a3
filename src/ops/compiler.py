"""numba, loaded without the linear algebra of SciPy.

numba asks once whether SciPy has a BLAS, when its first function is compiled or read from its cache. For the answer it
imports scipy.linalg, which takes 0.15 s. No kernel here uses it. A place holder answers the question, and is taken away
again. A user's own numba function with a matrix product then imports the real module at its first use.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from importlib.util import find_spec

import numba

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

__all__ = ["numba"]
