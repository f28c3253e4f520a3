"""Scores, verdicts and ranks of the card.

python -m pytest tests/study/test_card_ranking.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
from planted_cards import planted_card, planted_run, scores_of, write_suite

from src.study.card import ranking
from src.study.card.baselines import _run
from src.study.card.ranking import AHEAD, BEHIND, SAME, Against, compare, nearest, place_of, profile_distance
from src.study.card.scores import Score, interval, mean_of, score_of
from src.study.card.validity import Status


def seeds_of(*values, error=0.005, data=True):
    """{seed: Score}."""
    found = {}
    for seed, value in enumerate(values, 11):
        found[seed] = Score(value, value, None, value, error, f"d{seed}" if data else "one")
    return found


# Scores


def test_the_score_is_the_mean_of_the_scaled_columns():
    run = planted_run("parity", 11, 0.9, 0.5)
    assert score_of(run, ("value",)).value == pytest.approx(0.9)
    both = score_of(run, ("value", "at_mean"))
    assert (both.value, both.within, both.beyond) == (pytest.approx(0.7), 0.9, 0.5)
    assert score_of(run, ("value",)).error == pytest.approx(0.01 / 1.96, rel=1e-3)


def test_scores_are_scaled_from_chance_and_never_below_it():
    run = planted_run("parity", 11, 0.75, 0.4, chance=0.5, scaled=0.5, at_mean_scaled=-0.2)
    found = score_of(run, ("value", "at_mean"))
    assert (found.within, found.beyond, found.value) == (0.5, 0.0, 0.25)
    assert score_of(run, ("value",)).error == pytest.approx(0.02 / 1.96, rel=1e-3)  # on the scale of 0.5


def test_a_run_that_diverged_and_a_model_without_a_score_beyond_training_score_zero_there():
    assert score_of(planted_run("parity", 11, 0.5, 0.5, status="diverged"), ("value", "at_mean")).value == 0.0
    undefined = planted_run("parity", 11, 0.9, None, at_mean="undefined", at_mean_scaled=None)
    found = score_of(undefined, ("value", "at_mean"))
    assert (found.beyond, found.lacks_beyond) == (0.0, True)
    at_chance = score_of(planted_run("parity", 11, 0.9, 0.0), ("value", "at_mean"))
    assert (at_chance.beyond, at_chance.lacks_beyond) == (0.0, False)
    assert not score_of(undefined, ("value",)).lacks_beyond


def test_one_length_beyond_training_needs_no_mean():
    run = planted_run("parity", 11, 0.9, None, at_16=0.9, at_32=0.6, at_32_low=0.55, at_32_high=0.65)
    assert score_of(run, ("value", "at_mean")).beyond == pytest.approx(0.6)


def test_a_run_has_the_same_score_in_a_table_as_in_its_comparison():
    """With one length beyond training a comparison has no mean over lengths, and its table has one."""
    row = SimpleNamespace(name="parity")
    lengths = {"at_16": 0.9, "at_32": 0.6, "at_32_low": 0.55, "at_32_high": 0.65}
    one = planted_run("parity", 11, 0.9, None, at_mean_scaled=None, **lengths)
    several = planted_run("parity", 11, 0.9, 0.5)
    none = planted_run("parity", 11, 0.9, None, at_mean_scaled=None)
    for run, measure in ((one, ("value", "at_mean")), (several, ("value", "at_mean")), (none, ("value",))):
        assert score_of(_run(row, run), measure) == score_of(run, measure)


# Intervals


def test_equal_scores_have_an_interval_of_the_test_sets_width():
    mean, low, high = mean_of(list(seeds_of(0.6, 0.6, 0.6).values()))
    assert (mean, high - low) == (pytest.approx(0.6), pytest.approx(2 * 1.96 * 0.005 / np.sqrt(3), rel=1e-3))


def test_runs_that_all_diverged_have_no_interval():
    runs = [score_of(planted_run("recall", seed, 0.0, status="diverged"), ("value",)) for seed in (11, 12, 13)]
    assert mean_of(runs) == (0.0, None, None)


def test_seeds_with_one_test_set_do_not_make_its_sampling_smaller():
    apart = interval([0.6] * 3, [0.01] * 3, False)
    shared = interval([0.6] * 3, [0.01] * 3, True)
    assert (shared[2] - shared[1]) == pytest.approx(np.sqrt(3) * (apart[2] - apart[1]))


def test_an_interval_of_three_normal_scores_covers_their_mean():
    """95 % of 2,000 draws, within 1.5 points; sampling is a third of the spread over seeds."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        values = 0.5 + 0.03 * rng.standard_normal(3) + 0.01 * rng.standard_normal(3)
        _, low, high = interval(list(values), [0.01] * 3, False)
        hits += low <= 0.5 <= high
    assert 0.935 <= hits / 2000 <= 0.985


# Verdicts


