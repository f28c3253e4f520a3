"""What the numba implementations of the ops share: a decorator, tensors as flat arrays, and `parallel_for`.

A CPU computes on vectors: one instruction works on 4 to 16 float32 numbers, each in its own lane. LLVM vectorises an
inner loop over an index that is contiguous in memory, when the loop holds nothing but arithmetic and its arrays do not
overlap. vector.py has a type for kernels that do not leave this to LLVM.

numba's own threading layers bring a second OpenMP team, which competes with torch's for the cores. The kernels here
release the GIL instead, and `parallel_for` runs them on a small pool of Python threads, as many as torch uses.

Machine code is kept on disk (kernel_cache.py). Only the numba implementations import this file, so numba is loaded when
it is first used.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from src.ops.compiler import numba
from src.ops.kernel_cache import store_in_files

f32 = np.float32
# Fused multiply-add is more exact, and signs of zero do not matter.
EXACT = frozenset({"contract", "nsz"})
# For functions that sum over lanes. Their order of additions is then the vector's, and still the same at every call.
SUMS = EXACT | {"reassoc"}

ZERO, ONE = f32(0), f32(1)
SMALLEST, HALF = f32(1.17549435e-38), f32(0.5)  # the smallest normal number; half of it is subnormal
RANGES = 4  # calls per thread: when another process delays one thread, the others take over its remaining ranges


def compiled(fastmath, *signature: str):
    """Decorator: compile a function with numba, without the GIL, and keep the machine code on disk.

    fastmath: LLVM's flags, EXACT or SUMS.  signature: numba's text for the types, to compile at once; without it, the
    first call compiles. Where no folder can be written, the machine code is kept in memory only.
    """

    def wrap(function):
        kernel = numba.njit(nogil=True, fastmath=set(fastmath), error_model="numpy")(function)
        if kernel is function:  # NUMBA_DISABLE_JIT
            return function
        with contextlib.suppress(RuntimeError):  # numba found no folder that it can write
            store_in_files(kernel)
        for types in signature:
            kernel.compile(types)
        if signature:
            kernel.disable_compile()
        return kernel

    return wrap


def array_dtype(x):
    """The dtype in which a kernel writes numbers like those of x: bf16 for bf16, else float32."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def flat(x):
    """x in C order as a flat NumPy array of float32, or of int16 with the bits of bf16. fp16 becomes float32."""
    return _array(x.detach().contiguous().view(-1))


def rows_of(x):
    """(array, pitch): x (..., C) as a flat array in which row r of C numbers begins at r x pitch.

    x is read where it lies if its rows are that far apart in memory, as those of a slice of a wider map are. Else it is
    copied.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    (n, C), pitch = rows.shape, rows.stride(0)
    return _array(rows.as_strided(((n - 1) * pitch + C,), (1,))), pitch


def _array(x):
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy()
    return (x if x.dtype == torch.float32 else x.float()).numpy()


_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a forked child has the objects but not their threads


def parallel_for(function, items: int, *arguments) -> None:
    """Call function(*arguments, begin, end) for ranges that cover 0 to items - 1, on as many threads as torch uses.

    What an item gets must not depend on the range that it is in. Then no result depends on the number of threads. The
    calling thread takes ranges too, so a thread that gets no time from a busy machine holds nobody up. It does not if
    it keeps subnormal numbers: the threads of the pool set these to zero, and a result must not depend on who computes.
    """
    most = torch.get_num_threads()
    threads = min(most, items)
    helps = _flushes_subnormals()
    if threads == 1 and helps:
        function(*arguments, 0, items)
        return
    size = -(-items // (RANGES * threads))
    starts = iter(range(0, items, size))  # shared: each range goes to the thread that asks next

    def work() -> None:
        for begin in starts:
            function(*arguments, begin, min(items, begin + size))

    calls = [_pool(most).submit(work) for _ in range(threads - 1 if helps else threads)]
    try:
        if helps:
            work()
    finally:
        failures = [call.exception() for call in calls if not (helps and call.cancel())]
    for failure in filter(None, failures):
        raise failure


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        # When only the last characters have a loss, gradients decay into subnormal numbers, on which a CPU is four
        # times slower.
        _pools[threads] = ThreadPoolExecutor(
            threads, thread_name_prefix="ops", initializer=torch.set_flush_denormal, initargs=(True,)
        )
    return _pools[threads]


def _flushes_subnormals() -> bool:
    """Whether this thread sets subnormal numbers to zero, as the program has it done in every thread at its start."""
    return SMALLEST * HALF == 0
