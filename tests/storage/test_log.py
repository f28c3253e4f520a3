"""The log of a run: its copy gives the same bytes, and what is wrong with one is found and named.

python -m pytest tests/storage/test_log.py
"""

import json
import math
import os

import pytest
import torch

from src.flags.fields import UserError
from src.storage import checkpoint
from src.storage.log import RunLog, difference, lines_of, problem_of
from src.storage.log_copy import packed, unpacked
from src.storage.rundir import RunDir


def step(n: int, **changed) -> dict:
    row = {"step": n, "loss": 3.0 / n, "grad_norm": 0.1 + n, "clipped": n % 2 == 0, "lr": 1e-3}
    return {**row, "trained": 240 + n, "chars": 2**40 + n, "seconds": 1e-9 * n, **changed}


def validation(n: int, **changed) -> dict:
    return {"step": n, "val_loss": 2.5 / n, "val_token_acc": 0.25, **changed}


ROWS = [step(1), step(2, grad_norm=math.inf), validation(2), step(3), step(4, grad_norm=None), validation(4)]


@pytest.fixture
def log(tmp_path):
    found = RunLog(tmp_path / "metrics.jsonl")
    for row in ROWS:
        found.append(row)
    return found


def test_the_copy_in_a_checkpoint_gives_the_lines_byte_for_byte(log, tmp_path):
    content = log.path.read_bytes()
    assert b"".join(lines_of(log.copy())) == content
    payload = {"model": {}, "args": {}, "vocab": [], "log": packed(log.copy())}
    log.append(step(5))  # a later line does not change what was packed
    checkpoint.save(tmp_path / "ckpt.pt", payload)
    assert b"".join(unpacked(checkpoint.load(tmp_path / "ckpt.pt")["log"])) == content


def test_an_empty_log_has_an_empty_copy(tmp_path):
    assert unpacked(packed(RunLog(tmp_path / "metrics.jsonl").copy())) == []


def test_a_log_that_goes_on_has_the_copy_of_one_that_was_never_closed(log, tmp_path):
    """Also where nobody said what it held."""
    whole = RunLog(tmp_path / "whole.jsonl")
    for row in [*ROWS, step(5)]:
        whole.append(row)
    for known in (True, False):
        (tmp_path / "part.jsonl").write_bytes(log.path.read_bytes())
        other = RunLog(tmp_path / "part.jsonl")
        if known:
            other.restore(log.path.read_bytes().splitlines(keepends=True))
        other.append(step(5))
        assert lines_of(other.copy()) == lines_of(whole.copy())


def test_the_log_is_put_on_the_disk_when_asked(log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.sync()
    assert len(synced) == 1


@pytest.mark.parametrize("value", ["x", [1], {"a": 1}])
def test_a_row_of_anything_but_numbers_is_refused_and_not_written(log, value):
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="allowed: numbers"):
        log.append(step(5, loss=value))
    assert log.path.read_bytes() == before


def shortened(stored: dict) -> None:
    stored["groups"][0]["loss"] = stored["groups"][0]["loss"][:-1]