@pytest.mark.parametrize(
    ("mine", "theirs", "word"),
    [
        ((0.9, 0.91, 0.92), (0.5, 0.51, 0.52), AHEAD),
        ((0.5, 0.51, 0.52), (0.9, 0.91, 0.92), BEHIND),
        ((0.9, 0.91, 0.92), (0.9, 0.91, 0.92), SAME),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), SAME),
        ((1.0, 0.1, 1.0), (0.1, 1.0, 0.1), SAME),  # an unsure layer is neither ahead nor behind
        ((0.609, 0.609, 0.609), (0.601, 0.601, 0.601), SAME),  # sure, and too small to matter
    ],
)
def test_a_difference_is_called_one_only_if_it_is_sure_and_large_enough(mine, theirs, word):
    assert compare(seeds_of(*mine), seeds_of(*theirs)).word == word


def test_a_sure_difference_below_the_least_one_is_none_at_any_precision():
    fine = compare(seeds_of(0.609, 0.609, 0.609, error=0.0), seeds_of(0.601, 0.601, 0.601, error=0.0))
    assert fine.low > 0
    assert fine.word == SAME


def test_only_seeds_that_both_have_are_compared():
    found = compare(seeds_of(0.9, 0.9, 0.1), seeds_of(0.9, 0.9))
    assert (found.n, found.value) == (2, 0.0)
    assert compare(seeds_of(0.9), seeds_of(0.9, 0.8)) is None


def test_rounding_of_another_machine_is_no_difference():
    """Late training may differ in the third digit; a layer must still equal itself."""
    rng = np.random.default_rng(1)
    for mean in (0.02, 0.4, 0.97, 1.0):
        mine = np.clip(mean + 0.02 * rng.standard_normal(3) * (mean < 1), 0, 1)
        again = np.clip(mine + 0.004 * rng.standard_normal(3) * (mean < 1), 0, 1)
        assert compare(seeds_of(*mine), seeds_of(*again)).word == SAME


def against(word, value=0.0):
    return Against(value, value - 0.01, value + 0.01, 3, word)


def test_the_rank_leaves_open_what_the_verdicts_leave_open():
    words = {"a": AHEAD, "b": AHEAD, "c": SAME, "d": SAME, "e": BEHIND}
    place = place_of({label: against(word) for label, word in words.items()})
    assert (place.best, place.worst, place.of, place.words) == (2, 4, 6, "2-4 of 6")
    assert place_of({"a": against(AHEAD)}).words == "1 of 2"
    assert place_of({}).words == ""


def test_among_equally_near_layers_the_one_that_is_nearest_over_all_rows_is_named():
    found = {"a": against(SAME, 0.0), "b": against(SAME, 0.005), "c": against(BEHIND, -0.4)}
    assert nearest(found, {"a": 0.3, "b": 0.1, "c": 0.0}) == "b"
    assert nearest(found, {"a": 0.1, "b": 0.3}) == "a"
    assert nearest({}, {}) == ""


def test_the_distance_over_rows_is_of_layers_that_have_all_of_them():
    assert profile_distance({"a": 1.0, "b": 0.5}, {"a": 0.0, "b": 0.5, "c": 1.0}) == pytest.approx(0.5**0.5)
    assert profile_distance({"a": 1.0, "b": 0.5}, {"a": 1.0}) == float("inf")
    assert profile_distance({}, {"a": 1.0}) == float("inf")


# Cards

PUBLISHED = {
    "linear_attention": {"parity": (0.02, 0.03, 0.02), "recall": (0.4, 0.42, 0.41)},
    "deltanet --neg_eigen": {"parity": (1.0, 1.0, 1.0), "recall": (1.0, 1.0, 1.0)},
    "gru": {"parity": (1.0, 1.0, 1.0), "recall": (0.2, 0.22, 0.21)},
}


def rows_of(document, place=0):
    return {row["row"]: row for row in document["cards"][place]["rows"]}


def test_a_layer_that_is_a_published_one_shows_no_difference_to_it_in_any_row(tmp_path):
    document = planted_card(write_suite(tmp_path), {"twin": PUBLISHED["gru"]}, PUBLISHED)
    for row in rows_of(document).values():
        words = {found["layer"]: found["word"] for found in row["against"]}
        assert words["gru"] == SAME
    assert document["cards"][0]["nearest"] == "gru"
    assert rows_of(document)["recall"]["best"] == 3


def test_ranks_of_a_layer_between_two_others(tmp_path):
    ours = {"mine": {"parity": (0.5, 0.51, 0.5), "recall": (0.7, 0.71, 0.7)}}
    row = rows_of(planted_card(write_suite(tmp_path), ours, PUBLISHED))["recall"]
    assert (row["best"], row["worst"], row["of"]) == (2, 2, 4)
    assert row["sentence"].startswith("learns most of recall of 2 pairs (0.70 of the way from chance to perfect); ")


def test_a_stale_and_a_missing_record_are_named_and_not_ranked(tmp_path):
    suite = write_suite(tmp_path)
    published = {**PUBLISHED, "linear_attention": {"recall": (0.4, 0.42, 0.41)}}
    statuses = {("gru", "recall"): Status("stale", "the data of the row changed")}
    document = planted_card(suite, {"mine": PUBLISHED["gru"]}, published, statuses)
    holes = {(hole["layer"], hole["row"]): (hole["word"], hole["why"]) for hole in document["holes"]}
    assert holes == {
        ("gru", "recall"): ("stale", "the data of the row changed"),
        ("linear_attention", "parity"): ("missing", "no runs"),
    }
    assert rows_of(document)["recall"]["of"] == 3
    assert {found["layer"] for found in rows_of(document)["parity"]["against"]} == {"deltanet --neg_eigen", "gru"}


