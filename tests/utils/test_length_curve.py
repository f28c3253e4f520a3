"""Other lengths: long sequences in pieces, a lack of memory, the mean over lengths, and what a run says of all this.

python -m pytest tests/utils/test_length_curve.py
"""

import csv
import json

import pytest
import torch
from conftest import TINY
from small_tasks import Parity, make

from dataset.loaders import length_loader
from dataset.tokenizer import CharTokenizer
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build
from src.storage.schema import validate
from src.study import records
from src.utils import evaluation, results
from src.utils.evaluation import teacher_forced

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gru", "mamba", "retnet", "transformer"])
def test_a_long_sequence_read_in_pieces_scores_as_in_one_pass(name, monkeypatch):
    """The tolerance allows float32 sums in another order."""
    model_class = MODELS[name].load()
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "batch_size": 2, "batch_chars": 0, "precision": "fp32"}
    args = resolve(Parity, model_class, max_len=24, val_size=20, test_size=6, **sizes)
    task = Parity(args)
    tokenizer = CharTokenizer.build(task.alphabet)
    torch.manual_seed(0)
    model = build(model_class, len(tokenizer), args, 200)
    loader = length_loader(task, tokenizer, args, 101)
    whole = teacher_forced(model, loader, CPU, args)
    seen, prefill = [], model.prefill
    monkeypatch.setattr(model, "prefill", lambda x, state: seen.append(x.shape[1]) or prefill(x, state))
    monkeypatch.setattr(evaluation, "PIECE", 16)
    monkeypatch.setattr(evaluation, "MOST_TOKENS", 32)
    pieces = teacher_forced(model, loader, CPU, args)
    assert set(seen) == {16, 102 % 16}
    assert (pieces.row == whole.row).all()
    assert (pieces.column == whole.column).all()
    assert pieces.nll == pytest.approx(whole.nll, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "flags", "grows"),
    [("gru", {}, False), ("mamba", {}, False), ("transformer", {}, True), ("transformer", {"window": 8}, False)],
)
def test_a_model_whose_state_grows_has_no_score_beyond_what_is_read_whole(name, flags, grows):
    model_class = MODELS[name].load()
    args = resolve(Parity, model_class, d_model=16, n_layer=1, n_head=2, pos="none", **flags)
    model = build(model_class, 10, args, 64)
    assert results.why_undefined(model, 2**15) == ""
    found = results.why_undefined(model, 2**15 + 1)
    assert found == ("more than 32,768 tokens, and the decoding state grows with the length" if grows else "")


def test_a_length_for_which_there_is_no_memory_is_undefined(main, monkeypatch, tmp_path):
    plain = results.evaluate

    def tight(model, loader, *rest, **named):
        if loader.dataset.longest > 60:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
        return plain(model, loader, *rest, **named)

    monkeypatch.setattr(results, "evaluate", tight)
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    words = ["--task", "parity", "--model", "gru", *TINY, "--eval_lengths", "50,80", "--eval_size", "20"]
    assert main(*words, "--out_dir", "run")[0] == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert [row["undefined"] for row in metrics["length_curve"]] == [None, None, "out of memory on cpu"]
    assert "no score at length 80: out of memory on cpu" in metrics["notes"]
    assert metrics["length_mean"] == {"lengths": [50, 80], "value": None, "scaled": None, "ci": None}


