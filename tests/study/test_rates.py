"""Learning rates of a comparison: the grid, the choice on val, and where the grid grows.

python -m pytest tests/study/test_rates.py
"""

import math

import pytest

from src.study.comparison.rates import Trial, choose, edges, good_decades, grown, half_decades


@pytest.mark.parametrize(
    ("rate", "grid"),
    [
        (3e-3, (1e-3, 3e-3, 1e-2)),
        (1e-3, (3e-4, 1e-3, 3e-3)),
        (1e-2, (3e-3, 1e-2, 3e-2)),
        (5e-4, (1.6e-4, 5e-4, 1.6e-3)),
    ],
)
def test_the_default_grid_is_three_rates_half_a_decade_apart(rate, grid):
    assert half_decades(rate) == pytest.approx(grid, rel=1e-9)


def test_the_best_score_on_val_is_chosen_and_ties_go_to_the_lower_loss():
    assert choose({1e-3: Trial(0.9, 0.3), 3e-3: Trial(0.95, 0.5), 1e-2: Trial(0.95, 0.4)}) == 1e-2
    assert choose({1e-3: Trial(0.9, 0.3), 3e-3: Trial(0.9, 0.3)}) in (1e-3, 3e-3)


def test_a_diverged_run_loses_against_any_run_with_a_loss_and_a_failed_one_is_never_chosen():
    diverged, failed = Trial(0.5, math.inf), Trial(0.0, math.inf, failed=True)
    assert choose({1e-3: Trial(0.5, 2.0), 1e-2: diverged, 3e-2: failed}) == 1e-3
    assert choose({1e-2: diverged, 3e-2: failed}) == 1e-2
    assert choose({3e-2: failed}) is None


def test_the_grid_grows_where_the_best_of_any_model_is_at_its_edge():
    grid = [1e-3, 3e-3, 1e-2]
    assert edges(grid, [3e-3, 3e-3]) == set()
    assert edges(grid, [3e-3, 1e-2]) == {1}
    assert edges(grid, [1e-3, 1e-2, None]) == {-1, 1}
    assert edges([3e-3], [3e-3]) == set()  # one rate has no edges
    assert grown(grid, {1}) == pytest.approx([3e-2])
    assert grown(grid, {-1, 1}) == pytest.approx([3e-4, 3e-2])
    assert grown([1e-4, 1e-3], {1}) == pytest.approx([1e-2])  # as far apart as the typed ones


def test_the_width_of_the_good_range_counts_neighbours_of_the_best_rate_only():
    scores = {1e-4: 0.99, 1e-3: 0.6, 3e-3: 0.97, 1e-2: 0.995, 3e-2: 0.98, 1e-1: 0.5}
    trials = {rate: Trial(score, 1.0) for rate, score in scores.items()}
    assert good_decades(trials, chance=0.5) == pytest.approx(1.0)  # 3e-3 to 3e-2; 1e-4 is beyond a bad one


def test_no_range_is_good_where_the_best_rate_is_at_chance():
    assert good_decades({1e-3: Trial(0.50, 1.0), 1e-2: Trial(0.51, 1.0)}, chance=0.5) is None
