"""What the compiled kernels share: their cache on disk, and their threads.

python -m pytest tests/ops/test_lanes.py
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

numba = pytest.importorskip("numba")
from op_checks import on_thread_counts  # noqa: E402

from src.ops import lanes  # noqa: E402


def test_kernels_compile_where_no_folder_can_hold_their_code(monkeypatch):
    real = numba.njit

    def without_cache(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", without_cache)

    @lanes.compiled(lanes.EXACT)
    def twice(x):
        return x + x

    assert twice(np.float32(3)) == 6


def test_parallel_for_covers_each_item_once_on_any_number_of_threads(monkeypatch):
    def count():
        seen = np.zeros(13, np.int64)

        def touch(begin, end):
            assert begin < end
            seen[begin:end] += 1

        lanes.parallel_for(touch, 13)
        return seen.tolist()

    for flushes in (False, True):
        monkeypatch.setattr(lanes, "_flushes_subnormals", lambda flushes=flushes: flushes)
        assert on_thread_counts(count, (1, 2, 3, 20)) == [[1] * 13] * 4


@pytest.mark.parametrize("flushes", [False, True], ids=["pool alone", "caller too"])
def test_parallel_for_raises_what_a_thread_raises(monkeypatch, flushes):
    monkeypatch.setattr(lanes, "_flushes_subnormals", lambda: flushes)

    def fail(begin, end):
        raise ZeroDivisionError(f"{begin} to {end}")

    for threads in (1, 3):
        with pytest.raises(ZeroDivisionError):
            on_thread_counts(lambda: lanes.parallel_for(fail, 3), (threads,))


def test_a_thread_without_time_does_not_hold_up_the_others(monkeypatch):
    """The pool's only worker is busy elsewhere. The caller does all the work and does not wait for it."""
    monkeypatch.setattr(lanes, "_flushes_subnormals", lambda: True)
    monkeypatch.setattr(lanes, "_pools", {2: ThreadPoolExecutor(1)})
    release, seen = threading.Event(), []
    lanes._pools[2].submit(release.wait, 30)
    on_thread_counts(lambda: lanes.parallel_for(lambda begin, end: seen.append((begin, end)), 4), (2,))
    assert sorted(seen) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert not release.is_set()
    release.set()


def test_subnormal_numbers_are_zero_whoever_computes():
    """A caller that keeps them leaves all ranges to the pool, whose threads do not."""

    def half(out, begin, end):
        out[begin:end] = lanes.SMALLEST * lanes.HALF

    def results():
        out = np.ones(6, np.float32)
        lanes.parallel_for(half, 6, out)
        return out.view(np.int32).tolist()

    try:
        found = []
        for flush in (False, True):
            torch.set_flush_denormal(flush)
            assert lanes._flushes_subnormals() == flush
            found += on_thread_counts(results, (1, 2, 3))
    finally:
        torch.set_flush_denormal(False)
    assert found == [[0] * 6] * 6