def test_a_row_without_two_finished_runs_is_a_hole(tmp_path):
    ours = {"mine": {"parity": (1.0,), "recall": (1.0, 1.0, 1.0)}}
    (card,) = planted_card(write_suite(tmp_path), ours, PUBLISHED)["cards"]
    assert card["holes"] == [{"row": "parity", "why": "1 of at least 2 runs are finished"}]
    assert list(rows_of({"cards": [card]})) == ["recall"]


def test_a_layer_without_a_finished_run_has_a_card_that_says_so(tmp_path):
    ours = {"mine": {"parity": (None, None, None)}, "other": {}}
    first, second = planted_card(write_suite(tmp_path), ours, PUBLISHED)["cards"]
    assert (
        first["holes"]
        == second["holes"]
        == [
            {"row": "parity", "why": "0 of at least 2 runs are finished"},
            {"row": "recall", "why": "0 of at least 2 runs are finished"},
        ]
    )
    assert first["sentence"] == "has no score on any of the 2 rows that count"


def test_a_row_that_is_left_out_for_every_layer_is_no_hole_of_one(tmp_path):
    document = planted_card(write_suite(tmp_path), {"mine": {"parity": (1.0,) * 3}}, PUBLISHED, None, {"recall": "why"})
    assert document["missing"] == [{"row": "recall", "why": "why"}]
    assert document["cards"][0]["holes"] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("diverged", "diverged", 0.3), "diverges on parity in 2 of 3 runs and reaches 0.30 of the way"),
        (("diverged",) * 3, "diverges on parity in every run"),
        (((1.0, "undefined"),) * 3, "solves parity, has no score beyond its training length"),
        (((1.0, "undefined"), (1.0, 0.0), "diverged"), "has no score beyond its training length in 1 of 2 runs"),
        (((1.0, 1.0), (1.0, 1.0), "diverged"), "and solves it in 2, holds beyond its training length"),
        ((1.0, 1.0, None), "solves parity, holds beyond its training length, without a result in 1 of 3 runs"),
    ],
)
def test_runs_that_diverge_fail_or_cannot_be_scored_are_in_the_sentence(tmp_path, values, said):
    document = planted_card(write_suite(tmp_path), {"mine": {"parity": values}}, PUBLISHED)
    assert said in rows_of(document)["parity"]["sentence"]


def test_a_published_layer_is_not_compared_with_its_own_record(tmp_path):
    suite = write_suite(tmp_path)
    document = planted_card(suite, {"gru": PUBLISHED["gru"]}, PUBLISHED)
    (card,) = document["cards"]
    assert card["published"] == ["linear_attention", "deltanet --neg_eigen"]
    assert {layer["layer"] for row in card["rows"] for layer in row["against"]} == set(card["published"])
    assert rows_of(document)["recall"]["rank"] == "3 of 3"
    assert card["nearest"] != "gru"
    (file,) = planted_card(suite, {"gru": PUBLISHED["gru"]}, PUBLISHED, files={"gru"})["cards"]
    assert (file["nearest"], file["rows"][1]["of"]) == ("gru", 4)


def test_the_sentence_over_all_rows_names_how_many_have_a_score(tmp_path):
    (card,) = planted_card(write_suite(tmp_path), {"mine": {"recall": (0.2, 0.22, 0.21)}}, PUBLISHED)["cards"]
    assert "over the 1 of 2 rows that have a score it is nearest to gru" in card["sentence"]


def test_a_control_row_is_shown_and_not_counted(tmp_path):
    from planted_cards import SUITE

    suite = write_suite(tmp_path, SUITE.replace('name = "recall"', 'name = "recall"\ncontrol = true'))
    ours = {"mine": {"parity": (1.0, 1.0, 1.0), "recall": (0.4, 0.42, 0.41)}}
    (card,) = planted_card(suite, ours, PUBLISHED)["cards"]
    assert [row["control"] for row in card["rows"]] == [False, True]
    assert card["sentence"].startswith("solves 1 of 1 rows")
    assert card["distance"] == 0.0  # of parity alone


def test_without_any_record_nothing_is_ranked_and_the_sentence_says_so(tmp_path):
    document = planted_card(write_suite(tmp_path), {"mine": PUBLISHED["gru"]}, {})
    assert rows_of(document)["recall"]["of"] == 1
    assert "no published layer is ranked" in rows_of(document)["recall"]["sentence"]


def test_scores_keep_their_seeds(tmp_path):
    suite = write_suite(tmp_path)
    found = scores_of(suite, {"recall": (0.1, 0.2, 0.3)})
    assert {seed: score.value for seed, score in found["recall"].items()} == {11: 0.1, 12: 0.2, 13: 0.3}
    assert ranking.LEAST == 0.01  # docs/card.md names it
