"""What the numba implementations of the ops share: a decorator, an exponential that vectorises, and `parallel_for`.

A CPU computes on vectors: one instruction works on 4 to 16 float32 numbers, each in its own lane. LLVM vectorises an
inner loop over an index that is contiguous in memory, when the loop holds nothing but arithmetic. Without Intel's SVML
numba calls libm's expf once per number, which stops this. `exp` below is arithmetic alone. It takes about 0.3 ns per
number where torch's takes 0.4 (one core with AVX-512). Its error is below 2 units in the last place of float32.

numba's own threading layers bring a second OpenMP team, which competes with torch's for the cores. The kernels here
release the GIL instead, and `parallel_for` runs them on a small pool of Python threads, as many as torch uses.

numba's cache on disk notices a change of the file that holds a function, but not of this one. After a change here,
delete the __pycache__ folders. Only recurrent.py and one_pass.py import this file, so numba is loaded when it is first
used.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from src.ops.compiler import numba

f32 = np.float32
# Fused multiply-add is more exact, and signs of zero do not matter. "reassoc" would merge the two parts of log 2
# in `exp`, so it is left out.
EXACT = frozenset({"contract", "nsz"})
# For functions that sum over lanes. Their order of additions is then the vector's, and still the same at every call.
SUMS = EXACT | {"reassoc"}

LOG2_E = f32(1.4426950408889634)
MAGIC, MAGIC_BITS = f32(12582912.0), np.int32(0x4B400000)  # adding 1.5 x 2^23 rounds to a whole number
# log 2 in two parts: the first has 9 bits, so n x LOG2_HIGH is exact
LOG2_HIGH, LOG2_LOW = f32(0.693359375), f32(-2.12194440e-4)
LOWEST, HIGHEST = f32(-87.33), f32(88.37)  # where 2^n is still a normal float32
# exp(r) = 1 + r + r^2 (P5 + r (P4 + ...)) on [-log(2)/2, log(2)/2]: the minimax polynomial of expf in the Cephes
# library (S. Moshier).
P0, P1, P2, P3, P4, P5 = (
    f32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
ONE = f32(1)
RANGES = 4  # calls per thread: when another process delays one thread, the others take over its remaining ranges


def compiled(fastmath, *signature: str):
    """Decorator: compile a function with numba, without the GIL, and keep the machine code on disk.

    fastmath: LLVM's flags, EXACT or SUMS.  signature: numba's text for the types, to compile at once; without it, the
    first call compiles. Where no folder can be written, the machine code is kept in memory only.
    """

    def wrap(function):
        options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
        try:
            return numba.njit(*signature, cache=True, **options)(function)
        except RuntimeError:  # numba found no folder that it can write
            return numba.njit(*signature, **options)(function)

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
    os.register_at_fork(after_in_child=_pools.clear)  # a forked child has the objects but not their threads


def parallel_for(function, items: int, *arguments) -> None:
    """Call function(*arguments, begin, end) for ranges that cover 0 to items - 1, on as many threads as torch uses.

    What an item gets must not depend on the range that it is in. Then no result depends on the number of threads. Even
    a single thread is one of the pool, because the calling thread may treat subnormal numbers differently.
    """
    threads = min(torch.get_num_threads(), items)
    if threads not in _pools:
        # When only the last characters have a loss, gradients decay into subnormal numbers, on which a CPU is four
        # times slower.
        _pools[threads] = ThreadPoolExecutor(
            threads, thread_name_prefix="ops", initializer=torch.set_flush_denormal, initargs=(True,)
        )
    size = -(-items // (RANGES * threads))
    calls = [
        _pools[threads].submit(function, *arguments, begin, min(items, begin + size)) for begin in range(0, items, size)
    ]
    for call in calls:
        call.result()
