"""What the compiled kernels share: their cache on disk, and their threads.

python -m pytest tests/ops/test_lanes.py
"""

import numpy as np
import pytest

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


def test_parallel_for_covers_each_item_once_on_any_number_of_threads():
    def count():
        seen = np.zeros(13, np.int64)

        def touch(begin, end):
            assert begin < end
            seen[begin:end] += 1

        lanes.parallel_for(touch, 13)
        return seen.tolist()

    assert on_thread_counts(count, (1, 2, 3, 20)) == [[1] * 13] * 4


def test_parallel_for_raises_what_a_thread_raises():
    def fail(begin, end):
        raise ZeroDivisionError(f"{begin} to {end}")

    with pytest.raises(ZeroDivisionError):
        lanes.parallel_for(fail, 3)
