"""Verdicts: Holm by hand, the rule word by word, tables of equal models, and planted effects.

python -m pytest tests/stats/test_verdicts.py
"""

import numpy as np
import pytest
import scipy  # `scipy.stats` is imported where it is first used

from src.stats.pairs import over_tasks, paired_seeds
from src.stats.permutation import exchange, improvement, smallest_p
from src.stats.verdicts import Verdict, headline, holm, verdict

LOW, HIGH = np.linspace(0.1, 0.2, 6), np.linspace(0.8, 0.9, 6)


def facts(p=0.01, direction=1, n=6, smallest=0.002):
    one_sided = {"p_better": p / 2, "smallest_p_better": smallest / 2}
    return {"p": p, "smallest_p": smallest, "direction": direction, "n": n, **one_sided}


def test_holm_by_hand():
    """.01 x 4, .02 x 3, .03 x 2 is less than the one before, .5 x 1: in the given order."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("p", [[1.2], [float("nan")], [-0.1]])
def test_holm_takes_probabilities(p):
    with pytest.raises(ValueError, match="p_values: got"):
        holm(p)


def test_three_seeds_are_tested_over_the_tasks_only():
    """Nine comparisons with p >= .1 can have no verdict, so they do not cost the others anything."""
    cells = {("copy", m, t): paired_seeds([0.1, 0.2, 0.3], [0.7, 0.8, 0.9]) for m in range(3) for t in range(3)}
    suites = {("all", m): over_tasks({t: ([0.1, 0.2, 0.3], [0.7, 0.8, 0.9]) for t in "abc"}) for m in range(3)}
    family = headline({**cells, **suites})
    assert (family.comparisons, family.tested, family.needed) == (12, 3, 6)
    assert all(family.adjusted[key] is None for key in cells)
    assert [family.adjusted[key] for key in suites] == pytest.approx([3 * 2 / 20**3] * 3)


def test_two_tasks_and_four_models_can_be_judged_with_three_seeds():
    """Corrected over all 12 comparisons .005 would not do; over the 4 that can be tested it does."""
    cells = {m: facts(0.1, smallest=0.1) for m in range(8)}
    suites = {("all", m): facts(0.005, smallest=0.005) for m in range(4)}
    family = headline({**cells, **suites})
    assert family.tested == 4
    assert family.adjusted["all", 0] == pytest.approx(0.02)


def test_what_is_tested_does_not_depend_on_the_scores():
    one, other = (headline({k: facts(p, smallest=s) for k, s in enumerate((0.1, 0.02, 0.002))}) for p in (0.9, 0.0005))
    assert [p is None for p in one.adjusted.values()] == [p is None for p in other.adjusted.values()]
    assert one.tested == 2


def test_one_comparison_stated_in_advance_needs_three_seeds():
    pair = {"pair": paired_seeds([0.1, 0.2, 0.3], [0.7, 0.8, 0.9])}
    assert headline(pair).adjusted == {"pair": None}
    assert headline(pair).needed == 4
    assert headline(pair, claim="better").adjusted == {"pair": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("a", "b", "word"), [(LOW, HIGH, "better"), (HIGH, LOW, "worse"), (LOW, LOW, "no difference shown")]
)
def test_six_seeds_give_a_verdict(a, b, word):
    pair = paired_seeds(a, b)
    family = headline({"pair": pair})
    assert verdict(pair, family.adjusted["pair"], budget_steps=5000).word == word


@pytest.mark.parametrize(
    ("given", "p_adjusted", "more", "expected"),
    [
        (facts(), 0.05, {}, ("better", "better")),
        (facts(), 0.051, {}, ("no difference shown", "no difference shown within 5,000 steps")),
        (facts(direction=-1), 0.05, {}, ("worse", "worse within 5,000 steps")),
        (facts(), 0.05, {"over_sequences": [0.001, 0.02]}, ("better", "better")),
        (
            facts(),
            0.05,
            {"over_sequences": [0.0, 0.02]},
            ("no difference shown", "no difference shown within 5,000 steps: other test sequences could reverse it"),
        ),
        (facts(n=1), None, {}, ("no verdict", "one seed: no verdict")),
        (facts(n=0), None, {}, ("no verdict", "no seed that both have: no verdict")),
        (facts(n=3), None, {"needed": 6}, ("no verdict", "3 seeds are too few for a verdict, 6 needed")),
        (
            facts(),
            0.5,
            {"margin": 0.02, "p_equivalent": 0.04},
            ("equivalent", "equivalent within 0.02, within 5,000 steps"),
        ),
        (facts(), 0.5, {"p_equivalent": 0.04}, ("no difference shown", "no difference shown within 5,000 steps")),
        (facts(), 0.5, {"margin": 0.02}, ("no difference shown", "no difference shown within 5,000 steps")),
        (facts(), 0.01, {"margin": 0.02, "p_equivalent": 0.04}, ("better", "better")),
        (facts(), 0.05, {"claim": "better"}, ("better", "better")),
        (
            facts(direction=-1),
            0.05,
            {"claim": "better"},
            ("no improvement shown", "no improvement shown within 5,000 steps"),
        ),
    ],
)
def test_the_rule_word_by_word(given, p_adjusted, more, expected):
    assert verdict(given, p_adjusted, budget_steps=5000, **more) == Verdict(*expected)


def test_a_wrong_claim_and_a_wrong_alpha_are_refused():
    with pytest.raises(ValueError, match="claim: got 'worse', allowed: differs, better"):
        headline({"pair": facts()}, claim="worse")
    with pytest.raises(ValueError, match="alpha: got 5"):
        verdict(facts(), 0.5, budget_steps=1, alpha=5)


# Simulated tables of a first model and three others on three tasks.
KINDS = ("normal", "two modes", "saturated")


def scores(rng, kind, shape):
    if kind == "normal":
        return rng.normal(0.7, 0.05, shape)
    if kind == "two modes":
        return np.where(rng.random(shape) < 0.5, 0.2, 1.0) + rng.normal(0, 0.003, shape)
    return np.minimum(1, np.round(1.0005 - rng.exponential(0.001, shape), 3))


def verdicts(x):
    """The words of each table of scores (tables, tasks, models, n): a list of {(task or "all", model): word}."""
    return [judged(table, "differs") for table in comparisons(x)]


def judged(table, claim):
    family = headline(table, claim)
    return {k: verdict(f, family.adjusted[k], budget_steps=1, claim=claim).word for k, f in table.items()}


def comparisons(x):
    """Per table of scores (tables, tasks, models, n): {(task or "all", model): facts} of the headline family."""
    tables, tasks, models, n = x.shape
    first = np.broadcast_to(x[:, :, :1], (tables, tasks, models - 1, n))
    two_sided, better = (p.reshape(first.shape[:3]) for p in exchange(first.reshape(-1, n), x[:, :, 1:].reshape(-1, n)))
    directions = np.sign(x[:, :, 1:].mean(-1) - first.mean(-1))
    found = []
    for i in range(tables):
        table = {
            (t, m): {
                "n": n,
                "p": two_sided[i, t, m],
                "p_better": better[i, t, m],
                "smallest_p": smallest_p(n),
                "smallest_p_better": smallest_p(n, "better"),
                "direction": directions[i, t, m],
            }
            for t in range(tasks)
            for m in range(models - 1)
        }
        for m in range(models - 1):
            share, p, p_better = improvement([(x[i, t, 0], x[i, t, m + 1]) for t in range(tasks)])
            least = smallest_p(n, "better") ** tasks
            table["all", m] = {
                "n": n,
                "p": p,
                "p_better": p_better,
                "smallest_p": 2 * least,
                "smallest_p_better": least,
                "direction": np.sign(share - 0.5),
            }
        found.append(table)
    return found


def share_with_a_difference(found) -> float:
    return float(np.mean([any(word in ("better", "worse") for word in table.values()) for table in found]))


def test_three_seeds_of_equal_models_hardly_ever_differ():
    """Each task has scores of another kind. A paired t test would call out equal models with two modes."""
    rng = np.random.default_rng(1)
    x = np.concatenate([scores(rng, kind, (100, 1, 4, 3)) for kind in KINDS], axis=1)
    assert share_with_a_difference(verdicts(x)) <= 0.07
    two_modes = scores(rng, "two modes", (200, 4, 3))
    p_t = scipy.stats.ttest_rel(two_modes[:, 1:], two_modes[:, :1], axis=2).pvalue
    assert np.mean([min(holm(row)) <= 0.05 for row in p_t]) > 0.07


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_equal_models_differ_in_five_tables_of_a_hundred_at_most(n, kind):
    """Under either claim: 5 %, and two standard errors of 1,000 tables above."""
    tables = comparisons(scores(np.random.default_rng(n), kind, (1000, 3, 4, n)))
    for claim in ("differs", "better"):
        assert share_with_a_difference([judged(table, claim) for table in tables]) <= 0.065


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_one_comparison_of_equal_models_differs_as_often_as_promised(n):
    """For a single pair of continuous scores the test is nearly exact: 5 +- 2 % from 5 seeds on, and 0 at 3."""
    x = scores(np.random.default_rng(n), "normal", (1000, 1, 2, n))
    p, _ = exchange(x[:, 0, 0], x[:, 0, 1])
    family = [headline({"pair": facts(value, smallest=smallest_p(n), n=n)}) for value in p]
    share = np.mean([f.adjusted["pair"] is not None and f.adjusted["pair"] <= 0.05 for f in family])
    assert share == 0 if n == 3 else 0.03 <= share <= 0.07


@pytest.mark.parametrize(
    ("n", "effect", "key", "power"), [(3, 3.0, ("all", 0), 0.95), (6, 4.0, (0, 0), 0.9)], ids=["over tasks", "per task"]
)
def test_a_planted_effect_is_found_and_it_alone(n, effect, key, power):
    """One of three models is better by some standard deviations of a seed, on each task."""
    x = np.random.default_rng(n).normal(0, 1, (40, 3, 4, n))
    x[:, :, 1] += effect
    found = verdicts(x)
    assert np.mean([table[key] == "better" for table in found]) >= power
    others = [word for table in found for k, word in table.items() if k[1] != 0]
    assert np.mean([word in ("better", "worse") for word in others]) <= 0.03


def test_a_model_that_fails_less_often_is_found_over_the_tasks():
    """Success in half of the runs against nine in ten, 10 seeds on 3 tasks: found in most tables."""
    rng = np.random.default_rng(9)
    x = scores(rng, "two modes", (20, 3, 2, 10))
    x[:, :, 1] = np.where(rng.random((20, 3, 10)) < 0.1, 0.2, 1.0)
    assert np.mean([table["all", 0] == "better" for table in verdicts(x)]) >= 0.6
