"""The runs of a comparison: which are needed, in which order, and what becomes of failures. No run is trained here.

python -m pytest tests/study/test_campaign.py
"""

import math

import pytest
from planted_runs import carried_out, cells_of, done, planted_row

from src.study.comparison.campaign import REPORT, TUNING, Known
from src.study.comparison.digest import run_name
from src.study.comparison.folder import rows_of
from src.study.comparison.summary import summarise
from src.study.engines import DIVERGED, FAILED


@pytest.fixture(scope="module")
def two_models():
    return cells_of("gru", "lstm")


def best_at(rate: float, **by_model):
    """Results whose val score is highest, and whose loss is lowest, at a rate, of its own per model where given."""

    def result(run):
        off = abs(math.log(run.lr / by_model.get(run.cell.model, rate)))
        return done(0.9 if off < 1e-9 else 0.6, loss=1 + off)

    return result


def test_rates_are_chosen_on_the_tuning_seed_and_reported_on_fresh_ones(monkeypatch, tmp_path, two_models):
    campaign, _ = carried_out(monkeypatch, *two_models, tmp_path, best_at(3e-3, lstm=3e-3))
    runs = [run for run, _ in campaign.runs()]
    assert {run.seed for run in runs if run.role == TUNING} == {1}
    assert {run.seed for run in runs if run.role == REPORT} == {11, 12, 13}
    assert {run.lr for run in runs if run.role == REPORT} == {3e-3}


def test_a_best_rate_at_the_edge_gives_every_model_one_more_rate(monkeypatch, tmp_path, two_models):
    campaign, jobs = carried_out(monkeypatch, *two_models, tmp_path, best_at(3e-3, lstm=3e-2))
    assert campaign.groups[0].grid == pytest.approx([1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
    tried = {
        model: sorted(run.lr for run, _ in campaign.runs() if run.cell.model == model and run.role == TUNING)
        for model in ("gru", "lstm")
    }
    assert tried["gru"] == tried["lstm"]
    assert len(tried["gru"]) == 5
    assert campaign.groups[0].chosen == {"gru": 3e-3, "lstm": 3e-2}
    assert len(jobs) == len({job.folder for job in jobs}) == 2 * 5 + 2 * 3


def test_the_grid_grows_at_most_lr_extend_times_and_the_edge_is_said(monkeypatch, tmp_path, two_models):
    def larger_is_better(run):
        return done(min(1.0, 0.5 + run.lr))

    campaign, _ = carried_out(monkeypatch, *two_models, tmp_path, larger_is_better)
    assert max(campaign.groups[0].grid) == pytest.approx(1e-1)  # 1e-2, then 3e-2 and 1e-1
    assert {row["at_edge"] for row in summarise(campaign)} == {"yes"}


def test_one_rate_skips_tuning(monkeypatch, tmp_path):
    asked, cells = cells_of("gru", typed=("--lr", "3e-3"))
    campaign, jobs = carried_out(monkeypatch, asked, cells, tmp_path, best_at(3e-3))
    assert len(jobs) == 3
    assert {run.role for run, _ in campaign.runs()} == {REPORT}
    assert summarise(campaign)[0]["at_edge"] == "one rate"


def test_a_failed_run_is_a_named_hole_and_a_diverged_one_counts_as_chance(monkeypatch, tmp_path, two_models):
    def result(run):
        if run.role == REPORT and (run.cell.model, run.seed) == ("gru", 12):
            return Known(FAILED, "was killed by SIGKILL")
        if run.role == REPORT and (run.cell.model, run.seed) == ("lstm", 12):
            return Known(DIVERGED, "", planted_row(0.5, status="diverged", diverged_at=7))
        return best_at(3e-3)(run)

    campaign, _ = carried_out(monkeypatch, *two_models, tmp_path, result)
    rows = {(row["model"], row["seed"]): row for row in rows_of(campaign.runs()) if row["role"] == REPORT}
    assert (rows["gru", 12]["status"], rows["gru", 12]["why"]) == ("failed", "was killed by SIGKILL")
    assert len(rows) == 6
    gru, lstm = summarise(campaign)
    assert (gru["n"], gru["holes"]) == (2, 1)
    assert (lstm["n"], lstm["holes"], lstm["diverged"]) == (3, 0, 1)
    assert lstm["values"] == "0.9 0.5 0.9"


def test_a_rate_whose_run_failed_is_not_chosen_and_without_any_there_is_no_report_run(
    monkeypatch, tmp_path, two_models
):
    def result(run):
        broken = run.role == TUNING and (run.cell.model == "lstm" or run.lr == 3e-3)
        return Known(FAILED, "no") if broken else done(0.6)

    campaign, _ = carried_out(monkeypatch, *two_models, tmp_path, result)
    chosen = campaign.groups[0].chosen
    assert chosen["lstm"] is None
    assert chosen["gru"] not in (None, 3e-3)
    assert {run.cell.model for run, _ in campaign.runs() if run.role == REPORT} == {"gru"}
    assert summarise(campaign)[1]["n"] == 0


def test_the_order_in_which_runs_end_changes_no_table(monkeypatch, tmp_path, two_models):
    results = [
        rows_of(carried_out(monkeypatch, *two_models, tmp_path, best_at(3e-3, lstm=1e-2), reverse)[0].runs())
        for reverse in (False, True)
    ]
    assert results[0] == results[1]


def test_every_run_has_a_name_of_its_own_that_its_rate_and_seed_decide(two_models, monkeypatch, tmp_path):
    campaign, _ = carried_out(monkeypatch, *two_models, tmp_path, best_at(3e-3))
    names = [run.name for run, _ in campaign.runs()]
    assert len(names) == len(set(names))
    again = cells_of("gru", "lstm")
    other, _ = carried_out(monkeypatch, *again, tmp_path / "other", best_at(3e-3))
    assert [run.name for run, _ in other.runs()] == names


@pytest.mark.parametrize("flag", [("--weight_decay", "0.2"), ("--d_model", "32"), ("--max_steps", "21")])
def test_another_flag_is_another_run(two_models, flag):
    _, cells = cells_of("gru", "lstm", typed=flag)
    pairs = zip(two_models[1], cells, strict=True)
    assert all(run_name(mine, 1e-3, 11) != run_name(other, 1e-3, 11) for mine, other in pairs)


def test_the_runs_that_take_longest_begin_first(monkeypatch, tmp_path, two_models):
    asked, cells = two_models
    for cell, seconds in zip(cells, (5.0, 50.0), strict=True):
        monkeypatch.setitem(cell.terms, "run_seconds", seconds)
    _, jobs = carried_out(monkeypatch, asked, cells, tmp_path, best_at(3e-3))
    models = [job.name.split(", ")[1].split(":")[0] for job in jobs]
    assert models == ["lstm"] * 3 + ["gru"] * 3 + ["lstm"] * 3 + ["gru"] * 3
