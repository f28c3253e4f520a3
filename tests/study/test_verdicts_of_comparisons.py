"""Tables and verdicts of a comparison, from planted scores. The statistics themselves: tests/stats.

python -m pytest tests/study/test_verdicts_of_comparisons.py
"""

import csv
import json

import numpy as np
import pytest
from planted_runs import SMALL, carried_out, cells_of, done, planted_row

from src.storage.items import Items
from src.study.comparison import folder, verdicts
from src.study.comparison.campaign import Known
from src.study.comparison.summary import summarise
from src.study.comparison.tables import MACHINE, columns_of, to_csv
from src.study.engines import DIVERGED, FAILED

SEEDS = ("--seeds", "5")


@pytest.fixture(scope="module")
def three_models():
    return cells_of("gru", "lstm", "template", typed=SEEDS)


@pytest.fixture(autouse=True)
def planted_items(monkeypatch):
    """Test items of every run: 50 sequences, of which `wrong` are wrong."""
    wrong = {}

    def read(path) -> Items:
        rng = np.random.default_rng(len(str(path)))
        errors = (rng.random(50) < wrong.get(path.name, 0.3)).astype(float)
        return Items("token_acc", "sequence", errors, np.ones(50), "digest")

    monkeypatch.setattr(verdicts, "read_items", read)
    return wrong


def scores(**means):
    """Results around a mean per model, a little different for each seed; val scores are best at 3e-3."""

    def result(run):
        value = means.get(run.cell.model, 0.7) + 0.001 * (run.seed % 7)
        return done(value, val=0.9 if run.lr == 3e-3 else 0.6, solved_at=10 if value > 0.95 else None)

    return result


def judged(monkeypatch, planted_items, models, tmp_path, result, wrong=()):
    campaign, _ = carried_out(monkeypatch, *models, tmp_path, result)
    share = dict(wrong)
    planted_items.update({run.name: share.get(run.cell.model, 0.3) for run, _ in campaign.runs()})
    return campaign, verdicts.judge(campaign)


def test_a_planted_difference_is_found_and_the_other_model_is_not_called_different(
    monkeypatch, planted_items, three_models, tmp_path
):
    result = scores(gru=0.7, lstm=0.9, template=0.7)
    wrong = {"gru": 0.5, "lstm": 0.02, "template": 0.5}
    _, document = judged(monkeypatch, planted_items, three_models, tmp_path, result, wrong)
    found = {(p["a"], p["b"]): p for p in document["pairs"]}
    assert found["gru", "lstm"]["verdict"] == "better"
    assert found["gru", "lstm"]["difference"] == pytest.approx(0.2)
    assert found["gru", "lstm"]["separated"]
    assert found["gru", "template"]["verdict"] == "no difference shown"
    assert "within 20 steps" in found["gru", "template"]["words"]
    assert found["lstm", "template"]["verdict"] == "exploratory"
    assert [p["headline"] for p in document["pairs"]] == [True, True, False]


def test_a_model_below_the_first_is_worse_within_the_steps_of_the_runs(
    monkeypatch, planted_items, three_models, tmp_path
):
    wrong = {"gru": 0.02, "lstm": 0.5}
    _, document = judged(monkeypatch, planted_items, three_models, tmp_path, scores(gru=0.9, lstm=0.6), wrong)
    pair = document["pairs"][0]
    assert (pair["verdict"], pair["b"]) == ("worse", "lstm")
    assert "lstm is worse than gru on parity" in pair["words"]
    assert "within 20 steps" in pair["words"]


def test_a_difference_that_other_test_sequences_could_reverse_is_not_shown(
    monkeypatch, planted_items, three_models, tmp_path
):
    _, document = judged(monkeypatch, planted_items, three_models, tmp_path, scores(gru=0.7, lstm=0.75))
    assert document["pairs"][0]["p_adjusted"] <= 0.05
    assert document["pairs"][0]["verdict"] == "no difference shown"


def test_equivalence_is_said_only_where_a_margin_was_stated(monkeypatch, planted_items, tmp_path):
    for typed, word in ((SEEDS, "no difference shown"), ((*SEEDS, "--margin", "0.05"), "equivalent")):
        models = cells_of("gru", "lstm", typed=typed)

        def result(run):
            return done(0.7 + 0.001 * ((run.seed * (3 if run.cell.model == "gru" else 5)) % 7), val=0.9 - run.lr)

        _, document = judged(monkeypatch, planted_items, models, tmp_path / word, result)
        assert document["pairs"][0]["verdict"] == word


def test_three_seeds_of_one_task_get_no_verdict_and_are_told_how_many_are_needed(monkeypatch, planted_items, tmp_path):
    models = cells_of("gru", "lstm")
    _, document = judged(monkeypatch, planted_items, models, tmp_path, scores(gru=0.6, lstm=0.9))
    assert document["pairs"][0]["verdict"] == "no verdict"
    assert "4 needed" in document["pairs"][0]["words"]


