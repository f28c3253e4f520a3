"""What the rows of the suite `core` promise: their number, their lengths, and what their scores are made of.

python -m pytest tests/study/test_core_suite.py
"""

import dataclasses
import itertools

import pytest

from dataset.loaders import named_lengths
from src.setup.plan import plan
from src.study.card.baselines import read_tables
from src.study.card.ranking import AHEAD, compare
from src.study.card.suite import read_suite
from src.study.card.validity import PROBE_LOSSES, probe_of

SUITE = read_suite("core")


def lengths_of(row):
    """(the longest training length, the lengths that --eval_lengths names) of a row."""
    setup, _ = plan([*SUITE.flags, *row.task.words, "--model", "gru"])
    task = setup.task_class.without_data(setup.args)
    return task.longest_length(), named_lengths(task, setup.args.eval_lengths)


def problem(row) -> str:
    """What is wrong with what a row's score is made of, "" if nothing is."""
    longest, named = lengths_of(row)
    if named and min(named) <= longest:
        return f"{row.name}: {min(named)} is not beyond {longest}, so at_mean is no score beyond training"
    if bool(named) != ("at_mean" in row.measure):
        return f"{row.name}: lengths {named}, but the score is made of {row.measure}"
    return ""


@pytest.mark.parametrize("row", SUITE.rows, ids=lambda row: row.name)
def test_a_score_beyond_training_is_made_of_lengths_beyond_training_alone(row):
    assert problem(row) == ""


def test_a_training_length_among_them_would_be_noticed():
    row = next(r for r in SUITE.rows if r.name == "copy")
    flags = tuple("16,32" if word == "32" else word for word in row.task.flags)
    assert flags != row.task.flags
    other = dataclasses.replace(row, task=dataclasses.replace(row.task, flags=flags))
    assert "16 is not beyond 16" in problem(other)
    assert "made of" in problem(dataclasses.replace(row, measure=("value",)))


def test_ten_to_twelve_rows_count_and_the_control_is_shown_only():
    assert 10 <= sum(not row.is_control for row in SUITE.rows) <= 12
    assert [row.name for row in SUITE.rows if row.is_control] == ["z2xz2"]
    assert len(SUITE.layers) == len(set(SUITE.layers)) == 13


@pytest.mark.parametrize("label", SUITE.layers)
def test_each_published_layer_can_be_probed(label):
    """The probe plans, builds and trains the layer as the suite sizes it, in the suite's own kind of batches."""
    probe = probe_of(SUITE, label)
    losses, scores = probe[:PROBE_LOSSES], probe[PROBE_LOSSES:]
    assert len(losses) == PROBE_LOSSES
    assert all(0 < loss < 10 for loss in losses)
    assert all(abs(score) < 1 for score in scores)


def pairs_apart(row, tables) -> list[tuple[str, str]]:
    """(ahead, behind) among the published layers that have a record of a row."""
    scores = {label: table.scores(row) for label, table in tables.items() if row.name in table.rows}
    found = {(a, b): compare(scores[a], scores[b]) for a, b in itertools.permutations(scores, 2)}
    return [pair for pair, against in found.items() if against is not None and against.word == AHEAD]


@pytest.mark.parametrize("row", SUITE.rows, ids=lambda row: row.name)
def test_each_row_puts_two_published_layers_apart_by_more_than_their_interval(row):
    tables = read_tables(SUITE.folder, SUITE)
    if sum(row.name in table.rows for table in tables.values()) < 3:
        pytest.skip("fewer than three layers have a record of this row")
    assert pairs_apart(row, tables), row.name
