"""Sums in parts: equal to NumPy's sums of everything, to the last bit, wherever the parts are cut.

python -m pytest tests/stats/test_sums.py
"""

import numpy as np
import pytest

from src.stats import sums
from src.stats.intervals import bin_edges, binned, binned_parts, clustered, clustered_parts
from src.stats.sums import PairwiseSum, add_to


def cut(values, sizes):
    """The parts of an array, of these sizes in turn."""
    at, i = 0, 0
    while at < len(values):
        yield values[at : at + sizes[i % len(sizes)]]
        at, i = at + sizes[i % len(sizes)], i + 1


def in_parts(values, sizes):
    total = PairwiseSum(len(values))
    for part in cut(values, sizes):
        total.add(part)
    return total.value


@pytest.mark.parametrize("count", [1, 7, 128, 1_000, 1_001, 5_003, 77_777])
def test_a_sum_in_parts_is_that_of_one_array_to_the_last_bit(monkeypatch, count):
    monkeypatch.setattr(sums, "LEAF", 128)
    values = np.random.default_rng(count).lognormal(size=count) * 1e3
    assert in_parts(values, [1, 640, 7, 2_048]) == in_parts(values, [count]) == float(values.sum())


def test_a_sum_from_part_to_part_is_another_number():
    """What the order is for: the same numbers, added part by part, differ in the last digits."""
    values = np.random.default_rng(0).lognormal(size=77_777) * 1e3
    assert sum(float(part.sum()) for part in cut(values, [1, 640, 7, 2_048])) != float(values.sum())


def test_a_sum_takes_exactly_as_many_numbers_as_were_announced():
    total = PairwiseSum(3)
    total.add(np.ones(2))
    with pytest.raises(ValueError, match="the next 1 are missing"):
        _ = total.value
    with pytest.raises(ValueError, match="got 1 more than were announced"):
        total.add(np.ones(2))


def test_a_pairwise_sum_holds_no_more_than_a_leaf_and_a_part(monkeypatch):
    monkeypatch.setattr(sums, "LEAF", 256)
    total, held = PairwiseSum(100_000), []
    for part in cut(np.ones(100_000), [100]):
        total.add(part)
        held.append(sum(map(len, total._parts)) + len(total._sums))
    assert total.value == 100_000
    assert max(held) < 256 + 100 + 20


def test_tables_in_parts_are_those_of_bincount_to_the_last_bit():
    rng = np.random.default_rng(1)
    index, weights = rng.integers(0, 30, 20_000), rng.lognormal(size=20_000)
    table = counts = None
    for i, w in zip(cut(index, [700, 1]), cut(weights, [700, 1]), strict=True):
        table, counts = add_to(table, i, w, 30), add_to(counts, i, None, 30)
    assert table.tolist() == np.bincount(index, weights, 30).tolist()
    assert counts.tolist() == np.bincount(index, minlength=30).tolist()


@pytest.mark.parametrize("interval", ["wilson", "mean"])
@pytest.mark.parametrize("clusters", [1, 2, 30])
def test_intervals_and_bins_in_parts_are_those_of_all_items_to_the_last_bit(interval, clusters):
    rng = np.random.default_rng(clusters)
    n, width = 4_000, 20
    column, cluster = np.arange(n) % width, np.arange(n) * clusters // n
    values = rng.random(n) if interval == "wilson" else rng.lognormal(size=n)
    names, bin_of = bin_edges(np.arange(width), "log2")

    def parts(bins):
        return lambda: zip(*(cut(a, [333, 1]) for a in (values, bins, cluster)), strict=True)

    whole = clustered(values, cluster, interval)
    assert clustered_parts(parts(np.zeros(n, dtype=np.int64)), clusters, interval) == whole
    curve = binned(values, column, "log2", interval, clusters=cluster)
    assert binned_parts(parts(bin_of[column]), names, clusters, interval) == curve
    assert len(curve) > 3


def test_a_share_outside_of_0_and_1_is_refused_in_any_part():
    def parts():
        yield np.array([0.5]), np.array([0]), np.array([0])
        yield np.array([1.5]), np.array([0]), np.array([0])

    with pytest.raises(ValueError, match=r"got 1.5 \.\. 1.5, allowed: 0 \.\. 1"):
        clustered_parts(parts, 1)
