"""Notes: what limits a result is said in a sentence, and nothing is said where nothing limits it.

python -m pytest tests/storage/test_notes.py
"""

import numpy as np
import pytest
from planted_metrics import good_metrics

from src.storage.notes import is_still_falling, listed, notes_of

STEPS = range(1, 11)


def curve(values) -> list:
    return [(100 * n, float(value)) for n, value in zip(STEPS, values, strict=True)]


FALLING = {
    "a steady fall": curve(2 - 0.1 * n for n in STEPS),
    "an exponential fall": curve(0.1 + 2 * np.exp(-n / 5) for n in STEPS),
    "a fall after a plateau": curve([0.69] * 9 + [0.1]),
    "a noisy fall": curve(2 - 0.1 * n + 0.02 * (-1) ** n for n in STEPS),
}
SETTLED = {
    "flat": curve([0.69] * 10),
    "flat and noisy": curve(0.69 + 0.05 * (-1) ** n for n in STEPS),
    "converged": curve(0.1 + 2 * np.exp(-n) for n in STEPS),
    "solved, and still halving": curve(0.002 * 0.5**n for n in STEPS),
    "a fall of one per cent": curve(2 - 0.008 * n for n in STEPS),
    "overfitted": curve(0.5 + 0.1 * (n - 4) ** 2 for n in STEPS),
    "three validations": [(100, 2.0), (200, 1.0), (300, 0.5)],
    "none": [],
}


@pytest.mark.parametrize("name", FALLING)
def test_a_loss_that_falls_at_the_end_is_noticed(name):
    assert is_still_falling(FALLING[name])


@pytest.mark.parametrize("name", SETTLED)
def test_a_loss_that_has_settled_is_not(name):
    assert not is_still_falling(SETTLED[name])


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_flat_noisy_curves_are_taken_for_falling_ones_at_most_three_times_in_100(noise):
    rng = np.random.default_rng(2)
    found = [is_still_falling(curve(0.69 + noise * rng.normal(size=10))) for _ in range(500)]
    assert np.mean(found) <= 0.03


def test_a_run_has_no_note_where_nothing_limits_it():
    settled = good_metrics(steps=1200, lengths=(64, 128))
    assert notes_of(settled) == []


def test_a_falling_run_says_so_unless_it_was_stopped_or_diverged():
    falling = good_metrics(lengths=(64,))
    falling["loss_curve"]["val"] = [list(point) for point in FALLING["a steady fall"]]
    (note,) = notes_of(falling)
    assert "was still falling: 1.35 in the third quarter of the run, 1.1 in the last" in note
    assert notes_of({**falling, "status": "diverged"}) == []
    stopped = {**falling, "stopped_at": 900, "args": {**falling["args"], "stop_at": 0.99}}
    words = "training stopped at step 900, solved: the validation hit_rate was at least --stop_at 0.99"
    assert notes_of(stopped) == [words]
    assert notes_of({**stopped, "args": {**stopped["args"], "stop_after": 2}}) == [f"{words} 2 times in a row"]


def test_lengths_without_a_score_are_named_once_per_reason():
    run = good_metrics(steps=1200, lengths=(64, 128, 256, 512))
    (note,) = notes_of(run)
    assert note.startswith("no score at lengths 256, 512: beyond the learned position table of 210")
    assert "--pos rope" in note
    run["length_curve"][-1]["undefined"] = "out of memory on cpu"
    assert notes_of(run)[1] == "no score at length 512: out of memory on cpu"
    assert listed(range(41, 501)) == "41 to 500 (460 lengths)"


@pytest.mark.parametrize(
    ("rate", "tried", "words"),
    [
        (
            0.01,
            [1e-3, 3e-3, 1e-2],
            "0.01 is the largest of those tried (0.001, 0.003, 0.01); a larger one may be better",
        ),
        (0.001, [1e-2, 1e-3], "0.001 is the smallest of those tried (0.001, 0.01); a smaller one may be better"),
        (0.001, [1e-3], "0.001 is the only one tried; another may be better"),
        (0.003, [1e-3, 3e-3, 1e-2], ""),
        (0.003, [], ""),
    ],
)
def test_a_learning_rate_at_the_edge_of_those_tried_is_noticed(rate, tried, words):
    run = good_metrics(steps=1200, lengths=(64,))
    run["args"] |= {"lr": rate, "lr_tried": tried}
    assert notes_of(run) == ([f"learning rate {words}"] if words else [])
