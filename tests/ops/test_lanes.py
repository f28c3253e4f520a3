"""What the compiled kernels share: their exponential, their cache on disk, and their threads.

python -m pytest tests/ops/test_lanes.py
"""

import numpy as np
import pytest

numba = pytest.importorskip("numba")
from op_checks import on_thread_counts  # noqa: E402

from src.ops import lanes  # noqa: E402


def test_exponential_is_exact_to_two_units_in_the_last_place():
    @lanes.compiled(lanes.EXACT)
    def fill(x, y):
        for i in range(len(x)):
            y[i] = lanes.exp(x[i])

    x = np.linspace(-87, 88, 100_003).astype(np.float32)
    y = np.empty_like(x)
    fill(x, y)
    want = np.exp(x.astype(np.float64))
    unit = 2.0 ** (np.floor(np.log2(want)) - 23)  # np.spacing would be a subnormal number, which may read as 0
    assert np.max(np.abs(y - want) / unit) < 2
    x = np.array([np.nan, -np.inf, -1e30, 0.0] * 8, dtype=np.float32)
    y = np.empty_like(x)
    fill(x, y)
    assert np.isnan(y[0])
    assert np.all(y[1:3] < 2e-38)
    assert y[3] == 1


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
