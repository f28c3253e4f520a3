"""What the compiled kernels share: their cache on disk, and their threads.

python -m pytest tests/ops/test_lanes.py
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

numba = pytest.importorskip("numba")
from op_checks import on_thread_counts  # noqa: E402

from src.ops import kernel_cache, lanes  # noqa: E402


def twice_of(constant):
    """A kernel with an enclosed constant, as those for a size of key are."""

    @lanes.compiled(lanes.EXACT)
    def function(x):
        return x * constant

    return function


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for machine code."""
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def files_in(folder) -> list:
    return sorted(folder.rglob("*.nbc"))


def test_kernels_compile_where_no_folder_can_hold_their_code(monkeypatch):
    def without_folder(dispatcher):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(lanes, "store_in_files", without_folder)
    assert twice_of(2)(np.float32(3)) == 6


def test_a_second_process_reads_what_the_first_one_compiled(folder):
    assert twice_of(2)(np.float32(3)) == 6
    (path,) = files_in(folder)
    again = twice_of(2)
    assert again(np.float32(3)) == 6
    assert sum(again.stats.cache_hits.values()) == 1
    assert files_in(folder) == [path]


def test_two_variants_that_are_stored_at_the_same_time_keep_their_own_code(folder):
    """Both ask for their code before either has stored it, as two workers do."""
    stores = [twice_of(2)._cache._cache_file, twice_of(3)._cache._cache_file]
    keys = ["variant 2", "variant 3"]
    assert [store.load(key) for store, key in zip(stores, keys, strict=True)] == [None, None]
    stores[0]._cache_path = stores[1]._cache_path = str(folder)
    for store, key in zip(stores, keys, strict=True):
        store.save(key, f"code of {key}")
    assert [stores[0].load(key) for key in keys] == ["code of variant 2", "code of variant 3"]


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle"], ids=["empty", "cut off", "other"])
def test_a_damaged_file_of_machine_code_is_compiled_anew(folder, content):
    twice_of(2)(np.float32(3))
    (path,) = files_in(folder)
    whole = path.read_bytes()
    path.write_bytes(content)
    assert twice_of(2)(np.float32(3)) == 6
    assert len(path.read_bytes()) == len(whole)


def test_a_change_of_the_code_that_all_kernels_share_makes_them_new(folder, monkeypatch):
    twice_of(2)(np.float32(3))
    monkeypatch.setattr(kernel_cache, "_shared_source", lambda: "another vector.py")
    again = twice_of(2)
    assert again(np.float32(3)) == 6
    assert not again.stats.cache_hits
    assert len(files_in(folder)) == 2
    assert all((Path(kernel_cache.__file__).parent / name).is_file() for name in kernel_cache.SHARED)


def test_a_full_disk_costs_only_the_next_compilation(folder, monkeypatch):
    def full(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_cache._OneFilePerKey, "_save_data", full)
    assert twice_of(2)(np.float32(3)) == 6
    assert files_in(folder) == []


def test_calls_with_few_items_start_no_pool_of_their_own(monkeypatch):
    monkeypatch.setattr(lanes, "_pools", {})
    monkeypatch.setattr(lanes, "_flushes_subnormals", lambda: True)
    on_thread_counts(lambda: [lanes.parallel_for(lambda begin, end: None, n) for n in range(1, 9)], (3,))
    assert list(lanes._pools) == [3]


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
