"""test_items.json: what is written is what is read, and a file that does not belong to the run is refused.

python -m pytest tests/storage/test_items.py
"""

import json
import re

import numpy as np
import pytest
from planted_metrics import good_metrics

from src.flags.fields import UserError
from src.storage.files import seal, write_json
from src.storage.items import items_document, read_items
from src.storage.rundir import RunDir

WRONG, COUNTS = np.array([0.0, 2.0, 1.0]), np.array([4, 4, 3])
NATS = np.array([0.123456789123, 2.0, 1e-12])


def planted(folder, errors=None, reason=None, **changed) -> RunDir:
    """A finished run with these items. changed: of its metrics.json."""
    errors = {"hit_rate": (WRONG, COUNTS), "loss": (NATS, COUNTS)} if errors is None else errors
    document = items_document("hit_rate", "sequence", "ab" * 32, errors, 60, reason)
    run = RunDir(folder)
    folder.mkdir()
    write_json(run.items, document)
    write_json(run.metrics, seal({**good_metrics(), "test_items": document["sha256"], **changed}))
    return run


def test_items_are_read_as_they_were_written(tmp_path):
    run = planted(tmp_path / "run")
    for where in (run, run.path, str(run.path)):
        items = read_items(where)
        assert (items.metric, items.unit, items.digest) == ("hit_rate", "sequence", "ab" * 32)
        assert (items.errors.tolist(), items.counts.tolist()) == ([0, 2, 1], [4, 4, 3])
    loss = read_items(run, "loss")
    assert loss.errors == pytest.approx(NATS, rel=1e-8)
    assert loss.counts.tolist() == [4, 4, 3]


def test_numbers_are_short(tmp_path):
    text = planted(tmp_path / "run").items.read_text()
    assert '"errors": [0, 2, 1]' in text
    assert '"errors": [0.123456789, 2, 1e-12]' in text
    rng = np.random.default_rng(0)
    long = {"term_acc": (rng.random(2_000), np.ones(2_000))}  # of 17 digits each
    document = items_document("term_acc", "sequence", "ab" * 32, long, 60)
    write_json(tmp_path / "long.json", document)
    assert (tmp_path / "long.json").stat().st_size < 40_000
    kept = document["metrics"]["term_acc"]["errors"]
    assert sum(kept) == pytest.approx(long["term_acc"][0].sum(), rel=1e-9)


def edited(run):
    document = json.loads(run.items.read_text())
    document["metrics"]["hit_rate"]["errors"][1] = 0
    run.items.write_text(json.dumps(document))


def of_another_run(run):
    write_json(run.items, items_document("hit_rate", "sequence", "ab" * 32, {"hit_rate": (WRONG[::-1], COUNTS)}, 60))


def of_another_version(run):
    document = seal({**json.loads(run.items.read_text()), "schema": 9})
    write_json(run.items, document)
    metrics = json.loads(run.metrics.read_text())
    write_json(run.metrics, seal({**metrics, "test_items": document["sha256"]}))


def older(run):
    metrics = json.loads(run.metrics.read_text())
    del metrics["test_items"]
    write_json(run.metrics, seal(metrics))


WITHOUT = {
    "edited": (edited, r"test_items.json' was edited or damaged: its content does not match its sha256"),
    "another run's": (of_another_run, r"test_items.json' belongs to another run; restore it"),
    "another version's": (of_another_version, r"test_items.json': got schema 9, allowed: 1"),
    "older": (older, r"run' has no test_items.json, because the run is older than that file; train it again"),
    "missing": (lambda run: run.items.unlink(), r"test_items.json': no such file"),
    "not finished": (lambda run: run.metrics.unlink(), r"metrics.json': no such file"),
}


@pytest.mark.parametrize(("change", "pattern"), WITHOUT.values(), ids=WITHOUT)
def test_a_run_without_items_of_its_own_is_one_line_that_names_it(tmp_path, change, pattern):
    run = planted(tmp_path / "run")
    change(run)
    with pytest.raises(UserError) as error:
        read_items(run)
    assert re.search(pattern, str(error.value))
    assert str(run.path) in str(error.value)


def test_a_run_that_diverged_says_so_in_place_of_items(tmp_path):
    run = planted(tmp_path / "run", errors={}, reason="the run diverged at step 7")
    with pytest.raises(UserError, match=r"test_items.json' has no items: the run diverged at step 7"):
        read_items(run)


def test_a_metric_that_the_file_does_not_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="got metric 'mae', allowed: hit_rate, loss"):
        read_items(planted(tmp_path / "run"), "mae")
