"""The errors of each unit of the test set: by hand, and against the score and the interval of the same pass.

python -m pytest tests/utils/test_unit_errors.py
"""

import numpy as np
import pytest
import torch
from small_tasks import Running, make

from dataset.loaders import build_loaders, sequences_digest
from src.flags.run_flags import resolve
from src.models.backbone import build
from src.utils.evaluation import TEXT_BLOCKS, SplitScores, scores_of
from src.utils.metrics import Scored

CPU = torch.device("cpu")
SIZE = {"context_len": 20, "d_model": 16, "n_layer": 1, "test_size": 24, "val_size": 4, "dropout": 0.0}


def test_errors_of_characters_are_counted_per_sequence():
    task, args = make("parity", **SIZE)
    _, loaders, _ = build_loaders(task, args)
    correct = np.array([True, False, True, True, False, False])
    row = np.array([0, 0, 1, 2, 2, 2])
    scored = Scored(row, np.ones(6), correct, -np.ones(6), np.arange(6))
    errors, counts = SplitScores(task, loaders["test"].dataset, scored, {}).by_unit()["token_acc"]
    assert (errors.tolist(), counts.tolist()) == ([1, 0, 2], [2, 1, 3])


@pytest.mark.parametrize("name", ["parity", "needle", "fourier_mix", "dyck"])
def test_errors_add_up_to_the_score_and_units_are_those_of_its_interval(name):
    task, args = make(name, **SIZE, precision="fp32")
    tokenizer, loaders, data = build_loaders(task, args)
    torch.manual_seed(0)
    model = build(Running, len(tokenizer), resolve(type(task), Running, **SIZE), task.table_tokens())
    scores = scores_of(model, loaders["test"], CPU, args, data)
    result, found = scores.result(), scores.by_unit()
    assert list(found) == [task.primary]
    errors, counts = found[task.primary]
    assert 1 - errors.sum() / counts.sum() == pytest.approx(result[task.primary], abs=1e-12)
    basis = result["interval_basis"][task.primary]
    assert (len(errors), counts.sum()) == (basis["units"], basis["count"])


def test_the_units_of_a_text_are_blocks_and_it_has_the_loss_too(tmp_path):
    (tmp_path / "t.txt").write_text("to be, or not to be, that is the question\n" * 400)
    task, args = make("tiny_shakespeare", **{**SIZE, "test_size": 0}, data_path=str(tmp_path / "t.txt"))
    tokenizer, loaders, data = build_loaders(task, args)
    model = build(Running, len(tokenizer), resolve(type(task), Running, **SIZE), 20)
    scores = scores_of(model, loaders["test"], CPU, args, data)
    result, found = scores.result(), scores.by_unit()
    assert list(found) == ["token_acc", "loss"]
    assert len(loaders["test"].dataset) > TEXT_BLOCKS == len(found["loss"][0])
    for metric, (errors, counts) in found.items():
        basis = result["interval_basis"][metric]
        assert (len(errors), counts.sum()) == (basis["units"], basis["count"]) == (basis["units"], result["n_scored"])
        score = 1 - result[metric] if metric == "token_acc" else result[metric]
        assert errors.sum() / counts.sum() == pytest.approx(score, abs=1e-9)


def digest(name, **options) -> str:
    task, args = make(name, **{**SIZE, **options})
    return sequences_digest(task, build_loaders(task, args)[1]["test"].dataset)


def test_a_digest_depends_on_the_test_sequences_and_on_nothing_else():
    same = digest("needle")
    for options in ({"d_model": 32}, {"val_size": 9}, {"train_size": 50}, {"batch_size": 3}):
        assert digest("needle", **options) == same
    for options in ({"seed": 5}, {"test_size": 23}, {"context_len": 21}):
        assert digest("needle", **options) != same


def test_a_digest_of_windows_depends_on_the_text_and_on_the_cuts(tmp_path):
    for name, times in (("a", 100), ("b", 101)):
        (tmp_path / f"{name}.txt").write_text("to be, or not to be, that is the question\n" * times)
    path = str(tmp_path / "a.txt")
    same = digest("tiny_shakespeare", data_path=path)
    assert digest("tiny_shakespeare", data_path=path, batch_size=3, d_model=32) == same
    for options in ({"data_path": str(tmp_path / "b.txt")}, {"context_len": 21}, {"test_size": 9}):
        assert digest("tiny_shakespeare", **{"data_path": path, **options}) != same
