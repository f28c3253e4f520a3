"""The rules of the card's sentences: each fires on a case and not on another.

python -m pytest tests/study/test_card_sentences.py
"""

import dataclasses

import pytest

from src.models import MODELS
from src.study.card.sentences import PARTS, RULES, Facts, fired, overall, sentence
from src.study.card.suite import read_suite
from src.study.card.traits import KNOWN, TRAITS, _without_positions, is_exact, shared_by

THREE = ("mamba", "gru", "gla")
PLAIN = Facts(
    "recall of 16 pairs", (0.6, 0.6, 0.6), 0.6, ahead=("mamba",), behind=("gru",), same=("gla",), nearest="gla"
)


def facts(**changed) -> Facts:
    return dataclasses.replace(PLAIN, **changed)


SOLVED = {"raw": (1.0, 0.99, 0.96), "within": 0.98}
# name of a rule: (facts on which it fires, what is said, facts on which another rule of its part fires, or none)
CASES = {
    "every run diverged": (
        facts(diverged=3),
        "diverges on recall of 16 pairs in every run",
        facts(diverged=2),
    ),
    "some runs diverged": (
        facts(diverged=2, within=0.3),
        "diverges on recall of 16 pairs in 2 of 3 runs and reaches 0.30 of the way from chance to perfect in the other",
        PLAIN,
    ),
    "real text": (
        facts(is_text=True, raw=(0.5, 0.51, 0.52)),
        "predicts 51.0 % of recall of 16 pairs",
        PLAIN,
    ),
    "solved": (facts(**SOLVED), "solves recall of 16 pairs", facts(raw=(1.0, 0.94, 1.0))),
    "solved by some seeds": (
        facts(raw=(1.0, 0.3, 0.97)),
        "solves recall of 16 pairs in 2 of 3 runs",
        facts(raw=(0.9, 0.3, 0.9)),
    ),
    "at chance": (facts(within=0.03), "does not learn recall of 16 pairs", facts(within=0.06)),
    "learned in part": (
        facts(within=0.3),
        "learns little of recall of 16 pairs (0.30 of the way from chance to perfect)",
        facts(within=0.01),
    ),
    "no score beyond": (
        facts(lack_beyond=3, within=0.9),
        "has no score beyond its training length",
        facts(beyond=0.1, within=0.9),
    ),
    "holds beyond": (facts(beyond=0.95), "holds beyond its training length", facts(beyond=0.85)),
    "fails beyond": (facts(beyond=0.1), "fails beyond its training length", facts(beyond=0.1, within=0.3)),
    "loses beyond": (
        facts(beyond=0.6),
        "keeps 0.60 of the way from chance to perfect beyond its training length",
        facts(beyond=None),
    ),
    "some runs failed": (facts(failed=1), "without a result in 1 of 4 runs", PLAIN),
    "nothing to rank with": (
        facts(ahead=(), behind=(), same=(), nearest=""),
        "no published layer is ranked here",
        PLAIN,
    ),
    "ahead of all": (
        facts(ahead=(), same=(), behind=THREE, nearest="gru"),
        "ahead of all 3 published layers",
        facts(ahead=(), behind=("gru",)),
    ),
    "behind all": (
        facts(ahead=THREE, same=(), behind=(), nearest="gru"),
        "behind all 3 published layers",
        facts(behind=(), ahead=("gru",)),
    ),
    "no difference to any": (
        facts(ahead=(), same=THREE, behind=()),
        "no difference to any of the 3 published layers is shown",
        facts(ahead=(), same=THREE),
    ),
    "some ahead, none behind": (
        facts(behind=(), ahead=("mamba", "mamba2")),
        "like gla, behind mamba and mamba2",
        facts(ahead=("mamba", "mamba2")),
    ),
    "some behind, none ahead": (
        facts(ahead=(), behind=("a", "b", "c", "d")),
        "like gla, ahead of 4 published layers",
        facts(ahead=("mamba",)),
    ),
    "between": (
        facts(same=("gla", "retnet"), nearest="mamba"),
        "ahead of gru, behind mamba",
        facts(ahead=()),
    ),
    "needed": (
        facts(shared="a short convolution", is_exact=True),
        "of the ranked layers, exactly those ahead of it have a short convolution",
        facts(shared="a short convolution"),
    ),
    "shared": (
        facts(shared="a short convolution"),
        "every layer ahead of it has a short convolution",
        facts(shared=""),
    ),
}