FORGED = {
    "another number": lambda s: s["groups"][0]["loss"].add_(1),
    "a group that is not there": lambda s: s["order"].fill_(7),
    "a short column": shortened,
    "a matrix": lambda s: s["groups"][0].update(loss=torch.zeros(4, 1, dtype=torch.float64)),
    "another dtype": lambda s: s["groups"][0].update(loss=torch.zeros(4)),
    "a list": lambda s: s["groups"][0].update(loss=[1.0]),
    "an infinite loss": lambda s: s["groups"][0]["loss"].fill_(math.inf),
    "fewer rows": lambda s: s.update(rows=3),
    "rows of text": lambda s: s.update(rows="6"),
    "another digest": lambda s: s.update(sha256="0" * 64),
    "no groups": lambda s: s.update(groups=None),
    "a name that is none": lambda s: s["groups"][0].update({"no name\n": s["groups"][0]["loss"]}),
    "one part less": lambda s: s.pop("rows"),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_copy_that_contradicts_itself_is_refused(log, change):
    stored = packed(log.copy())
    change(stored)
    with pytest.raises(ValueError):  # noqa: PT011 each part has a message of its own
        unpacked(stored)


def test_a_difference_names_its_line(log):
    lines = lines_of(log.copy())
    assert difference(log.path, lines) == ""
    log.path.write_bytes(b"".join(lines) + b'{"step": 5, "lo')  # what comes after the checkpoint does not count
    assert difference(log.path, lines) == ""
    log.path.write_bytes(b"".join(lines[:4]))
    assert difference(log.path, lines) == "has lost its line 5 and what followed"
    log.path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert difference(log.path, lines) == "line 3 is not what was logged"
    log.path.unlink()
    assert difference(log.path, lines) == "is gone"
    log.path.mkdir()
    assert "cannot be read" in difference(log.path, lines)


def as_read(rows) -> list[dict]:
    return [json.loads(json.dumps({k: None if v == math.inf else v for k, v in row.items()})) for row in rows]


def test_the_rows_of_a_training_have_no_problem():
    assert problem_of(as_read(ROWS), 4) == ""
    assert problem_of([], 0) == ""


WRONG = {
    "a gap": ([step(1), step(3)], 3, "line 2 is of step 3, but step 2 comes next"),
    "a double": ([step(1), step(1)], 1, "line 2 is of step 1"),
    "a late start": ([step(2)], 2, "line 1 is of step 2"),
    "a short log": ([step(1)], 2, "ends at step 1 of 2"),
    "a long log": ([step(1), step(2)], 1, "ends at step 2 of 1"),
    "a validation of another step": ([step(1), validation(2)], 1, "line 2 is a validation of step 2 after step 1"),
    "a validation twice": ([step(1), validation(1), validation(1)], 1, "line 3 is a validation of step 1"),
    "no loss": ([{"step": 1}], 1, "line 1 is neither"),
    "a loss of text": ([step(1, loss="3")], 1, 'line 1: got loss="3", allowed: a finite number'),
    "a loss of null": ([step(1, loss=None)], 1, "line 1: got loss=null"),
    "an infinite loss": ([step(1, loss=math.inf)], 1, "line 1: got loss=Infinity"),
    "a loss of NaN": ([step(1, loss=math.nan)], 1, "line 1: got loss=NaN"),
    "a loss that is true": ([step(1, loss=True)], 1, "line 1: got loss=true"),
    "a step of a half": ([step(1.5)], 1, "line 1: got step=1.5"),
    "a clipped of 1": ([step(1, clipped=1)], 1, "line 1: got clipped=1, allowed: true or false"),
    "a nested norm": ([step(1, grad_norm=[1])], 1, "line 1: got grad_norm="),
    "an unknown text": ([step(1, other="x")], 1, 'line 1: got other="x"'),
}


@pytest.mark.parametrize(("rows", "steps", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_rows_is_named(rows, steps, reason):
    found = problem_of(rows, steps)
    assert found.startswith(reason), found


def test_a_log_that_another_program_changes_is_noticed(log):
    assert log.problem() == ""
    with open(log.path, "ab") as file:
        file.write(b"\n")
    assert log.problem() == "was changed by another program while the run went on"
    log.path.unlink()
    assert log.problem() == "is gone"
    assert RunLog(log.path).problem() == ""  # it logged nothing, and knows nothing


def test_a_run_directory_closes_its_log(tmp_path):
    run = RunDir.create(tmp_path / "run")
    with run.lock():
        run.append(step(1))
    run.append(step(2))
    assert [row["step"] for row in run.read_log()] == [1, 2]
    run.log.write_bytes(b'{"step": 1}\n???\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        run.read_log()
