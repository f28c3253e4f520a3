"""What the numba forms of the ops share: an exponential that vectorises, a decorator, and work spread over threads.

numba without Intel's SVML calls libm's expf once a number; `exp` is arithmetic alone, so LLVM runs it on as many lanes as the CPU has: about
0.3 ns a number where torch's takes 0.4 (one core with AVX-512). Its error is below 2 units in the last place of float32.

numba's own threading layers bring a second OpenMP team, which fights torch's for the cores. Kernels here release the GIL, and `parallel_for` runs
them on a small pool of Python threads, as many as torch uses.

numba's cache on disk notices a change of the file that a function is in, not of this one: after a change here, delete the __pycache__ folders.
Imported by the compiled.py files only, so numba is loaded when it is first used.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

f32 = np.float32
# Fused multiply-add is more exact, signs of zero do not matter. Not "reassoc": it would merge the two parts of log 2 in `exp`.
EXACT = frozenset({"contract", "nsz"})
SUMS = EXACT | {
    "reassoc"
}  # for functions that sum over lanes, whose order is then the vector's: still the same at every call

LOG2_E, MAGIC, MAGIC_BITS = (
    f32(1.4426950408889634),
    f32(12582912.0),
    np.int32(0x4B400000),
)  # adding 1.5 x 2^23 rounds to a whole number
LOG2_HIGH, LOG2_LOW = (
    f32(0.693359375),
    f32(-2.12194440e-4),
)  # log 2 in two parts: the first has 9 bits, so n x LOG2_HIGH is exact
LOWEST, HIGHEST = f32(-87.33), f32(88.37)  # where 2^n is still a normal float32
# exp(r) = 1 + r + r^2 (P5 + r (P4 + ...)) on [-log(2)/2, log(2)/2]: the minimax polynomial of the Cephes library (S. Moshier), expf.
P0, P1, P2, P3, P4, P5 = (
    f32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
ONE = f32(1)
RANGES = 4  # calls a thread: a thread that another process holds up then leaves its share to the others


def compiled(fastmath):
    """Decorator: compile without the GIL on first call, and keep the machine code on disk where a folder for it can be written."""

    def wrap(function):
        options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no folder that it can write
            return numba.njit(**options)(function)

    return wrap


@intrinsic
def _bits(context, number):
    """The 32 bits of a float32 as an integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _number(context, bits):
    """The float32 with these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled(EXACT)
def exp(x):
    """e^x of a float32, clamped to the normal numbers (1.2e-38 to 2.4e38); NaN stays NaN."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    shifted = x * LOG2_E + MAGIC
    n = shifted - MAGIC
    r = x - n * LOG2_HIGH - n * LOG2_LOW
    p = P0 * r + P1
    p = p * r + P2
    p = p * r + P3
    p = p * r + P4
    p = p * r + P5
    p = p * r * r + r + ONE
    return p * _number((_bits(shifted) - MAGIC_BITS + np.int32(127)) << np.int32(23))


@compiled(EXACT)
def sigmoid(x):
    """1 / (1 + e^-x) of a float32."""
    return ONE / (ONE + exp(-x))


_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a forked child has the object without its threads


def parallel_for(function, items: int, *arguments) -> None:
    """Call function(*arguments, begin, end) for ranges that cover 0 .. items - 1, on torch's number of threads.

    What an item gets must not depend on the range that it is in; then nothing depends on the number of threads. One thread is one of the
    pool too, because the caller's may treat subnormal numbers differently.
    """
    threads = min(torch.get_num_threads(), items)
    if threads not in _pools:
        # Gradients of a loss on the last characters alone decay into subnormal numbers, on which a CPU is four times slower.
        _pools[threads] = ThreadPoolExecutor(
            threads, thread_name_prefix="ops", initializer=torch.set_flush_denormal, initargs=(True,)
        )
    size = -(-items // (RANGES * threads))
    calls = [
        _pools[threads].submit(function, *arguments, begin, min(items, begin + size)) for begin in range(0, items, size)
    ]
    for call in calls:
        call.result()
