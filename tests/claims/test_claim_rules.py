"""The parts of rules, and verdicts over a table, from planted scores.

python -m pytest tests/claims/test_claim_rules.py
"""

import dataclasses
import math

import pytest

from src.claims.contract import (
    CONTRADICTED,
    FAILS,
    FULL,
    HOLDS,
    NOT_RUN,
    OPEN,
    QUICK,
    REPRODUCED,
    UNDECIDED,
    Claim,
    Evidence,
    Scores,
)
from src.claims.judge import judge
from src.claims.rules import Ahead, Below, Grows, Reaches, Same

SIX = (11, 12, 13, 14, 15, 16)
NOISE = (0.0, 0.01, -0.01, 0.02, -0.02, 0.005)


def cell(model: str, mean: float, seeds=SIX, task="copy", setting="", **measures) -> Scores:
    turn = (ord(model[0]) + 2 * len(setting.rstrip("1"))) % 6  # other seeds are the lucky ones for another layer
    values = tuple(mean + e for e in (NOISE[turn:] + NOISE[:turn])[: len(seeds)])
    return Scores(
        task, model, setting, tuple(seeds), {"value": values, **measures}, {"steps": 400, "metric": "token_acc"}
    )


def evidence(*cells: Scores, mode=FULL, items=()) -> Evidence:
    return Evidence(mode, "runs", tuple(cells), tuple(items))


def claim(*rule, key="planted") -> Claim:
    return Claim(key, "A is ahead of B.", "a paper", "1.0 against .5", rule, REPRODUCED, 1)


def test_a_clear_difference_holds_with_the_exact_p_of_its_seeds():
    found = Ahead(("a",), ("b",), least=0.1).judge(evidence(cell("a", 0.9), cell("b", 0.5)))
    assert (found.state, found.value) == (HOLDS, pytest.approx(0.4))
    assert found.p == pytest.approx(1 / math.comb(12, 6))


@pytest.mark.parametrize(
    ("a", "b", "state"),
    [
        (0.55, 0.5, FAILS),  # shown to be smaller than the .1 that the rule asks for
        (0.3, 0.5, FAILS),  # the other way
    ],
)
def test_a_small_or_reversed_difference_fails(a, b, state):
    assert Ahead(("a",), ("b",), least=0.1).judge(evidence(cell("a", a), cell("b", b))).state == state


def test_a_wide_interval_stays_open():
    spread = Scores("copy", "a", "", SIX, {"value": (0.9, 0.4, 0.8, 0.5, 0.9, 0.3)})
    assert Ahead(("a",), ("b",), least=0.1).judge(evidence(spread, cell("b", 0.5))).state == OPEN


def test_other_test_sequences_that_could_reverse_a_difference_leave_it_open():
    item = {"task": "copy", "setting": "", "a": "b", "b": "a", "measure": "value", "low": -0.1, "high": 0.5}
    pair = (cell("a", 0.9), cell("b", 0.5))
    assert Ahead(("a",), ("b",)).judge(evidence(*pair, items=[item])).state == OPEN
    for elsewhere in ({"low": 0.1}, {"task": "parity"}, {"measure": "at_40"}, {"a": "c"}):
        assert Ahead(("a",), ("b",)).judge(evidence(*pair, items=[{**item, **elsewhere}])).state == HOLDS


def test_of_a_loss_the_lower_one_is_ahead():
    loss = {"a": (1.5, 1.51, 1.49, 1.5, 1.5, 1.5), "b": (1.7, 1.7, 1.7, 1.71, 1.69, 1.7)}
    cells = [cell(name, 0.5, test_loss=values) for name, values in loss.items()]
    assert Ahead(("a",), ("b",), measure="test_loss").judge(evidence(*cells)).value == pytest.approx(0.2)
    assert Ahead(("b",), ("a",), measure="test_loss").judge(evidence(*cells)).state == FAILS