def test_several_tasks_are_judged_together_too(monkeypatch, planted_items, tmp_path):
    tasks = ("--task", "parity", "parity --max_len 9", *SMALL[2:4], "--min_len", "2", *SMALL[8:])
    models = cells_of("gru", "lstm", tasks=tasks)
    _, document = judged(monkeypatch, planted_items, models, tmp_path, scores(gru=0.6, lstm=0.9))
    overall = [p for p in document["pairs"] if p["task"] == "all tasks"]
    assert [p["verdict"] for p in overall] == ["better"]
    assert overall[0]["improvement"] == 1.0
    assert {s["model"] for s in document["suite"]} == {"gru", "lstm"}


def test_several_tasks_with_one_seed_have_no_verdict(monkeypatch, planted_items, tmp_path):
    """Once the share of runs that are ahead, which needs two seeds, was formatted as a number."""
    tasks = ("--task", "parity", "parity --max_len 9", *SMALL[2:4], "--min_len", "2", *SMALL[8:])
    models = cells_of("gru", "lstm", typed=("--seeds", "1"), tasks=tasks)
    _, document = judged(monkeypatch, planted_items, models, tmp_path, scores(gru=0.6, lstm=0.9))
    assert {p["verdict"] for p in document["pairs"]} == {"no verdict"}


def test_holes_are_named_and_pairs_use_the_seeds_that_both_have(monkeypatch, planted_items, three_models, tmp_path):
    def result(run):
        if run.role == "report" and run.cell.model == "gru" and run.seed == 13:
            return Known(FAILED, "out of memory")
        return scores(gru=0.7, lstm=0.9)(run)

    campaign, document = judged(monkeypatch, planted_items, three_models, tmp_path, result)
    assert [(h["model"], h["seed"], h["why"]) for h in document["holes"]] == [("gru", 13, "out of memory")]
    assert (document["pairs"][0]["seeds"], document["pairs"][0]["missing"]) == ([11, 12, 14, 15], 1)
    assert summarise(campaign)[0]["holes"] == 1


def test_a_diverged_run_counts_as_chance_in_the_pairs(monkeypatch, planted_items, three_models, tmp_path):
    def result(run):
        if run.role == "report" and run.cell.model == "lstm" and run.seed == 13:
            return Known(DIVERGED, "", planted_row(0.5, status="diverged", diverged_at=3))
        return scores(gru=0.7, lstm=0.9)(run)

    _, document = judged(monkeypatch, planted_items, three_models, tmp_path, result)
    assert 0.5 in document["pairs"][0]["b_values"]
    assert document["pairs"][0]["n"] == 5
    assert document["pairs"][0]["items_low"] is None


def test_a_score_beyond_the_training_length_is_judged_beside_the_first(
    monkeypatch, planted_items, three_models, tmp_path
):
    def result(run):
        beyond = 0.9 if run.cell.model == "lstm" else 0.6
        return done(0.7 + 0.001 * run.seed, val=0.9 - run.lr, at_100=beyond + 0.001 * run.seed, at_200=None)

    _, document = judged(monkeypatch, planted_items, three_models, tmp_path, result)
    measures = {p["measure"]: p for p in document["pairs"] if (p["a"], p["b"]) == ("gru", "lstm")}
    assert measures["at_100"]["verdict"] == "better"
    assert "at length 100" in measures["at_100"]["words"]
    assert measures["value"]["verdict"] == "no difference shown"


def test_tables_say_the_same_in_csv_and_json_lines_and_close_with_the_columns_of_the_machine(
    monkeypatch, planted_items, three_models, tmp_path
):
    campaign, _ = judged(monkeypatch, planted_items, three_models, tmp_path, scores())
    folder.conclude(tmp_path, campaign)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["run"] for row in rows] == [line["run"] for line in lines]
    assert list(rows[0])[-len(MACHINE) :] == list(MACHINE)
    assert float(rows[0]["lr"]) == lines[0]["lr"]
    summary = (tmp_path / "summary.csv").read_text().splitlines()
    assert len(summary) == 1 + len(three_models[1])


def test_a_cell_of_a_table_is_empty_where_nothing_is_known():
    rows = [{"run": "a", "value": None}, {"run": "b", "value": float("nan")}]
    text = to_csv(rows, ["run", "value"]).decode()
    assert text == "run,value\na,\nb,\n"
    assert columns_of([{"at_16": 1.0, "at_mean": 0.5, "at_8": 1.0, "at_8_low": 0.5}])[
        -len(MACHINE) - 12 : -len(MACHINE) - 8
    ] == [
        "at_mean",
        "at_8",
        "at_8_low",
        "at_16",
    ]
