"""Two models compared: known values, edges, and simulations of coverage.

python -m pytest tests/stats/test_pairs.py
"""

import numpy as np
import pytest
import scipy  # `scipy.stats` is imported where it is first used

from src.stats.pairs import over_tasks, paired_seeds, tost, two_level_bootstrap

A, B = [0.71, 0.68, 0.74], [0.81, 0.85, 0.79]
P_VALUES = ("p", "p_better", "p_sign_flip", "p_t")


def test_three_separated_seeds():
    """Differences .10, .17, .05: mean .1067, t = 3.065, p of 2 degrees .092."""
    found = paired_seeds(A, B)
    assert (found["mean"], found["median"]) == (pytest.approx(0.10667, abs=1e-5), pytest.approx(0.1))
    assert [found[key] for key in P_VALUES] == pytest.approx([0.1, 0.05, 0.25, scipy.stats.ttest_rel(B, A).pvalue])
    assert (found["n"], found["missing"], found["direction"], found["separated"]) == (3, 0, 1, True)
    assert (found["method"], found["smallest_p"], found["smallest_p_better"]) == ("t", 0.1, 0.05)


def test_the_other_way_round_is_the_opposite():
    found, other = paired_seeds(A, B), paired_seeds(B, A)
    assert (other["direction"], other["p"], other["p_better"]) == (-1, found["p"], 1.0)
    assert (other["low"], other["high"]) == (pytest.approx(-found["high"]), pytest.approx(-found["low"]))


def test_seeds_that_overlap_are_not_separated():
    assert not paired_seeds([0.1, 0.2, 0.3], [0.3, 0.5, 0.6])["separated"]


def test_only_seeds_that_both_have_are_compared():
    found = paired_seeds([0.71, None, 0.68, 0.74, None], [0.81, 0.2, 0.85, 0.79, None])
    assert (found["n"], found["missing"]) == (3, 2)
    assert found["differences"] == paired_seeds(A, B)["differences"]


def test_one_seed_has_a_difference_and_no_p():
    found = paired_seeds([0.5, None], [0.75, 0.5])
    assert (found["mean"], found["low"], found["n"]) == (0.25, None, 1)
    assert [found[key] for key in P_VALUES] == [None] * 4


@pytest.mark.parametrize("score", [1.0, 0.3])
def test_identical_scores_do_not_differ(score):
    """The interval is not [0, 0]: three seeds know nothing of a run that fails in one case of ten."""
    found = paired_seeds([score] * 3, [score] * 3)
    assert (found["mean"], found["direction"], found["separated"]) == (0.0, 0, False)
    assert [found[key] for key in P_VALUES] == [1.0, 1.0, 1.0, None]
    assert found["low"] < -0.5
    assert found["high"] > 0.5


def test_the_same_runs_twice_do_not_differ():
    values = np.random.default_rng(0).random(6)
    assert paired_seeds(values, values)["p"] == 1.0


def test_differences_that_are_equal_but_for_rounding_are_equal():
    """.3 - .1 and .9 - .7 differ by 1e-16, which is no spread to estimate an interval from."""
    assert paired_seeds([0.1, 0.7, 0.5], [0.3, 0.9, 0.7])["method"] == "equal seeds"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.5, float("nan")], [0.5, 0.6], "a: got nan"),
        ([0.5], [0.5, 0.6], "got 1 and 2 seeds"),
        ([0.5, None], [None, 0.6], "no seed that both have of 2"),
        ([0.0, 0.0], [0.5, 2.0], "allowed: -1 .. 1"),
    ],
)
def test_what_cannot_be_paired_is_refused(a, b, words):
    with pytest.raises(ValueError, match=words):
        paired_seeds(a, b)


def test_losses_have_no_limits():
    assert paired_seeds([-3.0, -3.5], [-1.0, -1.2], limits=None)["mean"] == pytest.approx(2.15)


def test_three_tasks_together_show_what_three_seeds_cannot():
    found = over_tasks(dict.fromkeys(("copy", "parity", "recall"), (A, B)))
    assert (found["improvement"], found["direction"], found["n"], found["tasks"]) == (1.0, 1, 3, 3)
    assert found["p"] == pytest.approx(2 / 20**3) == pytest.approx(found["smallest_p"])
    assert found["p_better"] == pytest.approx(1 / 20**3) == pytest.approx(found["smallest_p_better"])


def test_a_task_without_two_common_seeds_is_left_out_and_named():
    found = over_tasks({"copy": (A, B), "parity": ([0.5, None, None], [0.6, 0.7, None])})
    assert (found["tasks"], found["left_out"], found["n"], found["p"]) == (1, ["parity"], 3, pytest.approx(0.1))
    only = over_tasks({"parity": ([0.5], [0.6])})
    assert (only["p"], only["improvement"], only["n"], only["smallest_p"]) == (None, None, 1, 1.0)


def test_no_task_outweighs_another_by_its_scale():
    """A is far better on one task and B a little on two others: two of three tasks count."""
    found = over_tasks(
        {"x": ([0.9, 1.0], [0.0, 0.1]), "y": ([0.5, 0.51], [0.52, 0.53]), "z": ([0.1, 0.11], [0.12, 0.13])}
    )
    assert found["improvement"] == pytest.approx(2 / 3)
    assert found["direction"] == 1


def errors(rng, seeds, sequences, rate, spread):
    """(seeds, sequences) of 0 and 1: sequences of unlike difficulty, seeds of unlike skill."""
    return rate + spread * rng.standard_normal((seeds, 1)) > rng.random((seeds, sequences))