def test_other_errors_at_another_length_are_in_the_row_and_in_the_notes(main, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("the size of tensor a must match")

    plain = results.evaluate
    monkeypatch.setattr(
        results,
        "evaluate",
        lambda m, loader, *r, **n: (plain if len(loader.dataset) == 30 else broken)(m, loader, *r, **n),
    )
    words = [
        "--task",
        "parity",
        "--model",
        "gru",
        *TINY,
        "--val_size",
        "30",
        "--eval_lengths",
        "50",
        "--eval_size",
        "20",
    ]
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
    assert main(*words, "--out_dir", "run")[0] == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    why = "failed: RuntimeError: the size of tensor a must match"
    assert metrics["length_curve"][-1]["undefined"] == why
    assert f"no score at length 50: {why}" in metrics["notes"]


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """A run with learned positions and lengths beyond them: (its folder, stdout and stderr in one)."""
    import contextlib
    import io

    import benchmark

    folder, text = tmp_path_factory.mktemp("beyond") / "run", io.StringIO()
    words = [word for word in TINY if word != "--quiet"]
    more = "--eval_lengths 20-60:20 --lr 0.01 --lr_tried 0.001,0.01 --preset grazzi-parity-mini --labels final".split()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        patch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])
        assert (
            benchmark.main(["--model", "transformer", "--pos", "learned", *words, *more, "--out_dir", str(folder)]) == 0
        )
    return folder, text.getvalue()


def test_lengths_beyond_a_learned_table_are_named_before_training_and_in_the_result(beyond):
    folder, text = beyond
    note = "no score at length 60: beyond the learned position table of 50 tokens; --pos rope"
    lines = text.splitlines()
    said = [i for i, line in enumerate(lines) if note in line]
    first_step = next(i for i, line in enumerate(lines) if line.startswith("step "))
    assert said[0] < first_step < said[-1]
    metrics = json.loads((folder / "metrics.json").read_text())
    validate(metrics)
    assert any(note in found for found in metrics["notes"])
    assert any("0.01 is the largest of those tried" in found for found in metrics["notes"])
    assert all(f"note: {found}" in lines for found in metrics["notes"])


def test_the_result_of_a_paper_preset_holds_what_differs_and_what_was_changed(beyond):
    folder, text = beyond
    preset = json.loads((folder / "metrics.json").read_text())["preset"]
    assert preset["name"] == "grazzi-parity-mini"
    assert preset["differences"]
    assert preset["changed"]["labels"] == "final"
    assert preset["changed"]["eval_lengths"] == ["20-60:20"]
    assert "max_len" not in preset["changed"]
    assert all(words in text for words in (preset["published"], preset["compare"], *preset["differences"]))


def test_a_record_has_the_notes_of_its_runs_and_the_mean_over_lengths(beyond, tmp_path):
    folder, _ = beyond
    records.collect([folder], tmp_path)
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert "0.01 is the largest of those tried" in row["notes"]
    assert "no score at length 60" in row["notes"]
    assert (row["at_20"] != "undefined", row["at_60"], row["at_mean"]) == (True, "undefined", "undefined")


def test_eval_only_gives_the_mean_over_other_lengths(beyond, main):
    folder, _ = beyond
    code, out, err = main("--eval_only", "--out_dir", folder, "--eval_lengths", "30-34:2", "--eval_size", "10")
    assert code == 0, err
    best = json.loads(out)["best"]
    assert best["length_mean"]["lengths"] == [30, 32, 34]
    rows = [row for row in best["length_curve"] if row["length"] != 40]
    assert [row["count"] for row in rows] == [10, 10, 10]
    assert best["length_mean"]["value"] == pytest.approx(sum(row["value"] for row in rows) / 3)


def test_the_mean_over_lengths_is_that_of_the_lengths_that_were_named():
    task, args = make("parity", max_len=24, eval_lengths=("24", "48"))
    rows = [
        {"length": n, "value": value, "ci": [value - 0.1, value + 0.1]}
        for n, value in ((12, 0.9), (24, 0.8), (48, 0.6))
    ]
    found = results.length_mean(task, args, rows, {"uniform": {"primary": 0.5}}, 1.0)
    assert found["lengths"] == [24, 48]
    assert (found["value"], found["scaled"]) == pytest.approx((0.7, 0.4))
    assert found["ci"] == pytest.approx([0.7 - 0.1 / 2**0.5, 0.7 + 0.1 / 2**0.5])
    assert results.length_mean(task, make("parity", max_len=24)[1], rows, {}, 1.0) is None