def test_layers_on_one_side_are_one_group():
    three = SIX[:3]
    cells = [cell("a", 0.9, three), cell("b", 0.95, three), cell("c", 0.5, three), cell("d", 0.4, three)]
    found = Ahead(("a", "b"), ("c", "d"), least=0.2).judge(evidence(*cells))
    assert found.p == pytest.approx(1 / math.comb(12, 6))
    assert found.value == pytest.approx(0.475, abs=0.01)


def test_a_group_with_a_layer_that_is_not_ahead_of_each_other_one_stays_open():
    three = SIX[:3]
    cells = [cell("a", 0.99, three), cell("b", 0.41, three), cell("c", 0.3, three), cell("d", 0.3, three)]
    found = Ahead(("a", "b"), ("c", "d"), least=0.2).judge(evidence(*cells))
    assert found.value > 0.2
    assert found.state == OPEN
    assert "b against c alone: +0.1" in found.words
    assert Ahead(("a", "b"), ("c", "d"), least=0.05).judge(evidence(*cells)).state == HOLDS


def test_one_layer_is_compared_on_two_tasks():
    cells = [cell("a", 0.9, task="easy"), cell("a", 0.4, task="hard")]
    assert Ahead(("a",), ("a",), task="easy", other_task="hard").judge(evidence(*cells)).value == pytest.approx(0.5)


@pytest.mark.parametrize(("part", "state"), [(Reaches(("a",), 0.8), HOLDS), (Reaches(("a",), 0.95), FAILS)])
def test_a_threshold_holds_if_all_runs_meet_it_and_fails_if_none_does(part, state):
    assert part.judge(evidence(cell("a", 0.9))).state == state


def test_a_threshold_that_some_runs_meet_stays_open():
    assert Reaches(("a",), 0.905).judge(evidence(cell("a", 0.9))).state == OPEN
    assert Below(("a",), 0.905).judge(evidence(cell("a", 0.9))).state == OPEN
    assert Below(("a",), 0.95).judge(evidence(cell("a", 0.9))).state == HOLDS


def test_families_grow_if_each_is_ahead_at_its_largest_size():
    families = tuple((name, (f"{name} d=1", f"{name} d=2")) for name in ("a", "b"))
    cells = [cell(n, v, SIX[:3], setting=f"d={d}") for n in "ab" for d, v in ((1, 0.3), (2, 0.6))]
    found = Grows(families, least=0.1).judge(evidence(*cells))
    assert (found.state, found.value) == (HOLDS, pytest.approx(0.3, abs=0.01))
    assert found.p == pytest.approx(1 / 400)  # all runs apart in two strata of three against three
    cells[3] = cell("b", 0.2, SIX[:3], setting="d=2")
    assert Grows(families, least=0.05).judge(evidence(*cells)).state != HOLDS


def test_an_aa_control_finds_no_difference_in_equal_halves_and_finds_a_planted_one():
    same = Same("a", (0, 1, 2))
    assert same.judge(evidence(cell("a", 0.5))).state == HOLDS
    twelve = tuple(range(11, 23))
    planted = Scores("copy", "a", "", twelve, {"value": tuple(0.2 + 0.01 * (i % 5) + 0.5 * (i > 5) for i in range(12))})
    found = Same("a", (0, 1, 2, 3, 4, 5)).judge(evidence(planted))
    assert (found.state, found.p) == (FAILS, pytest.approx(2 / math.comb(12, 6)))
    (verdict,) = judge([(claim(Same("a", (0, 1, 2, 3, 4, 5))), evidence(planted))])
    assert verdict.word == CONTRADICTED


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Ahead(("a",), ("b",)), "no runs of b"),
        (Reaches(("a",), 0.5, measure="at_40"), "a on copy has no at_40 for some seed"),
        (Ahead(("a",), ("a",), measure="test_loss"), "a on copy has no test_loss for some seed"),  # one run diverged
    ],
)
def test_a_claim_whose_rule_lacks_a_number_is_undecided_and_says_which(part, words):
    runs = evidence(cell("a", 0.9, test_loss=(1.5, None, 1.4, 1.5, 1.5, 1.5)))
    (verdict,) = judge([(claim(part), runs)])
    assert (verdict.word, verdict.words.split("; ")[0]) == (UNDECIDED, f"undecided: {words}")