def test_the_ratio_counts_characters_and_not_sequences():
    """Errors 3 of 10 and 0 of 90 characters: .03, not the mean of .3 and 0."""
    a, zero = np.array([[3.0, 0.0]] * 2), np.zeros((2, 2))
    assert two_level_bootstrap(a, zero, [10, 90])["value"] == pytest.approx(0.03)


def test_sequences_alone_give_the_interval_of_a_paired_difference():
    """One seed: 100 of 400 sequences are solved by b only. By hand: .25 +- 1.97 sqrt(.25 .75 / 400)."""
    a = np.zeros((1, 400))
    a[0, :100] = 1
    found = two_level_bootstrap(a, np.zeros((1, 400)), np.ones(400))
    assert (found["value"], found["n"], found["sequences"]) == (0.25, 1, 400)
    assert "one seed" in found["method"]
    half = 1.966 * np.sqrt(0.25 * 0.75 / 400)
    assert [found["low"], found["high"]] == pytest.approx([0.25 - half, 0.25 + half], abs=0.006)
    assert found["over_sequences"] == [found["low"], found["high"]]


def test_a_difference_that_rests_on_one_sequence_is_not_certain():
    """Every seed of b solves one sequence more: certain for other seeds, not for other sequences."""
    a = np.zeros((6, 500))
    a[:, 7] = 1
    found = two_level_bootstrap(a, np.zeros((6, 500)), np.ones(500))
    assert found["over_sequences"][0] == 0.0 < found["value"]


@pytest.mark.parametrize("n", [3, 8])
def test_seeds_that_scatter_widen_the_interval(n):
    rng = np.random.default_rng(n)
    b = errors(rng, n, 300, 0.2, 0.0)
    calm = two_level_bootstrap(errors(rng, n, 300, 0.4, 0.0), b, np.ones(300), resamples=500)
    wild = two_level_bootstrap(errors(rng, n, 300, 0.4, 0.15), b, np.ones(300), resamples=500)
    assert wild["high"] - wild["low"] > 1.5 * (calm["high"] - calm["low"])
    assert calm["low"] <= calm["over_sequences"][0] < calm["over_sequences"][1] <= calm["high"]


def test_pairing_over_sequences_narrows_the_interval():
    """Both models fail on the same sequences: their difference is surer than that of unpaired ones."""
    rng = np.random.default_rng(4)
    hard = np.tile(rng.random(400) < 0.4, (8, 1))
    b = hard & (rng.random((8, 400)) < 0.8)
    paired = two_level_bootstrap(hard, b, np.ones(400), resamples=500)
    shuffled = two_level_bootstrap(hard, rng.permuted(b[0])[None].repeat(8, 0), np.ones(400), resamples=500)
    assert paired["high"] - paired["low"] < 0.7 * (shuffled["high"] - shuffled["low"])


@pytest.mark.parametrize("n", [3, 8])
def test_two_level_intervals_cover_other_seeds_and_other_sequences(n):
    """Each table draws seeds and sequences anew; the interval over sequences alone does not cover other seeds."""
    rng, tables, covered, narrow = np.random.default_rng(n), 120, 0, 0
    for _ in range(tables):
        a, b = (errors(rng, n, 150, rate, 0.08) for rate in (0.5, 0.4))
        found = two_level_bootstrap(a, b, np.ones(150), resamples=300)
        covered += found["low"] <= 0.1 <= found["high"]
        narrow += found["over_sequences"][0] <= 0.1 <= found["over_sequences"][1]
    assert covered >= 0.91 * tables  # .95, less two standard errors
    assert narrow < 0.85 * tables


@pytest.mark.parametrize(
    ("a", "counts"),
    [
        (np.zeros((2, 3)), np.ones(4)),
        (np.zeros(3), np.ones(3)),
        (np.full((2, 3), np.nan), np.ones(3)),
        (np.zeros((2, 3)), [1, 0, 1]),
    ],
)
def test_errors_that_do_not_fit_are_refused(a, counts):
    with pytest.raises(ValueError, match="errors_a, errors_b and counts: got"):
        two_level_bootstrap(a, a, counts)


def test_tost_is_two_one_sided_t_tests():
    """Mean .004, deviation .01140 over 5 seeds, standard error .0051: t of the nearer margin 3.138, p = .0174."""
    found = tost([0.01, -0.01, 0.02, 0.0, 0.0], margin=0.02)
    assert found["p"] == pytest.approx(0.0174, abs=2e-4)
    assert -0.02 < found["low"] < 0.004 < found["high"] < 0.02
    assert tost([0.03, 0.01, 0.02, 0.0, 0.04], margin=0.02)["p"] == pytest.approx(0.5)


def test_the_interval_is_within_the_margin_exactly_if_tost_says_so():
    differences = [0.01, -0.01, 0.02, 0.0, 0.0]
    high = tost(differences, margin=0.02)["high"]
    assert tost(differences, margin=high)["p"] == pytest.approx(0.05)


@pytest.mark.parametrize("differences", [[0.0] * 10, [0.01, 0.0, -0.01, None, 0.002], [0.5]])
def test_equal_or_few_differences_are_no_evidence_of_equivalence(differences):
    assert tost(differences, margin=0.1)["p"] is None


def test_a_margin_is_above_zero():
    with pytest.raises(ValueError, match="margin: got 0, allowed: a number above 0"):
        tost([0.1, 0.2], margin=0)