def test_each_rule_has_a_case_and_each_case_a_rule():
    assert list(CASES) == [rule.name for rule in RULES]
    assert {rule.part for rule in RULES} == set(PARTS)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires_where_it_should_and_not_elsewhere(name):
    on, words, off = CASES[name]
    rule = next(rule for rule in RULES if rule.name == name)
    assert fired(on)[rule.part].name == name
    assert rule.words(on) == words
    assert words in sentence(on)
    assert rule.part not in fired(off) or fired(off)[rule.part].name != name


def test_a_sentence_joins_its_parts():
    whole = facts(**SOLVED, beyond=0.1, ahead=("mamba", "mamba2"), shared="a short convolution", behind=())
    assert sentence(whole) == (
        "solves recall of 16 pairs, fails beyond its training length; like gla, behind mamba and mamba2; every layer "
        "ahead of it has a short convolution"
    )


def test_the_nearest_layer_is_named_only_if_no_difference_to_it_is_shown():
    assert "like gla" in sentence(PLAIN)
    assert "like" not in sentence(facts(nearest="gru"))
    assert "like gla and 2 others" in sentence(facts(same=("gla", "a", "b")))


def test_the_sentence_over_all_rows_counts_what_is_solved():
    rows = [facts(**SOLVED), PLAIN, facts(is_text=True)]
    assert overall(rows, 3, "gla", 0.051) == (
        "solves 1 of 2 rows; over all rows it is nearest to gla (root mean square difference 0.05)"
    )
    assert overall(rows, 3, "", None) == "solves 1 of 2 rows; no published layer is ranked on all rows"
    where = "the 3 of 5 rows that have a score"
    assert f"over {where} it is nearest to gla" in overall(rows, 5, "gla", 0.051)
    assert overall(rows, 5, "", None) == f"solves 1 of 2 rows; no published layer is ranked on {where}"


def test_a_single_published_layer_is_not_called_all_of_them():
    alone = {"ahead": (), "behind": (), "same": ()}
    for place, words in (("ahead", "behind"), ("behind", "ahead of"), ("same", "no difference to")):
        said = sentence(facts(**{**alone, place: ("gru",)}))
        assert f"; {words} the one published layer that is ranked" in said


# Traits

ALL = set(KNOWN)


def test_a_trait_is_named_only_if_it_tells_those_ahead_apart():
    delta = {"deltanet", "deltanet --neg_eigen", "gated_deltanet", "gated_deltanet --neg_eigen"}
    assert shared_by(delta, ALL) == "the delta rule, which erases before it writes"
    assert is_exact("the delta rule, which erases before it writes", delta, ALL)
    three = delta - {"deltanet"}
    assert shared_by(three, ALL) == "the delta rule, which erases before it writes"
    assert not is_exact("the delta rule, which erases before it writes", three, ALL)
    assert shared_by({"deltanet"}, ALL) == ""  # one layer shares nothing
    assert shared_by({"gru", "retnet"}, ALL) == ""  # nothing in common
    assert shared_by(delta, delta) == ""  # all ranked layers have it
    attention = {"transformer --pos alibi", "llama --pos rope"}
    assert shared_by(attention, attention | {"gru"}) == "attention over all earlier positions"


def test_nothing_is_said_where_a_layer_is_ranked_whose_parts_are_not_known():
    """A flag may add or remove a trait: `deltanet --n_head 2` has a short convolution too."""
    delta = {"deltanet", "gated_deltanet"}
    assert shared_by(delta, {*delta, "gru", "retnet"}) != ""
    assert shared_by(delta, {*delta, "gru", "retnet", "deltanet --n_head 2"}) == ""


def test_the_layers_whose_parts_are_known_are_those_of_the_suite():
    assert {_without_positions(label) for label in read_suite("core").layers} == KNOWN
    assert {label for members in TRAITS.values() for label in members} <= KNOWN


def test_gates_of_a_nonlinear_recurrence_are_not_denied():
    """The gates of lstm and gru depend on the input as well, so the trait is one of linear recurrences."""
    assert not [trait for trait in TRAITS if "decay" in trait and "linear recurrence" not in trait]


def test_layers_with_a_short_convolution_are_those_that_have_one_by_default():
    for name in sorted(MODELS):
        if name in {label.split()[0] for label in ALL}:
            model = MODELS[name].load()
            block = model.published
            assert (block.short_conv != 0) == (name in TRAITS["a short convolution"]), name