def test_an_effect_of_exactly_zero_is_written():
    (verdict,) = judge([(claim(Ahead(("a",), ("b",))), evidence(cell("a", 0.5), cell("a", 0.5, setting="b")))])
    kept = dataclasses.replace(verdict, effect=0.0, low=0.0, high=0.0).as_dict()
    assert (kept["effect"], kept["low"], kept["high"]) == (0.0, 0.0, 0.0)
    assert "family" not in kept


GOOD = evidence(cell("a", 0.9), cell("b", 0.5))
RULE = (Ahead(("a",), ("b",), least=0.1), Reaches(("a",), 0.8))


def test_all_parts_must_hold():
    assert judge([(claim(*RULE), GOOD)])[0].word == REPRODUCED
    assert judge([(claim(*RULE, Below(("a",), 0.1)), GOOD)])[0].word == CONTRADICTED
    assert judge([(claim(*RULE, Reaches(("a",), 0.905)), GOOD)])[0].word == UNDECIDED


def test_holm_corrects_over_the_claims_that_have_runs():
    """The p of six seeds, 1 / 924, passes a family of 46 and not one of 60."""
    alone, absent = judge([(claim(*RULE), GOOD), (claim(*RULE, key="other"), None)])
    assert (alone.family, absent.word) == (1, NOT_RUN)
    assert alone.p_adjusted == pytest.approx(1 / 924)
    many = judge([(claim(*RULE, key=f"c{i}"), GOOD) for i in range(60)])
    assert {v.word for v in many} == {UNDECIDED}
    assert {v.word for v in judge([(claim(*RULE, key=f"c{i}"), GOOD) for i in range(46)])} == {REPRODUCED}


def test_the_quick_mode_never_says_more_than_points_to():
    quick = evidence(cell("a", 0.9, SIX[:1]), cell("b", 0.5, SIX[:1]), mode=QUICK)
    assert judge([(claim(*RULE), quick)])[0].word == "points to reproduced"
    worse = evidence(cell("a", 0.4, SIX[:1]), cell("b", 0.5, SIX[:1]), mode=QUICK)
    assert judge([(claim(*RULE), worse)])[0].word == "points to contradicted"
    (alone,) = judge([(claim(Same("a", (0,))), quick)])
    assert alone.word == "points to nothing"


def test_half_the_steps_and_one_seed_do_not_contradict_what_is_only_smaller():
    """A layer that has not learned the task after half the steps may learn it in the other half."""

    def word_of(a: float, *rule) -> str:
        cells = (cell("a", a, SIX[:1]), cell("b", 0.5, SIX[:1]))
        return judge([(claim(*rule), evidence(*cells, mode=QUICK))])[0].word

    ahead = Ahead(("a",), ("b",), least=0.1)
    assert word_of(0.55, ahead) == "points to nothing"
    assert word_of(0.45, ahead) == "points to contradicted"
    assert word_of(0.8, ahead, Reaches(("a",), 0.95)) == "points to nothing"
    full = evidence(cell("a", 0.8), cell("b", 0.5))
    assert judge([(claim(ahead, Reaches(("a",), 0.95)), full)])[0].word == CONTRADICTED


def test_a_verdict_says_seeds_steps_and_its_correction():
    words = judge([(claim(*RULE), GOOD)])[0].words
    assert words.startswith("reproduced: a against b: +0.400 [")
    assert words.endswith("6 seeds, within 400 steps (p = 0.0011 after correction for 1 test)")


def test_the_rule_of_a_claim_is_not_changed_by_its_evidence():
    with pytest.raises(dataclasses.FrozenInstanceError):
        claim(*RULE).rule = ()
