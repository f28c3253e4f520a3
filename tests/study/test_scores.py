"""The differences that a study reads from the test items of its trainings, and why there is none.

python -m pytest tests/study/test_scores.py
"""

import numpy as np
import pytest
from planted_metrics import good_metrics

from src.storage.files import seal, write_json
from src.storage.items import items_document
from src.storage.rundir import RunDir
from src.study.claims.contract import Difference, Outcome
from src.study.claims.quality import paired
from src.study.scores import differences

MODELS = ("transformer", "gru")
COUNTS = np.full(40, 5)
ERRORS = {"transformer": np.arange(40) % 2, "gru": np.arange(40) % 3}
DATA = {"digest": "d", "source": "canonical"}


def trained(folder, model, metric="exact_match", digest="ab" * 32, has_items=True, task="copy"):
    """The folder of one training of a study, with the errors of its model."""
    run = RunDir(folder / f"{task}-{model}")
    run.path.mkdir()
    items = items_document("token_acc", "sequence", digest, {metric: (ERRORS[model], COUNTS)}, 60)
    linked = {"test_items": items["sha256"]} if has_items else {}
    write_json(run.items, items)
    write_json(run.metrics, seal({**good_metrics(), **linked}))


def found_by(folder, metric="exact_match", data=DATA, statuses=("done", "done"), task="copy"):
    trainings = {(task, m): Outcome(status, metric=metric, steps=9) for m, status in zip(MODELS, statuses, strict=True)}
    return differences(
        folder, MODELS, trainings, {(task, m): {"data": d} for m, d in zip(MODELS, (DATA, data), strict=True)}
    )


@pytest.mark.parametrize(
    ("task", "metric", "is_share"), [("copy", "exact_match", True), ("tiny_shakespeare", "loss", False)]
)
def test_a_difference_is_that_of_the_errors_in_both_files(tmp_path, task, metric, is_share):
    for model in MODELS:
        trained(tmp_path, model, metric, task=task)
    found = found_by(tmp_path, metric, task=task)
    assert found == {(task, "gru"): paired(ERRORS["gru"], ERRORS["transformer"], COUNTS, is_share)}
    assert found[task, "gru"].value == pytest.approx((ERRORS["gru"] - ERRORS["transformer"]).sum() / 200)


@pytest.mark.parametrize("old", MODELS)
def test_a_run_without_items_is_named(tmp_path, old):
    for model in MODELS:
        trained(tmp_path, model, has_items=model != old)
    assert f"copy-{old}' has no test_items.json, because the run is older" in found_by(tmp_path)["copy", "gru"]


def test_runs_on_other_sequences_are_not_compared(tmp_path):
    trained(tmp_path, "transformer")
    trained(tmp_path, "gru", digest="cd" * 32)
    assert found_by(tmp_path)["copy", "gru"] == "copy-gru and copy-transformer were tested on different sequences"


def test_runs_on_other_training_data_are_not_compared(tmp_path):
    for model in MODELS:
        trained(tmp_path, model)
    said = found_by(tmp_path, data={"digest": "e", "source": "builtin"})["copy", "gru"]
    assert said.startswith("gru and transformer were trained on different data (builtin and canonical)")


def test_a_training_that_did_not_end_has_no_difference(tmp_path):
    for model in MODELS:
        trained(tmp_path, model)
    assert isinstance(found_by(tmp_path)["copy", "gru"], Difference)
    assert found_by(tmp_path, statuses=("done", "diverged")) == {}
    assert found_by(tmp_path, statuses=("missing", "done")) == {}
