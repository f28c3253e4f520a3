"""Intervals over clusters: coverage where items of a sequence depend on each other, and the values at the limits.

python -m pytest tests/stats/test_clusters.py
"""

import numpy as np
import pytest
import scipy  # `scipy.stats` is imported where it is first used

from src.stats.intervals import binned, clustered, t_interval, wilson

REPLICATIONS = 700
EXPECTED = (0.93, 0.97)  # of the nominal 0.95; the coverage of 700 replications has a standard error of 0.008


def planted(share: float, correlation: float, sequences: int, seed: int = 3):
    """(hits, replication, sequence) of all characters: sequences of 2 to 10 characters, beta-binomial.

    Each sequence draws its own share from a beta distribution. Two of its characters then correlate by `correlation`.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 11, REPLICATIONS * sequences)
    scale = 1 / correlation - 1
    shares = rng.beta(share * scale, (1 - share) * scale, len(lengths))
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    hits = rng.random(len(sequence)) < shares[sequence]
    return hits, sequence // sequences, sequence


def coverage(bins: list[dict], share: float) -> float:
    assert len(bins) == REPLICATIONS
    return float(np.mean([b["ci"][0] <= share <= b["ci"][1] for b in bins]))


CASES = [
    (0.5, 0.1),
    (0.97, 0.1),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.5, 0.6), (0.9, 0.3), (0.9, 0.9), (0.97, 0.3))),
]


@pytest.mark.parametrize(("share", "correlation"), CASES)
def test_intervals_over_sequences_cover_as_often_as_they_say_and_those_over_characters_do_not(share, correlation):
    hits, replication, sequence = planted(share, correlation, sequences=300)
    assert EXPECTED[0] <= coverage(binned(hits, replication, "each", clusters=sequence), share) <= EXPECTED[1]
    assert coverage(binned(hits, replication, "each"), share) < EXPECTED[0]


@pytest.mark.parametrize("correlation", [0.5, pytest.param(0.2, marks=pytest.mark.slow)])
def test_a_share_near_1_with_two_or_three_bad_sequences_is_covered_by_wilsons_form_alone(correlation):
    """Few sequences have a miss, so a variance says little: Student's interval of the ratio covers less than 80 %.

    Wilson's form is conservative here or close to nominal. Over 10 to 1,000 sequences, shares of .5 to .995 and
    correlations of 0 to .9, it covered at least 90 %. The least was where about five sequences have a miss.
    """
    hits, replication, sequence = planted(0.995, correlation, sequences=100)
    assert 0.93 <= coverage(binned(hits, replication, "each", clusters=sequence), 0.995) <= 0.99
    students = binned(hits, replication, "each", interval="mean", clusters=sequence)
    assert coverage(students, 0.995) < 0.8


@pytest.mark.parametrize("interval", ["wilson", "mean"])
def test_items_that_are_their_own_clusters_keep_their_interval_exactly(interval):
    rng = np.random.default_rng(5)
    xs, values = rng.integers(0, 40, 3_000), (rng.random(3_000) < 0.8).astype(float)
    plain = binned(values, xs, "log2", interval)
    assert binned(values, xs, "log2", interval, clusters=rng.permutation(3_000)) == plain
    for b in plain:
        inside = values[(b["lo"] <= xs) & (xs < b["hi"])]
        n = len(inside)
        expected = wilson(inside.sum(), n) if interval == "wilson" else t_interval(inside)
        assert b["ci"] == pytest.approx(expected, abs=1e-12)
        assert b["n_effective"] == n


def test_sequences_of_equal_length_have_the_interval_of_their_means():
    """Cochran's ratio estimate is then the plain mean over sequences, whose standard error SciPy knows."""
    rng = np.random.default_rng(7)
    losses = rng.gamma(2.0, size=(50, 8)) + rng.gamma(1.0, size=(50, 1))
    found = clustered(losses.ravel(), np.repeat(np.arange(50), 8), interval="mean")
    means = losses.mean(axis=1)
    low, high = scipy.stats.t.interval(0.95, 49, loc=means.mean(), scale=scipy.stats.sem(means))
    assert found["ci"] == pytest.approx([low, high], rel=1e-12)
    assert found["design_effect"] == pytest.approx(
        scipy.stats.sem(means) ** 2 / scipy.stats.sem(losses.ravel()) ** 2, rel=1e-12
    )
    assert (found["count"], found["units"]) == (400, 50)


def test_sequences_that_agree_in_all_their_characters_count_once_each():
    """The interval is that of the sequences alone, but for Student's quantile."""
    right = np.random.default_rng(1).random(400) < 0.7
    found = clustered(np.repeat(right, 10), np.repeat(np.arange(400), 10))
    assert found["n_effective"] == pytest.approx(400, rel=3e-3)  # 399 / 400 and 3,999 / 4,000 degrees
    assert found["ci"] == pytest.approx(wilson(right.sum(), 400), abs=2e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_at_a_share_of_0_or_1_the_effective_sample_size_is_the_number_of_sequences(value):
    found = clustered(np.full(600, value), np.arange(600) % 20)
    assert (found["n_effective"], found["design_effect"]) == (20, 30)
    assert found["ci"] == list(wilson(20 * value, 20))


def test_one_miss_does_not_make_an_interval_much_narrower_than_none():
    """An estimate from a single sequence with a miss would say that 2,000 characters are independent."""
    clean = clustered(np.ones(2_000), np.arange(2_000) % 100)
    hits = np.ones(2_000)
    hits[3] = 0
    one = clustered(hits, np.arange(2_000) % 100)
    assert 100 < one["n_effective"] < 200
    assert one["ci"][0] > 1 - 1.5 * (1 - clean["ci"][0])


def test_sequences_that_depend_the_other_way_are_not_given_more_items_than_there_are():
    found = clustered(np.tile([0, 1], 200), np.repeat(np.arange(200), 2))
    assert (found["n_effective"], found["design_effect"]) == (400, 1)


def test_a_single_sequence_says_nothing_about_another():
    found = clustered([1, 0, 1, 1], [4, 4, 4, 4])
    assert found["n_effective"] == 1
    assert found["ci"] == list(wilson(0.75, 1))
    assert clustered([1.5, 2.5], [0, 0], interval="mean")["ci"] is None


@pytest.mark.parametrize("clusters", [[1, 2], [0.5, 1.0, 2.0], ["a", "b", "c"], [[1, 2, 3]]])
def test_clusters_must_be_one_integer_per_value(clusters):
    with pytest.raises(ValueError, match=r"clusters: got .* allowed: one integer per value"):
        binned([1, 0, 1], [1, 2, 3], clusters=clusters)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="values: got none, allowed: at least one"):
        clustered([])
