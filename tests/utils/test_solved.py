"""When a run solved its task: the first validation at --solved_at, in every file that says it.

python -m pytest tests/utils/test_solved.py
"""

import json
from types import SimpleNamespace

import pytest
from conftest import TINY
from planted_metrics import good_metrics
from small_tasks import make

from src.storage.rows import rows_of
from src.utils import training
from src.utils.results import solved_at
from src.utils.summary import summary
from src.utils.training import Fit, Progress

PARITY = ["--task", "parity", "--model", "gru", *TINY, "--eval_every", "3", "--solved_at", "0.01"]
SOLVED = {"threshold": 0.95, "step": 120, "reason": None}


def noted(scores, solved=0.95, stop=0.0, after=2) -> Progress:
    """The progress after validations at steps 1, 2, ... with these scores."""
    fit = SimpleNamespace(progress=Progress(), args=SimpleNamespace(solved_at=solved, stop_at=stop, stop_after=after))
    for step, score in enumerate(scores, 1):
        fit.progress.step = step
        Fit._note_score(fit, score)
    return fit.progress


@pytest.mark.parametrize(
    ("scores", "step"), [([0.2, 0.95, 0.5, 0.97], 2), ([0.2, 0.949], None), ([None, None], None), ([], None)]
)
def test_the_first_validation_at_the_threshold_counts_and_later_ones_change_nothing(scores, step):
    assert noted(scores).solved_at == step


def test_a_threshold_of_0_records_nothing_and_does_not_stop():
    progress = noted([1.0], solved=0.0)
    assert (progress.solved_at, progress.stopped_at) == (None, None)


def test_a_run_may_be_solved_before_the_score_that_stops_it():
    progress = noted([0.96, 0.99], stop=0.98, after=1)
    assert (progress.solved_at, progress.stopped_at) == (1, 2)


@pytest.mark.parametrize(
    ("scores", "after", "step"),
    [
        ([0.99, 0.5, 0.99], 2, None),
        ([0.99, 0.5, 0.99, 0.98], 2, 4),
        ([0.5, 0.99, 0.99, 0.99], 3, 4),
        ([0.5, 0.99], 1, 2),
        ([0.99], 2, None),
    ],
)
def test_only_validations_in_a_row_end_a_run(scores, after, step):
    assert noted(scores, stop=0.98, after=after).stopped_at == step


@pytest.mark.parametrize(
    ("task", "threshold", "reason"),
    [
        ("parity", 0.95, None),
        ("reverse", 0.95, None),
        ("fourier_mix", 0.95, "within_1_level needs decoded answers, which a validation does not make"),
        ("parity", 0.0, "--solved_at 0 records nothing"),
    ],
)
def test_metrics_say_why_a_run_cannot_know_when_it_solved_its_task(task, threshold, reason):
    made, args = make(task, solved_at=threshold)
    found = solved_at(SimpleNamespace(task=made, args=args), Progress(step=9))
    assert (found["threshold"], found["step"]) == (threshold, None)
    assert found["reason"] is reason or found["reason"].endswith(reason)


def row_of(solved, **changed) -> dict | None:
    """The row of the run's results.jsonl that says when it was solved."""
    rows = rows_of({**good_metrics(), "solved_at": solved, **changed})
    return next((row for row in rows if row["metric"] == "solved_at"), None)


@pytest.mark.parametrize(
    ("solved", "status", "value", "note"),
    [
        (SOLVED, "ok", 120, "first validation with hit_rate >= 0.95"),
        ({**SOLVED, "step": None}, "not reached", None, "no validation with hit_rate >= 0.95 in 600 steps"),
        ({**SOLVED, "step": None, "reason": "no score"}, "unsupported", None, "no score"),
    ],
)
def test_a_row_says_at_which_step_or_until_which_step_not(solved, status, value, note):
    row = row_of(solved)
    assert (row["status"], row["value"], row["note"]) == (status, value, note)
    assert (row["panel"], row["x_name"], row["x"]) == ("training", "step", 600)


def test_the_row_of_a_run_that_diverged_keeps_that_status():
    gone = {"status": "diverged", "diverged_at": 600, "final_test": None}
    for step in (120, None):
        row = row_of({**SOLVED, "step": step}, **gone)
        assert (row["status"], row["value"]) == ("diverged", step)


def test_a_run_that_is_older_than_the_flag_has_no_row():
    assert not [row for row in rows_of(good_metrics()) if row["metric"] == "solved_at"]


def test_a_summary_names_the_step_only_where_there_is_one():
    machine = {"train_seconds": 1.0, "command_seconds": 2.0}
    lines = [
        summary({**good_metrics(), "machine": machine, **solved}).splitlines()
        for solved in ({"solved_at": SOLVED}, {"solved_at": {**SOLVED, "step": None}}, {})
    ]
    assert "solved at step 120 (val hit_rate >= 0.95)" in lines[0]
    assert lines[1] == lines[2] == [line for line in lines[0] if "solved" not in line]


def test_a_solved_run_goes_on_and_a_killed_one_ends_with_the_same_result(main, monkeypatch, tmp_path):
    """The run is cut off after its third validation, at which it had been solved for six steps."""
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    assert main(*PARITY, "--out_dir", "whole")[0] == 0
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    assert metrics["solved_at"] == {"threshold": 0.01, "step": 3, "reason": None}
    assert (metrics["steps"], metrics["stopped_at"]) == (12, None)
    real, calls = training.train_step, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", cut)
        assert main(*PARITY, "--out_dir", "cut")[0] == 130
    code, _, err = main("--resume", "--out_dir", "cut", "--solved_at", "0.5")
    assert (code, err.count("\n")) == (2, 1)
    assert "--solved_at: got 0.5, but this run was started with 0.01" in err
    assert main("--resume", "--out_dir", "cut")[0] == 0
    assert json.loads((tmp_path / "cut/metrics.json").read_text())["sha256"] == metrics["sha256"]
    for name in ("results.jsonl", "test_items.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
